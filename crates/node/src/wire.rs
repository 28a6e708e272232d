//! Packets: how peers cut the byte stream between them.
//!
//! ```text
//! +--------+------+-----+----------+----------------+----------------------+
//! | len u32| kind | 0 x3| head u32 | head (protobuf)| tail (raw bytes)     |
//! +--------+------+-----+----------+----------------+----------------------+
//!    bytes of head and tail together, little endian
//! ```
//!
//! The head says what this is; the tail carries bytes that are passed on as they are: log frames, commands, snapshot pieces. Frames
//! have checksums of their own, verified by whoever stores them; TCP's covers the rest.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use std::io;
use std::io::IoSlice;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No packet is longer; a longer one is a peer that speaks something else.
pub(crate) const MAX_PACKET_BYTES: usize = 16 << 20;

/// No packet is longer before both sides know each other: a stranger gets no memory.
pub(crate) const MAX_GREETING_BYTES: usize = 4 << 10;

/// Fixed bytes before head and tail.
const HEADER_BYTES: usize = 12;

/// How much is read at once when nothing says that more is coming.
const READ_BYTES: usize = 64 << 10;

/// Pieces handed to one vectored write; Linux takes at most 1024.
const MAX_SLICES: usize = 256;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Welcome = 2,
    Reject = 3,
    Request = 4,
    Response = 5,
    Append = 6,
    Appended = 7,
    Register = 8,
    Session = 9,
    FeedFrom = 10,
    FeedStart = 11,
    Entries = 12,
    Position = 13,
    SnapshotOffer = 14,
    SnapshotChunk = 15,
    SnapshotEnd = 16,
    SnapshotAsk = 17,
    SnapshotSums = 18,
    SnapshotWant = 19,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Kind> {
        use Kind::*;
        [
            Hello,
            Welcome,
            Reject,
            Request,
            Response,
            Append,
            Appended,
            Register,
            Session,
            FeedFrom,
            FeedStart,
            Entries,
            Position,
            SnapshotOffer,
            SnapshotChunk,
            SnapshotEnd,
            SnapshotAsk,
            SnapshotSums,
            SnapshotWant,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// One packet as received.
#[derive(Debug)]
pub(crate) struct Packet {
    pub kind: Kind,
    head: Bytes,
    pub tail: Bytes,
}

impl Packet {
    /// The head as it came.
    #[cfg(any(test, fuzzing))]
    pub fn head_bytes(&self) -> &[u8] {
        &self.head
    }

    /// The head as the message it must be; an error names the peer's mistake.
    pub fn head<M: Message + Default>(&self) -> io::Result<M> {
        M::decode(self.head.clone())
            .map_err(|error| garbage(format!("malformed {:?} packet: {error}", self.kind)))
    }

    /// The head, if the packet is of `kind`.
    pub fn expect<M: Message + Default>(&self, kind: Kind) -> io::Result<M> {
        match self.kind == kind {
            true => self.head(),
            false => Err(garbage(format!(
                "a {:?} packet where {kind:?} belongs",
                self.kind
            ))),
        }
    }
}

/// Reads packets from a stream of bytes.
pub(crate) struct PacketReader {
    source: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    max_bytes: usize,
}

impl PacketReader {
    pub fn new(source: Box<dyn AsyncRead + Send + Unpin>) -> PacketReader {
        PacketReader {
            source,
            buffer: BytesMut::with_capacity(MAX_GREETING_BYTES),
            max_bytes: MAX_GREETING_BYTES,
        }
    }

    /// From now on the peer is known, and may send packets of any size.
    pub fn greeted(&mut self) {
        self.max_bytes = MAX_PACKET_BYTES;
    }

    /// The next packet; `None` when the peer closed between two packets. Safe to cancel.
    pub async fn next(&mut self) -> io::Result<Option<Packet>> {
        loop {
            if let Some(packet) = split_packet(&mut self.buffer, self.max_bytes)? {
                return Ok(Some(packet));
            }
            self.buffer.reserve(READ_BYTES.min(self.max_bytes));
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "connection closed inside a packet",
                    )),
                };
            }
        }
    }

    /// The next packet where the end of the stream is an error.
    pub async fn expect(&mut self) -> io::Result<Packet> {
        self.next().await?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "connection closed by the peer",
            )
        })
    }
}

