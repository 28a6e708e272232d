//! gRPC calls over a bare HTTP/2 connection, without the layers of a comfortable client.
//!
//! One request is one HEADERS and one DATA frame; the answer is read to its trailers and its status checked, as gRPC demands. There is
//! no retry, no deadline and no balancing here; [`super::load`] does what of that it needs.

use crate::address::Address;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

/// A gRPC message begins with a flag byte (not compressed) and its length in four.
const PREFIX_BYTES: usize = 5;

/// What one stream and one connection may have under way towards us: enough for large values on many streams.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Why a call gave no answer, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server refused this call; the connection is fine.
    Refused(String),
    /// The connection is of no use any more: open another.
    Broken(String),
}

/// One HTTP/2 connection. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
}

/// A method of a server, ready to be called.
#[derive(Clone)]
pub struct MethodUri {
    uri: Uri,
    headers: HeaderMap,
}

impl MethodUri {
    /// `path` is `/package.Service/Method`.
    pub fn new(address: &Address, path: &str) -> Result<MethodUri, String> {
        let uri = format!("{}{path}", address.url())
            .parse::<Uri>()
            .map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        Ok(MethodUri { uri, headers })
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

impl Connection {
    /// Connects and greets. The connection is driven by a task of its own until all clones are gone.
    pub async fn open(address: &Address) -> Result<Connection, String> {
        let stream = TcpStream::connect(address.to_string())
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Its end is seen by every call under way.
            let _ = connection.await;
        });
        Ok(Connection { requests })
    }

    /// Calls `method` with one framed message and gives the answer's message.
    pub async fn call(&mut self, method: &MethodUri, message: Bytes) -> Result<Bytes, CallError> {
        futures_util::future::poll_fn(|context| self.requests.poll_ready(context))
            .await
            .map_err(of_h2)?;
        let (answer, mut body) = self
            .requests
            .send_request(method.request(), false)
            .map_err(of_h2)?;
        body.send_data(message, true).map_err(of_h2)?;
        read_answer(answer).await
    }
}

/// A message as gRPC puts it on the wire.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a benchmark's request is far below 4 GiB"));
    message
        .encode(&mut frame)
        .expect("the buffer has room for the whole message");
    frame.freeze()
}

async fn read_answer(answer: ResponseFuture) -> Result<Bytes, CallError> {
    let answer = answer.await.map_err(of_h2)?;
    if !answer.status().is_success() {
        return Err(CallError::Refused(format!(
            "HTTP status {}: is this an etcd v3 server?",
            answer.status()
        )));
    }
    // An answer without a body may carry its status in its only headers.
    check_status(answer.headers())?;
    let mut body = answer.into_body();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(of_h2)?;
        // Gives the window back; fails only when the stream is closed, which reading on tells better.
        let _ = body.flow_control().release_capacity(piece.len());
        if first.is_empty() {
            first = piece;
        } else {
            rest.extend_from_slice(&piece);
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(of_h2)? {
        check_status(&trailers)?;
    }
    if rest.is_empty() {
        return unframe(first);
    }
    let mut whole = BytesMut::from(first);
    whole.unsplit(rest);
    unframe(whole.freeze())
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != tonic::Code::Ok => {
            Err(CallError::Refused(match status.message() {
                "" => status.code().description().to_string(),
                message => message.to_string(),
            }))
        }
        _ => Ok(()),
    }
}

fn unframe(body: Bytes) -> Result<Bytes, CallError> {
    let refuse = |text: &str| Err(CallError::Refused(text.to_string()));
    let Some(prefix) = body.first_chunk::<PREFIX_BYTES>() else {
        return refuse("the answer ended before its message");
    };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return refuse("the answer is compressed, which was not asked for");
    }
    if u32::from_be_bytes(length) as usize != body.len() - PREFIX_BYTES {
        return refuse("the answer has not the length it announced");
    }
    Ok(body.slice(PREFIX_BYTES..))
}

fn of_h2(error: h2::Error) -> CallError {
    // A reset of one stream leaves the others alone.
    if error.is_reset() && !error.is_go_away() {
        return CallError::Refused(format!("the server reset the stream: {error}"));
    }
    CallError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_can_be_unframed() {
        let message = "hello".to_string();
        let framed = frame(&message);
        assert_eq!(unframe(framed).unwrap(), message.encode_to_vec());
    }

    #[test]
    fn a_body_cut_at_any_byte_is_refused() {
        let framed = frame(&"hello".to_string());
        for length in 0..framed.len() {
            assert!(
                matches!(unframe(framed.slice(..length)), Err(CallError::Refused(_))),
                "cut at {length}"
            );
        }
        assert!(unframe(Bytes::from_static(&[1, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn a_status_other_than_ok_is_an_error() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_status(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(check_status(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert(
            "grpc-message",
            HeaderValue::from_static("etcdserver: no%20leader"),
        );
        assert_eq!(
            check_status(&headers),
            Err(CallError::Refused("etcdserver: no leader".into()))
        );
    }
}
