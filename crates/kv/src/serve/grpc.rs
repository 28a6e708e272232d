//! gRPC over HTTP/2: how one message is framed in a body, and what heads and trailers say.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use crate::services::{
    errors::message_too_large,
    freshness::{STALENESS, shown},
    kv::Reply,
    validate::MAX_MESSAGE_BYTES,
};
use bytes::{BufMut, Bytes, BytesMut};
use eaves_http2::{Head, hpack::encode};
use tonic::{Status, codegen::http::HeaderMap, metadata::MetadataValue};

/// A message begins with a flag byte (compressed or not) and its length in four.
pub(super) const PREFIX_BYTES: usize = 5;

/// The head of an answer: `:status: 200` by its number in HPACK's static table, `content-type: application/grpc` with its name by number.
pub(super) const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";

/// The trailers of an answer that is one: `grpc-status: 0`.
pub(super) const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Whether a request is gRPC's.
pub(super) fn is_grpc(head: &Head) -> bool {
    let content_type = head.get("content-type");
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// The one message of a request, as it comes in.
#[derive(Default)]
pub(super) struct Message {
    /// The first piece, which is nearly always all of it.
    only: Bytes,
    /// All pieces, once there are more.
    whole: BytesMut,
}

impl Message {
    /// Takes in a piece of the body. Fails as soon as it is clear that the message will be too large.
    pub fn receive(&mut self, piece: Bytes) -> Result<(), Status> {
        if self.bytes().is_empty() {
            self.only = piece;
        } else {
            if self.whole.is_empty() {
                self.whole
                    .extend_from_slice(&std::mem::take(&mut self.only));
            }
            self.whole.extend_from_slice(&piece);
        }
        match self.announced_bytes() {
            Some(length) if length > MAX_MESSAGE_BYTES => Err(message_too_large(MAX_MESSAGE_BYTES)),
            Some(length) if self.bytes().len() > PREFIX_BYTES + length => Err(not_one_message()),
            _ => Ok(()),
        }
    }

    /// The message without its frame, once the body has ended. The encoding is what the request's head names.
    pub fn end(self, encoding: Option<&Bytes>) -> Result<Bytes, Status> {
        let announced = self.announced_bytes();
        let body = match self.whole.is_empty() {
            true => self.only,
            false => self.whole.freeze(),
        };
        let Some(announced) = announced else {
            return Err(Status::internal("Missing request message."));
        };
        if body[0] != 0 {
            return Err(compressed(encoding));
        }
        if body.len() - PREFIX_BYTES != announced {
            return Err(not_one_message());
        }
        Ok(body.slice(PREFIX_BYTES..))
    }

    /// What the frame says of its length, once it is here.
    fn announced_bytes(&self) -> Option<usize> {
        let [_, length @ ..] = self.bytes().first_chunk::<PREFIX_BYTES>()?;
        Some(u32::from_be_bytes(*length) as usize)
    }

    fn bytes(&self) -> &[u8] {
        match self.whole.is_empty() {
            true => &self.only,
            false => &self.whole,
        }
    }
}

/// The messages of a body that passes by, by their lengths.
#[derive(Default)]
pub(super) struct Lengths {
    /// What is there of a message's prefix, while it is not whole.
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// What is to come of the message after it.
    missing_bytes: usize,
}

impl Lengths {
    /// Follows a piece of the body. Says how long the longest message is that is announced in it, if there is one.
    pub fn follow(&mut self, mut piece: &[u8]) -> Option<usize> {
        let mut longest = None;
        while !piece.is_empty() {
            if self.missing_bytes > 0 {
                let bytes = self.missing_bytes.min(piece.len());
                self.missing_bytes -= bytes;
                piece = &piece[bytes..];
                continue;
            }
            self.prefix[self.prefix_bytes] = piece[0];
            self.prefix_bytes += 1;
            piece = &piece[1..];
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.prefix_bytes = 0;
                self.missing_bytes = u32::from_be_bytes(length) as usize;
                longest = longest.max(Some(self.missing_bytes));
            }
        }
        longest
    }

    /// No message has begun that has not ended.
    pub fn is_between(&self) -> bool {
        self.prefix_bytes == 0 && self.missing_bytes == 0
    }
}

fn not_one_message() -> Status {
    Status::internal("eaves: the request's body is not the one message that it announces")
}

