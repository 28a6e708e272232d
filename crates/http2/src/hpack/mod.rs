//! HPACK (RFC 7541): how HTTP/2 writes header fields in few bytes.
//!
//! # The idea
//!
//! Both ends of a connection keep the same two tables of fields. A field that is in one of them is sent as its number, and that is nearly
//! all of them: a client whose calls are many and small sends the same dozen fields each time.
//!
//! ```text
//!   header block     82 86 84 be      58 08 "no-cache"
//!                     |  |  |  |       |       |
//!   number            2  6  4 62      24     a value in letters, or in Huffman code; this field becomes number 62,
//!                     |  |  |  |       |     what was 62 becomes 63, and the oldest go once it is too much
//!             1 ..= 61: static table   |
//!                 62 ..: dynamic table, the newest first, per direction and connection
//! ```
//!
//! # What is here
//!
//! - [`Decoder`] reads the blocks of a peer. It has the dynamic table, so there is one per connection, and it must see every block, in
//!   order. A block that it refuses leaves the table half changed: the connection is over.
//! - [`encode`] writes fields without any state: numbers of the static table, and letters. It never makes the peer's table change unless
//!   told to, and never uses Huffman code.
//!
//! # Costs
//!
//! A field by its number costs one lookup and two clones of [`Bytes`], no copy and no allocation (but the first clone of a string that
//! came in letters, which allocates its counter). A field in letters costs a copy and an allocation for each string. Huffman code is
//! decoded one letter per lookup in a table of 512 bytes; the letters that are not in it, which are rare in header fields, take a short
//! search.
//!
//! # Invariants
//!
//! - **Bounded**: the dynamic table never counts more bytes than the decoder was made with, each entry counting its name, its value and
//!   [`FIELD_OVERHEAD_BYTES`]. Each string is an allocation of its own, so that a field which somebody keeps does not keep others alive.
//! - **Strict**: what the RFC calls a decoding error is refused, and no input panics.
//!
//! # What it cannot do
//!
//! - It does not say that a field came as "never indexed" (6.2.3): only whoever passes fields on needs that.
//! - It does not look at names and values: which letters HTTP allows is the caller's business.
//! - The announced table size is fixed when the decoder is made, see [`Decoder::new`].
//! - The RFC lets a peer write at most two table size updates at a time. Here any number of them is read, as they do no harm.

mod decoder;
pub mod encode;
mod huffman;
mod integer;
mod table;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Listed};

use bytes::Bytes;

/// What a field counts beyond its name and its value, in a dynamic table (RFC 7541, 4.1) and in a list of fields (RFC 9113, 6.5.2).
pub const FIELD_OVERHEAD_BYTES: usize = 32;

/// A header field. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name as it was sent: lower-case if the peer follows HTTP/2, which is not checked here. Pseudo-header fields begin with `:`.
    pub name: Bytes,
    /// The value as it was sent.
    pub value: Bytes,
}

impl Field {
    /// What the field counts in a table and in a list: name, value and [`FIELD_OVERHEAD_BYTES`].
    #[inline]
    pub fn counted_bytes(&self) -> usize {
        self.name.len() + self.value.len() + FIELD_OVERHEAD_BYTES
    }
}

/// Why a header block cannot be decoded. Each is a connection error of type COMPRESSION_ERROR (RFC 9113, 4.3): the tables of the two
/// ends differ from here on, and the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field.
    #[error("header block ends in the middle of a field")]
    CutOff,
    /// The number of a field or a name is 0, or beyond both tables.
    #[error("header block refers to entry {0}, which is in neither table")]
    NoSuchEntry(u32),
    /// An integer is over `u32::MAX`, or written in more bytes than one of that size needs.
    #[error("header block has an integer that does not fit 32 bits")]
    IntegerTooLarge,
    /// A string is no Huffman code: it contains EOS, or its padding is longer than 7 bits or not all ones.
    #[error("header block has a string that is not valid huffman code")]
    BadHuffmanCode,
    /// A table size update asks for more than was announced.
    #[error(
        "header block sets the table size to {asked_bytes} bytes, at most {allowed_bytes} were announced"
    )]
    TableTooLarge {
        /// What the peer wants.
        asked_bytes: usize,
        /// What the decoder was made with.
        allowed_bytes: usize,
    },
    /// A table size update comes after a field, instead of at the beginning of the block.
    #[error("header block sets the table size after its first field")]
    TableSizeTooLate,
}
