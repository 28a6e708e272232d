//! Calls that tonic's services answer: all but KV. A request is put together as they expect it, and their response taken apart.

use super::{grpc::put_headers, inbox::Inbox};
use bytes::{Bytes, BytesMut};
use eaves_http2::{Head, hpack::encode};
use futures_util::future::BoxFuture;
use hyper::body::{Body as _, Frame};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version},
};

/// A call on its way through a service.
pub(super) struct Relay {
    state: State,
    /// The client has not taken what it was sent: nothing more is asked of the service until then.
    pub is_blocked: bool,
}

enum State {
    Calling(BoxFuture<'static, Response<Body>>),
    Sending(Body),
}

/// What a service wants to be sent.
pub(super) enum Step {
    /// A head, as a block.
    Head(BytesMut),
    /// A head that is all there is.
    OnlyHead(BytesMut),
    Data(Bytes),
    /// The end, with trailers.
    Trailers(Bytes),
    /// The end, without.
    End,
    /// The service gave up in the middle.
    Broken,
}

impl Relay {
    pub fn new(response: BoxFuture<'static, Response<Body>>) -> Relay {
        Relay {
            state: State::Calling(response),
            is_blocked: false,
        }
    }

    /// What comes next. Not to be asked again after an end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        match &mut self.state {
            State::Calling(response) => {
                let (head, body) = ready!(response.as_mut().poll(context)).into_parts();
                let mut block = BytesMut::new();
                encode::put_literal(&mut block, b":status", head.status.as_str().as_bytes());
                put_headers(&mut block, &head.headers);
                if let Some(length) = body.size_hint().exact() {
                    encode::put_literal(
                        &mut block,
                        b"content-length",
                        length.to_string().as_bytes(),
                    );
                }
                if body.is_end_stream() {
                    return Poll::Ready(Step::OnlyHead(block));
                }
                self.state = State::Sending(body);
                Poll::Ready(Step::Head(block))
            }
            State::Sending(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(match frame.map(|frame| frame.map(Frame::into_data)) {
                    None => Step::End,
                    Some(Err(_)) => Step::Broken,
                    Some(Ok(Ok(data))) => Step::Data(data),
                    Some(Ok(Err(other))) => match other.into_trailers() {
                        Err(_) => Step::Broken,
                        Ok(trailers) => {
                            let mut block = BytesMut::new();
                            put_headers(&mut block, &trailers);
                            Step::Trailers(block.freeze())
                        }
                    },
                })
            }
        }
    }
}

/// A request as tonic expects it; `None` if its head cannot be one.
pub(super) fn request(head: Head, body: RelayBody) -> Option<Request<Body>> {
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = Method::from_bytes(&head.method).ok()?;
    *request.uri_mut() = Uri::try_from(&head.path[..]).ok()?;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for field in head.fields {
        let name = HeaderName::from_bytes(&field.name).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(field.value).ok()?);
    }
    Some(request)
}

/// A request's body, filled by the driver and emptied by the service.
pub(super) fn body(stream: u32, inbox: Arc<Inbox>) -> (BodySender, RelayBody) {
    let shared = Arc::new(Mutex::default());
    let sender = BodySender {
        shared: shared.clone(),
    };
    let body = RelayBody {
        shared,
        stream,
        inbox,
    };
    (sender, body)
}

#[derive(Default)]
struct Shared {
    /// In one piece: a client chooses how small its frames are, and each would cost more than it holds. As it grows, its room may be
    /// twice its length.
    waiting: BytesMut,
    end: Option<Result<(), Status>>,
    service: Option<Waker>,
}

/// The driver's end. Dropped before the end was sent, it breaks the body off.
pub(super) struct BodySender {
    shared: Arc<Mutex<Shared>>,
}

impl BodySender {
    /// Nothing comes after an end.
    pub fn send(&self, piece: Bytes) {
        if !piece.is_empty() {
            self.change(|shared| {
                if shared.end.is_none() {
                    shared.waiting.extend_from_slice(&piece);
                }
            });
        }
    }

    /// No more comes; an error says why before its time, and takes the place of what waits. Only the first end counts.
    pub fn end(&self, end: Result<(), Status>) {
        self.change(|shared| {
            if shared.end.is_none() && end.is_err() {
                shared.waiting.clear();
            }
            shared.end.get_or_insert(end);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Shared)) {
        let mut shared = lock(&self.shared);
        change(&mut shared);
        if let Some(service) = shared.service.take() {
            service.wake();
        }
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        self.end(Err(Status::cancelled("the client is gone")));
    }
}

/// The service's end.
pub(super) struct RelayBody {
    shared: Arc<Mutex<Shared>>,
    stream: u32,
    inbox: Arc<Inbox>,
}

impl hyper::body::Body for RelayBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut shared = lock(&self.shared);
        let piece = std::mem::take(&mut shared.waiting).freeze();
        if !piece.is_empty() {
            drop(shared);
            self.inbox.take(self.stream, piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut shared.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(error) => {
                let error = std::mem::replace(error, Ok(()));
                Poll::Ready(error.err().map(Err))
            }
            None => {
                shared.service = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.waiting.is_empty() && matches!(shared.end, Some(Ok(())))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("no service panics with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_byte_wait_as_one() {
        const PIECES: usize = 10_000;
        let inbox = Arc::new(Inbox::default());
        let (sender, mut body) = body(1, inbox.clone());
        for _ in 0..PIECES {
            sender.send(Bytes::from_static(b"x"));
        }
        sender.end(Ok(()));
        let mut context = Context::from_waker(Waker::noop());
        let mut next = || Pin::new(&mut body).poll_frame(&mut context);
        let Poll::Ready(Some(Ok(frame))) = next() else {
            panic!("there is a body");
        };
        assert_eq!(frame.into_data().unwrap().len(), PIECES);
        assert!(matches!(next(), Poll::Ready(None)));
        let mut taken = Vec::new();
        inbox.move_to(&mut Default::default(), &mut taken);
        assert_eq!(taken, [(1, PIECES)], "all of it is room again");
    }
}
