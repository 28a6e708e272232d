//! Writes header fields without any state: numbers of the static table, and letters that are never in Huffman code.
//!
//! The functions ending in `into_table` make the peer's dynamic table grow, and who uses them has to know what is in it: they are for
//! clients whose fields are always the same. Servers do without.
//!
//! Nothing here looks at names and values: HTTP/2 wants names in lower-case.

use super::integer;
use bytes::BytesMut;

/// A field by its number (6.1).
const INDEXED: u8 = 0b1000_0000;
/// A literal that becomes the newest entry of the table (6.2.1).
const LITERAL_INTO_TABLE: u8 = 0b0100_0000;
/// A literal that leaves the table alone (6.2.2).
const LITERAL: u8 = 0b0000_0000;

/// Appends a field that is in a table (RFC 7541, 6.1). The static one has 1 to 61, and 62 is the newest entry of the dynamic one.
///
/// # Panics
///
/// If `index` is 0, which is no entry.
#[inline]
pub fn put_indexed(out: &mut BytesMut, index: usize) {
    assert_entry(index);
    integer::put(out, INDEXED, 7, index);
}

/// Appends a field with a name in letters, and leaves the peer's table alone (RFC 7541, 6.2.2).
#[inline]
pub fn put_literal(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    integer::put(out, LITERAL, 4, 0);
    put_string(out, name);
    put_string(out, value);
}

/// Appends a field whose name is that of an entry, and leaves the peer's table alone (RFC 7541, 6.2.2).
///
/// # Panics
///
/// If `index` is 0, which is no entry.
#[inline]
pub fn put_literal_named(out: &mut BytesMut, index: usize, value: &[u8]) {
    assert_entry(index);
    integer::put(out, LITERAL, 4, index);
    put_string(out, value);
}

/// Appends a field with a name in letters, which becomes the newest entry of the peer's table, number 62 (RFC 7541, 6.2.1).
#[inline]
pub fn put_literal_into_table(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    integer::put(out, LITERAL_INTO_TABLE, 6, 0);
    put_string(out, name);
    put_string(out, value);
}

/// Appends a field whose name is that of an entry, and which becomes the newest entry of the peer's table, number 62 (RFC 7541, 6.2.1).
///
/// # Panics
///
/// If `index` is 0, which is no entry.
#[inline]
pub fn put_literal_named_into_table(out: &mut BytesMut, index: usize, value: &[u8]) {
    assert_entry(index);
    integer::put(out, LITERAL_INTO_TABLE, 6, index);
    put_string(out, value);
}

/// In a literal, 0 would mean that a name in letters follows: the peer would read something else than what was meant.
#[inline]
fn assert_entry(index: usize) {
    assert!(index > 0, "entries of the header tables are counted from 1");
}

/// Appends a string, its highest bit saying that it is not Huffman code (RFC 7541, 5.2).
#[inline]
fn put_string(out: &mut BytesMut, string: &[u8]) {
    integer::put(out, 0, 7, string.len());
    out.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out);
        out.to_vec()
    }

    /// RFC 7541, C.2.1, C.2.2, C.2.4 and C.3.1.
    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(
            written(|out| put_literal_into_table(out, b"custom-key", b"custom-header")),
            b"\x40\x0acustom-key\x0dcustom-header"
        );
        assert_eq!(
            written(|out| put_literal_named(out, 4, b"/sample/path")),
            b"\x04\x0c/sample/path"
        );
        assert_eq!(written(|out| put_indexed(out, 2)), b"\x82");
        assert_eq!(
            written(|out| put_literal_named_into_table(out, 1, b"www.example.com")),
            b"\x41\x0fwww.example.com"
        );
    }

    #[test]
    fn a_name_in_letters_without_the_table() {
        assert_eq!(
            written(|out| put_literal(out, b"te", b"")),
            b"\x00\x02te\x00"
        );
    }

    #[test]
    fn numbers_and_lengths_beyond_the_prefix() {
        assert_eq!(
            written(|out| put_literal_named(out, 31, b"x")),
            b"\x0f\x10\x01x"
        );
        assert_eq!(
            written(|out| put_literal_named_into_table(out, 63, b"x")),
            b"\x7f\x00\x01x"
        );
        let long = [b'x'; 200];
        assert_eq!(
            written(|out| put_literal(out, b"", &long))[..4],
            [0, 0, 0x7f, 200 - 127]
        );
    }

    #[test]
    #[should_panic(expected = "counted from 1")]
    fn entry_0_is_refused() {
        put_literal_named(&mut BytesMut::new(), 0, b"x");
    }
}