fn compressed(encoding: Option<&Bytes>) -> Status {
    match encoding.map(|name| shown(name)) {
        Some(name) if name != "identity" => {
            let text = format!("eaves: the message is compressed by {name:?}: send it as it is");
            let mut status = Status::unimplemented(text);
            let accepted = MetadataValue::from_static("identity");
            let metadata = status.metadata_mut();
            metadata.insert("grpc-accept-encoding", accepted);
            status
        }
        _ => Status::internal("eaves: the message is compressed, and no grpc-encoding says how"),
    }
}

/// The head of an answer that says more than usual.
pub(super) fn head(reply: &Reply) -> BytesMut {
    let mut block = BytesMut::from(HEAD);
    if let Some(staleness) = reply.staleness {
        // Rounded up: the truth is never later.
        let milliseconds = staleness.as_nanos().div_ceil(1_000_000).to_string();
        encode::put_literal(&mut block, STALENESS.as_bytes(), milliseconds.as_bytes());
    }
    block
}

/// Writes an answer's message, framed.
pub(super) fn put_message(out: &mut BytesMut, length: u32, reply: &Reply) {
    out.put_u8(0);
    out.put_u32(length);
    reply.message.encode(out);
}

/// The head of an answer that is nothing but a status.
pub(super) fn status_head(status: Status) -> BytesMut {
    let response = status.into_http::<()>();
    let mut block = BytesMut::new();
    encode::put_indexed(&mut block, 8);
    put_headers(&mut block, response.headers());
    block
}

/// Fields for a block.
pub(super) fn put_headers(block: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        encode::put_literal(block, name.as_str().as_bytes(), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_http2::hpack::Decoder;
    use tonic::Code;

    fn fields(block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let listed = Decoder::new(4096).decode(block, usize::MAX, &mut fields);
        let _ = listed.unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let fields = fields.iter();
        fields
            .map(|field| (text(&field.name), text(&field.value)))
            .collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn blocks_written_by_hand_are_what_they_should_be() {
        let content_type = pair("content-type", "application/grpc");
        assert_eq!(fields(HEAD), [pair(":status", "200"), content_type]);
        assert_eq!(fields(TRAILERS), [pair("grpc-status", "0")]);
    }

    #[test]
    fn a_status_is_all_of_its_answer() {
        let block = status_head(Status::new(Code::OutOfRange, "ein \u{fc}"));
        let fields = fields(&block);
        assert_eq!(fields[0], pair(":status", "200"));
        assert!(fields.contains(&pair("grpc-status", "11")), "{fields:?}");
        assert!(
            fields.contains(&pair("grpc-message", "ein%20%C3%BC")),
            "{fields:?}"
        );
    }

    fn whole(pieces: &[&'static [u8]]) -> Result<Bytes, Status> {
        let mut message = Message::default();
        for piece in pieces {
            message.receive(Bytes::from_static(piece))?;
        }
        message.end(None)
    }

    #[test]
    fn a_message_is_the_same_in_any_pieces() {
        for cut in 0..8 {
            let (a, b) = b"\0\0\0\0\x03abc".split_at(cut);
            assert_eq!(whole(&[a, b]).unwrap(), "abc", "cut at {cut}");
        }
    }

    #[test]
    fn lengths_are_the_same_in_any_pieces() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\x01\x02";
        assert_eq!(Lengths::default().follow(body), Some(258));
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            let mut lengths = Lengths::default();
            let found = [lengths.follow(a), lengths.follow(b)];
            let third = if cut < body.len() { 1 } else { 0 };
            assert_eq!(found[third], Some(258), "cut at {cut}");
            let first = (cut >= 5).then_some(3);
            assert!(third == 0 || found[0] == first, "cut at {cut}: {found:?}");
            assert!(!lengths.is_between());
            assert_eq!(lengths.follow(&[7; 257]), None);
            assert!(!lengths.is_between(), "one is missing");
            assert_eq!(lengths.follow(b"7"), None);
            assert!(lengths.is_between());
        }
    }

    #[test]
    fn what_is_no_message_is_refused_by_what_is_wrong() {
        let code = |pieces| whole(pieces).unwrap_err().code();
        assert_eq!(code(&[]), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0"]), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x03ab"]), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x03abcd"]), Code::Internal);
        assert_eq!(code(&[b"\x01\0\0\0\0"]), Code::Internal);
        // Before the message itself is here.
        assert_eq!(code(&[b"\0\xff", b"\0\0\0"]), Code::ResourceExhausted);
        let mut message = Message::default();
        message
            .receive(Bytes::from_static(b"\x01\0\0\0\0"))
            .unwrap();
        let gzip = Bytes::from_static(b"gzip");
        let status = message.end(Some(&gzip)).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
}