/// Takes the next whole packet off the front of a stream's buffer; `None` when more bytes are needed.
pub(crate) fn split_packet(buffer: &mut BytesMut, max_bytes: usize) -> io::Result<Option<Packet>> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut header = &buffer[..HEADER_BYTES];
    let length = header.get_u32_le() as usize;
    let kind = header.get_u8();
    let zeros = header.get_uint_le(3);
    let head_length = header.get_u32_le() as usize;
    let kind =
        Kind::from_u8(kind).filter(|_| zeros == 0 && head_length <= length && length <= max_bytes);
    let kind = kind.ok_or_else(|| {
        garbage("bytes that are no packet: the peer speaks another protocol".into())
    })?;
    if buffer.len() < HEADER_BYTES + length {
        // One allocation for the whole packet instead of one for each doubling.
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let mut head = buffer.split_to(length).freeze();
    let tail = head.split_off(head_length);
    Ok(Some(Packet { kind, head, tail }))
}

/// Appends a whole packet without tail pieces to `out`, for those who gather several before they write.
pub(crate) fn put_packet(out: &mut BytesMut, kind: Kind, head: &impl Message, tail: &[u8]) {
    put_header(out, kind, head, tail.len());
    out.extend_from_slice(tail);
}

fn put_header(out: &mut BytesMut, kind: Kind, head: &impl Message, tail_length: usize) {
    let head_length = head.encoded_len();
    let length = head_length + tail_length;
    assert!(
        length <= MAX_PACKET_BYTES,
        "a packet of ours exceeds the limit every peer enforces"
    );
    out.reserve(HEADER_BYTES + head_length);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&(head_length as u32).to_le_bytes());
    head.encode(out)
        .expect("a growing buffer takes any message");
}

/// Writes one packet whose tail is `pieces`, as they are, with vectored writes.
pub(crate) async fn write_packet<W: AsyncWrite + Unpin + ?Sized>(
    writer: &mut W,
    kind: Kind,
    head: &impl Message,
    pieces: &[Bytes],
) -> io::Result<()> {
    let mut start = BytesMut::new();
    put_header(&mut start, kind, head, pieces.iter().map(Bytes::len).sum());
    write_pieces(writer, &start, pieces).await
}

async fn write_pieces<W: AsyncWrite + Unpin + ?Sized>(
    writer: &mut W,
    start: &[u8],
    pieces: &[Bytes],
) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(MAX_SLICES.min(pieces.len() + 1));
    let mut waiting = std::iter::once(start).chain(pieces.iter().map(|piece| &piece[..]));
    loop {
        slices.extend(waiting.by_ref().take(MAX_SLICES).map(IoSlice::new));
        if slices.is_empty() {
            return Ok(());
        }
        write_all_vectored(writer, &mut slices).await?;
        slices.clear();
    }
}

async fn write_all_vectored<W: AsyncWrite + Unpin + ?Sized>(
    writer: &mut W,
    mut slices: &mut [IoSlice<'_>],
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match writer.write_vectored(slices).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(())
}

/// The peer broke the protocol: drop the connection and say so.
pub(crate) fn garbage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogIdBytes;

    #[tokio::test]
    async fn a_packet_cut_at_every_byte_arrives_whole_or_not_at_all() {
        let mut whole = BytesMut::new();
        put_packet(
            &mut whole,
            Kind::Entries,
            &LogIdBytes { term: 3, index: 9 },
            b"tail",
        );
        for cut in 0..=whole.len() {
            let mut reader =
                PacketReader::new(Box::new(std::io::Cursor::new(whole[..cut].to_vec())));
            match reader.next().await {
                Ok(Some(packet)) => {
                    assert_eq!(cut, whole.len());
                    assert_eq!(
                        packet.expect::<LogIdBytes>(Kind::Entries).unwrap(),
                        LogIdBytes { term: 3, index: 9 }
                    );
                    assert_eq!(&packet.tail[..], b"tail");
                }
                Ok(None) => assert_eq!(cut, 0),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
            }
        }
    }

    #[tokio::test]
    async fn garbage_and_giants_are_rejected() {
        let giant = [
            &u32::MAX.to_le_bytes()[..],
            &[Kind::Entries as u8, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), giant, vec![0xff; 64]] {
            let mut reader = PacketReader::new(Box::new(std::io::Cursor::new(bytes)));
            assert_eq!(
                reader.next().await.unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }

    #[tokio::test]
    async fn many_pieces_are_written_in_order() {
        let pieces: Vec<Bytes> = (0..1000u32)
            .map(|i| Bytes::from(i.to_le_bytes().to_vec()))
            .collect();
        let mut out = Vec::new();
        write_packet(&mut out, Kind::Entries, &LogIdBytes::default(), &pieces)
            .await
            .unwrap();
        let mut reader = PacketReader::new(Box::new(std::io::Cursor::new(out)));
        reader.greeted();
        assert_eq!(reader.next().await.unwrap().unwrap().tail, pieces.concat());
    }
}
