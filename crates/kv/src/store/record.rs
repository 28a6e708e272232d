//! One version of one key: in memory, on disk, and as the API shows it.
//!
//! On disk a record is a row of the revision table (see `table.rs`), keyed by its revision:
//!
//! ```text
//! row key    main u64 BE | sub u32 BE                                    12 bytes, so that byte order is revision order
//! row value  crc32c u32 LE | create i64 LE | version i64 LE | lease i64 LE | key length u32 LE | key | value
//! ```
//!
//! The checksum covers the row key and all that follows it. A row that was damaged, or that a damaged tree gives out for another
//! revision, is refused with [`Damaged`] and never shown to anyone.

use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use bytes::{Bytes, BytesMut};

/// Identifies one change: the store's revision after the command that made it, and the change's place within that command.
///
/// All changes of one command share `main`; the order of `(main, sub)` is the order in which everything happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store's revision after the command.
    pub main: i64,
    /// 0 for the command's first change, and so on.
    pub sub: u32,
}

impl Revision {
    /// The first revision that a change of the command that leads to `main` can have.
    pub fn first_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// The row key. Revisions of records are positive, so big-endian bytes sort as the numbers do.
    pub fn to_row_key(self) -> RowKey {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// Reads a row key.
    pub fn from_row_key(key: &RowKey) -> Self {
        let (main, sub) = key.split_at(8);
        Self {
            main: i64::from_be_bytes(main.try_into().expect("eight bytes")),
            sub: u32::from_be_bytes(sub.try_into().expect("four bytes")),
        }
    }
}

/// A revision as bytes that sort like revisions.
pub type RowKey = [u8; 12];

/// Bytes before the key in a row value.
const HEADER_BYTES: usize = 32;

/// What an entry of the overlay costs beyond key and value, about.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// One version of one key: what a put stored, or that a delete happened.
///
/// Invariant: `version` is 0 exactly for a delete, and then create revision, lease and value are empty too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The value; empty after a delete.
    pub value: Bytes,
    /// Main revision of the put that began the key's present life.
    pub create_revision: i64,
    /// Puts in the key's present life, this one included; 0 for a delete.
    pub version: i64,
    /// The lease, or 0.
    pub lease: i64,
}

/// The part of a row that the key index needs, with the key still in the row's own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// A row whose checksum or lengths are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read revision {}.{}: its checksum does not match, the record is damaged", .0.main, .0.sub)]
pub struct Damaged(pub Revision);

impl Record {
    /// A delete of `key`.
    pub fn tombstone(revision: Revision, key: Bytes) -> Self {
        Self {
            revision,
            key,
            value: Bytes::new(),
            create_revision: 0,
            version: 0,
            lease: 0,
        }
    }

    /// Whether this is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// About how much memory the record holds.
    pub fn memory_bytes(&self) -> usize {
        self.key.len() + self.value.len() + RECORD_OVERHEAD_BYTES
    }

    /// As the API shows it; a delete has key and modification revision only.
    pub fn to_key_value(&self) -> KeyValue {
        KeyValue {
            key: self.key.clone(),
            create_revision: self.create_revision,
            mod_revision: self.revision.main,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }

    /// As a watcher sees it, without the value before it.
    pub fn to_event(&self) -> Event {
        let kind = if self.is_tombstone() {
            EventType::Delete
        } else {
            EventType::Put
        };
        Event {
            r#type: kind as i32,
            kv: Some(self.to_key_value()),
            prev_kv: None,
        }
    }

    /// Writes the row value into `row`, which is cleared first.
    pub fn encode_row(&self, row: &mut Vec<u8>) {
        let key_len = u32::try_from(self.key.len()).expect("a key is shorter than 4 GiB");
        row.clear();
        row.reserve(HEADER_BYTES + self.key.len() + self.value.len());
        row.extend_from_slice(&[0; 4]);
        row.extend_from_slice(&self.create_revision.to_le_bytes());
        row.extend_from_slice(&self.version.to_le_bytes());
        row.extend_from_slice(&self.lease.to_le_bytes());
        row.extend_from_slice(&key_len.to_le_bytes());
        row.extend_from_slice(&self.key);
        row.extend_from_slice(&self.value);
        let crc = row_checksum(self.revision, &row[4..]);
        row[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a row with one copy: key and value are slices of one buffer.
    pub fn decode_row(revision: Revision, row: &[u8]) -> Result<Record, Damaged> {
        Ok(RecordHeader::decode_row(revision, row)?.to_record(revision))
    }
}

impl<'a> RecordHeader<'a> {
    /// Checks a row and reads it without copying.
    pub fn decode_row(revision: Revision, row: &'a [u8]) -> Result<Self, Damaged> {
        let damaged = Damaged(revision);
        if row.len() < HEADER_BYTES {
            return Err(damaged);
        }
        let (header, content) = row.split_at(HEADER_BYTES);
        let crc = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        if crc != row_checksum(revision, &row[4..]) {
            return Err(damaged);
        }
        let number =
            |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let key_len = u32::from_le_bytes(header[28..32].try_into().expect("four bytes")) as usize;
        let (key, value) = content.split_at_checked(key_len).ok_or(damaged)?;
        Ok(Self {
            create_revision: number(4),
            version: number(12),
            lease: number(20),
            key,
            value,
        })
    }

    /// Whether the row is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// Bytes of the row's value.
    pub fn row_len(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.len()
    }

    /// The record, copied out of the row: key and value are slices of one buffer.
    pub fn to_record(self, revision: Revision) -> Record {
        let mut bytes = BytesMut::with_capacity(self.key.len() + self.value.len());
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.value);
        let mut key = bytes.freeze();
        let value = key.split_off(self.key.len());
        Record {
            revision,
            key,
            value,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

fn row_checksum(revision: Revision, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&revision.to_row_key()), content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record {
            revision: Revision { main: 300, sub: 7 },
            key: "key".into(),
            value: "some value".into(),
            create_revision: 200,
            version: 3,
            lease: -1,
        }
    }

    #[test]
    fn rows_survive_the_disk() {
        let mut row = Vec::new();
        for record in [
            sample(),
            Record::tombstone(Revision { main: 2, sub: 0 }, "k".into()),
        ] {
            record.encode_row(&mut row);
            assert_eq!(Record::decode_row(record.revision, &row), Ok(record));
        }
    }

    #[test]
    fn row_keys_sort_as_revisions() {
        let revisions = [(1, 9), (2, 0), (2, 255), (2, 256), (255, 1), (256, 0)];
        let keys: Vec<RowKey> = revisions
            .map(|(main, sub)| Revision { main, sub }.to_row_key())
            .to_vec();
        assert!(keys.is_sorted());
        for (key, (main, sub)) in keys.iter().zip(revisions) {
            assert_eq!(Revision::from_row_key(key), Revision { main, sub });
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let record = sample();
        let mut row = Vec::new();
        record.encode_row(&mut row);
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Record::decode_row(record.revision, &flipped),
                Err(Damaged(record.revision))
            );
        }
        for len in 0..row.len() {
            assert!(Record::decode_row(record.revision, &row[..len]).is_err());
        }
        let other = Revision { main: 300, sub: 8 };
        assert_eq!(Record::decode_row(other, &row), Err(Damaged(other)));
    }
}
