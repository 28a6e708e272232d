//! Reads the header blocks of one direction of a connection.

use super::table::Table;
use super::{Field, HpackError, huffman, integer};
use bytes::Bytes;

/// What is kept of the buffer for Huffman code from one block to the next. More is given back: a peer that once sent a large block
/// should not cost more for as long as it is connected.
const SCRATCH_KEPT_BYTES: usize = 4096;

/// Decodes the header blocks of one direction of a connection.
pub struct Decoder {
    table: Table,
    /// What a table size update may ask for.
    max_table_bytes: usize,
    /// Where Huffman code is decoded before the string gets memory of its own, of just its size.
    scratch: Vec<u8>,
}

/// Whether a list of fields is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Listed {
    /// All fields of the block were appended.
    All,
    /// The block has more fields than were allowed, and some of them are missing. The decoder can go on with the next block.
    TooLarge,
}

impl Decoder {
    /// A decoder with an empty table.
    ///
    /// `max_table_bytes` is the SETTINGS_HEADER_TABLE_SIZE that this side has announced; 4096 is the default of the protocol. The table
    /// may be this large from the start. A peer uses 4096 until it has acknowledged another setting, so that less than 4096 may refuse
    /// what was sent before; more is safe, as a peer says when it begins to use it.
    pub fn new(max_table_bytes: usize) -> Decoder {
        Decoder {
            table: Table::new(max_table_bytes),
            max_table_bytes,
            scratch: Vec::new(),
        }
    }

    /// Appends the fields of a whole header block to `fields`.
    ///
    /// Sizes count as in RFC 9113, 6.5.2: name, value and 32 bytes for each field. The first field with which they exceed
    /// `max_list_bytes` is not appended, nor are those after it, and the answer is [`Listed::TooLarge`]. They still work on the table,
    /// as otherwise the tables of the two sides would differ. A string in Huffman code has at most 1.6 times the bytes that it has in
    /// the block, so that the block bounds the memory of any string.
    ///
    /// # Errors
    ///
    /// Each is a COMPRESSION_ERROR of the connection. Some fields may have been appended, and the decoder cannot be used any more.
    pub fn decode(
        &mut self,
        block: &[u8],
        max_list_bytes: usize,
        fields: &mut Vec<Field>,
    ) -> Result<Listed, HpackError> {
        let mut list = List {
            fields,
            free_bytes: max_list_bytes,
            listed: Listed::All,
        };
        let mut rest = block;
        self.take_table_sizes(&mut rest)?;
        while let Some(&first) = rest.first() {
            match Form::of(first) {
                Form::Indexed => {
                    let index = integer::take::<7>(&mut rest)?;
                    list.append(self.entry(index)?);
                }
                Form::IntoTable => {
                    let field = self.take_literal::<6>(&mut rest)?;
                    list.append(&field);
                    self.table.insert(field);
                }
                Form::Literal => {
                    let field = self.take_literal::<4>(&mut rest)?;
                    list.append_owned(field);
                }
                Form::TableSize => return Err(HpackError::TableSizeTooLate),
            }
        }
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Vec::new();
        }
        Ok(list.listed)
    }

    /// Obeys the table size updates at the beginning of a block (RFC 7541, 4.2 and 6.3).
    #[inline]
    fn take_table_sizes(&mut self, rest: &mut &[u8]) -> Result<(), HpackError> {
        while rest
            .first()
            .is_some_and(|&first| Form::of(first) == Form::TableSize)
        {
            let asked_bytes = integer::take::<5>(rest)? as usize;
            if asked_bytes > self.max_table_bytes {
                let allowed_bytes = self.max_table_bytes;
                return Err(HpackError::TableTooLarge {
                    asked_bytes,
                    allowed_bytes,
                });
            }
            self.table.set_max_bytes(asked_bytes);
        }
        Ok(())
    }

    /// A field with a value in letters, and a name by number or in letters. The number has `PREFIX_BITS`.
    fn take_literal<const PREFIX_BITS: u32>(
        &mut self,
        rest: &mut &[u8],
    ) -> Result<Field, HpackError> {
        let name = match integer::take::<PREFIX_BITS>(rest)? {
            0 => self.take_string(rest)?,
            // A clone, as the entry may have to go when this field comes into the table.
            index => self.entry(index)?.name.clone(),
        };
        Ok(Field {
            name,
            value: self.take_string(rest)?,
        })
    }

    /// A string in letters or in Huffman code (RFC 7541, 5.2), in memory of its own.
    fn take_string(&mut self, rest: &mut &[u8]) -> Result<Bytes, HpackError> {
        let in_huffman_code = rest.first().is_some_and(|&first| first & 0b1000_0000 != 0);
        let len = integer::take::<7>(rest)? as usize;
        let (string, after) = rest.split_at_checked(len).ok_or(HpackError::CutOff)?;
        *rest = after;
        if !in_huffman_code {
            return Ok(Bytes::copy_from_slice(string));
        }
        self.scratch.clear();
        huffman::decode(string, &mut self.scratch)?;
        Ok(Bytes::copy_from_slice(&self.scratch))
    }

    #[inline]
    fn entry(&self, index: u32) -> Result<&Field, HpackError> {
        self.table.get(index).ok_or(HpackError::NoSuchEntry(index))
    }

    /// For tests that look inside.
    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// What the buffer for Huffman code keeps.
    #[cfg(test)]
    pub(super) fn scratch_bytes(&self) -> usize {
        self.scratch.capacity()
    }
}

/// What the highest bits of a field's first byte say (RFC 7541, 6).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 6.1: a field by its number.
    Indexed,
    /// 6.2.1: a literal that becomes an entry.
    IntoTable,
    /// 6.2.2 and 6.2.3: a literal that does not, and one that nobody must ever make one.
    Literal,
    /// 6.3: no field, but a table size update.
    TableSize,
}

impl Form {
    #[inline]
    fn of(first: u8) -> Form {
        match first {
            0b1000_0000.. => Form::Indexed,
            0b0100_0000.. => Form::IntoTable,
            0b0010_0000.. => Form::TableSize,
            _ => Form::Literal,
        }
    }
}

/// The caller's list, and what may still come into it.
struct List<'a> {
    fields: &'a mut Vec<Field>,
    free_bytes: usize,
    listed: Listed,
}

impl List<'_> {
    #[inline]
    fn append(&mut self, field: &Field) {
        if self.has_room_for(field) {
            self.fields.push(field.clone());
        }
    }

    #[inline]
    fn append_owned(&mut self, field: Field) {
        if self.has_room_for(&field) {
            self.fields.push(field);
        }
    }

    /// Counts the field. After the first one that is too large, none has room.
    #[inline]
    fn has_room_for(&mut self, field: &Field) -> bool {
        match self.free_bytes.checked_sub(field.counted_bytes()) {
            Some(free_bytes) => {
                self.free_bytes = free_bytes;
                true
            }
            None => {
                self.free_bytes = 0;
                self.listed = Listed::TooLarge;
                false
            }
        }
    }
}
