//! What the chunks of a snapshot must be, so that each can be proven wherever it is found: on the wire, or in a file of an earlier try.

use super::{MAX_CHUNK_BYTES, MAX_CHUNKS};
use crate::position::Applied;
use crate::wire::garbage;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;

/// Bytes of one chunk's sums on the wire: length u32, crc32c u32, hash u64, little endian.
const SUMS_BYTES: usize = 16;

/// One chunk: where it lies in the file, and what it must be.
///
/// The CRC finds damage, the hash tells two contents apart: together they are as good as the content, but for an adversary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Bytes before it.
    pub offset: u64,
    pub bytes: u32,
    crc32c: u32,
    hash: u64,
}

impl Chunk {
    /// Room for its content.
    ///
    /// Made by a task, not by the thread that reads the chunk: memory that many threads of a pool allocate and one frees is kept by each
    /// of them, and was seen to add up to 100 MiB.
    pub fn room(&self) -> Vec<u8> {
        vec![0; self.bytes as usize]
    }

    /// The digest of a snapshot whose digest up to this chunk is `before`.
    pub fn add_to_digest(&self, before: u64) -> u64 {
        scramble(before ^ scramble(self.hash.wrapping_add(u64::from(self.crc32c))))
    }

    /// Whether `bytes` are this chunk.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes as usize
            && crc32c::crc32c(bytes) == self.crc32c
            && hash(bytes) == self.hash
    }
}

/// The position a snapshot stands at, and its chunks in order: all of them, or those that are known so far.
///
/// Invariants: each chunk begins where the one before ends; there are at most [`MAX_CHUNKS`] of at most [`MAX_CHUNK_BYTES`] each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub at: Applied,
    chunks: Vec<Chunk>,
    digest: u64,
}

impl Manifest {
    pub fn new(at: Applied) -> Manifest {
        Manifest {
            digest: hash(&at.to_position().0),
            at,
            chunks: Vec::new(),
        }
    }

    /// What a chunk of these bytes is, if it follows.
    pub fn following(&self, bytes: &[u8]) -> io::Result<Chunk> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.checked(length, crc32c::crc32c(bytes), hash(bytes))
    }

    fn checked(&self, bytes: u32, crc32c: u32, hash: u64) -> io::Result<Chunk> {
        if bytes == 0 || bytes > MAX_CHUNK_BYTES || self.chunks.len() as u64 >= MAX_CHUNKS {
            return Err(garbage(format!(
                "a snapshot with a chunk of {bytes} bytes, or more than {MAX_CHUNKS} chunks"
            )));
        }
        Ok(Chunk {
            offset: self.total_bytes(),
            bytes,
            crc32c,
            hash,
        })
    }

    /// Adds the chunk that follows.
    pub fn push(&mut self, chunk: Chunk) {
        assert_eq!(chunk.offset, self.total_bytes(), "chunks have no gaps");
        self.digest = chunk.add_to_digest(self.digest);
        self.chunks.push(chunk);
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub fn total_bytes(&self) -> u64 {
        self.chunks
            .last()
            .map_or(0, |last| last.offset + u64::from(last.bytes))
    }

    /// One number for position and content: the same on two nodes whose snapshots are the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Adds the chunks whose sums a peer sent.
    pub fn add_sums(&mut self, mut sums: Bytes) -> io::Result<()> {
        if !sums.len().is_multiple_of(SUMS_BYTES) {
            return Err(garbage("half of a chunk's sums".into()));
        }
        while !sums.is_empty() {
            self.push(self.checked(sums.get_u32_le(), sums.get_u32_le(), sums.get_u64_le())?);
        }
        Ok(())
    }
}

/// The sums of chunks as they travel.
pub(crate) fn to_sums(chunks: &[Chunk]) -> Bytes {
    let mut sums = BytesMut::with_capacity(chunks.len() * SUMS_BYTES);
    for chunk in chunks {
        sums.put_u32_le(chunk.bytes);
        sums.put_u32_le(chunk.crc32c);
        sums.put_u64_le(chunk.hash);
    }
    sums.freeze()
}

/// 64 bits over a chunk, eight bytes at a time; each step is a bijection of the value before. Both ends must compute the same for ever.
fn hash(bytes: &[u8]) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut words = bytes.chunks_exact(8);
    let mut hash = scramble(bytes.len() as u64);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(STEP);
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    scramble(hash ^ u64::from_le_bytes(rest))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(chunks: &[&[u8]]) -> Manifest {
        let mut manifest = Manifest::new(Applied::default());
        for chunk in chunks {
            manifest.push(manifest.following(chunk).unwrap());
        }
        manifest
    }

    #[test]
    fn every_bit_of_every_chunk_counts() {
        let content: Vec<u8> = (0..100u8).collect();
        let one = manifest(&[b"begin", &content]);
        for bit in 0..8 * content.len() {
            let mut other = content.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!one.chunks()[1].is(&other));
            assert_ne!(hash(&content), hash(&other));
            assert_ne!(one.digest(), manifest(&[b"begin", &other]).digest());
        }
        assert!(one.chunks()[1].is(&content));
        assert_ne!(one.digest(), manifest(&[&content, b"begin"]).digest());
    }

    #[test]
    fn the_sums_travel_in_pieces_and_half_a_piece_is_refused() {
        let one = manifest(&[b"a", b"bc", b"def"]);
        let mut other = Manifest::new(Applied::default());
        let mut digest = other.digest();
        let pieces: Vec<&[Chunk]> = one.chunks().chunks(2).collect();
        assert_eq!(pieces.len(), 2);
        for piece in &pieces {
            digest = piece
                .iter()
                .fold(digest, |digest, chunk| chunk.add_to_digest(digest));
            other.add_sums(to_sums(piece)).unwrap();
            assert_eq!(other.digest(), digest, "told with each piece");
        }
        assert_eq!((&one, one.digest()), (&other, other.digest()));
        assert_eq!(one.total_bytes(), 6);
        let sums = to_sums(pieces[0]);
        for cut in (1..SUMS_BYTES).chain(SUMS_BYTES + 1..2 * SUMS_BYTES) {
            assert!(other.add_sums(sums.slice(..cut)).is_err());
        }
        let giant = [&u32::MAX.to_le_bytes()[..], &[0; 12]].concat();
        assert!(other.add_sums(giant.into()).is_err());
    }

    #[test]
    fn values_never_change() {
        assert_eq!(hash(b""), 0xa706_dd2f_4d19_7e6f);
        assert_eq!(hash(b"eaves"), 0x1520_7f19_b243_74b5);
        assert_eq!(hash(b"a little longer than a word"), 0x77b8_090a_07e2_ca3b);
    }
}
