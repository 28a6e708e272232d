//! The two tables of fields (RFC 7541, 2.3): the static one of Appendix A, and the dynamic one, which drops its oldest entries.

use super::Field;
use bytes::Bytes;
use std::collections::VecDeque;

/// The fields that everybody knows, in one address space with those of this connection.
///
/// `bytes` is the sum of what `entries` count, and never more than `max_bytes`. As no entry counts fewer than 32 bytes, that bounds
/// their number too.
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Field>,
    bytes: usize,
    max_bytes: usize,
}

impl Table {
    /// A table without entries.
    pub(super) fn new(max_bytes: usize) -> Table {
        Table {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// The entry of that number: from 1 the static table, and after it the dynamic one.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Field> {
        // 0 becomes the largest, which is in no table.
        let index = (index as usize).wrapping_sub(1);
        match STATIC.get(index) {
            Some(field) => Some(field),
            None => self.entries.get(index.wrapping_sub(STATIC.len())),
        }
    }

    /// Makes the field the newest entry, and drops as many of the oldest as it takes. One that is larger than the whole table empties
    /// it, and is not kept (RFC 7541, 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        let field_bytes = field.counted_bytes();
        if field_bytes > self.max_bytes {
            self.entries.clear();
            self.bytes = 0;
            return;
        }
        self.shrink_to(self.max_bytes - field_bytes);
        self.bytes += field_bytes;
        self.entries.push_front(field);
    }

    /// Changes what the table may hold, and drops the oldest entries beyond it (RFC 7541, 4.3).
    pub(super) fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.shrink_to(max_bytes);
    }

    /// What the entries count.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entries of this connection, the newest first.
    #[cfg(test)]
    pub(super) fn entries(&self) -> &VecDeque<Field> {
        &self.entries
    }

    fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(oldest) = self.entries.pop_back()
        {
            self.bytes -= oldest.counted_bytes();
        }
    }
}

const fn field(name: &'static [u8], value: &'static [u8]) -> Field {
    Field {
        name: Bytes::from_static(name),
        value: Bytes::from_static(value),
    }
}

/// Appendix A. The first has number 1.
pub(super) static STATIC: [Field; 61] = [
    field(b":authority", b""),
    field(b":method", b"GET"),
    field(b":method", b"POST"),
    field(b":path", b"/"),
    field(b":path", b"/index.html"),
    field(b":scheme", b"http"),
    field(b":scheme", b"https"),
    field(b":status", b"200"),
    field(b":status", b"204"),
    field(b":status", b"206"),
    field(b":status", b"304"),
    field(b":status", b"400"),
    field(b":status", b"404"),
    field(b":status", b"500"),
    field(b"accept-charset", b""),
    field(b"accept-encoding", b"gzip, deflate"),
    field(b"accept-language", b""),
    field(b"accept-ranges", b""),
    field(b"accept", b""),
    field(b"access-control-allow-origin", b""),
    field(b"age", b""),
    field(b"allow", b""),
    field(b"authorization", b""),
    field(b"cache-control", b""),
    field(b"content-disposition", b""),
    field(b"content-encoding", b""),
    field(b"content-language", b""),
    field(b"content-length", b""),
    field(b"content-location", b""),
    field(b"content-range", b""),
    field(b"content-type", b""),
    field(b"cookie", b""),
    field(b"date", b""),
    field(b"etag", b""),
    field(b"expect", b""),
    field(b"expires", b""),
    field(b"from", b""),
    field(b"host", b""),
    field(b"if-match", b""),
    field(b"if-modified-since", b""),
    field(b"if-none-match", b""),
    field(b"if-range", b""),
    field(b"if-unmodified-since", b""),
    field(b"last-modified", b""),
    field(b"link", b""),
    field(b"location", b""),
    field(b"max-forwards", b""),
    field(b"proxy-authenticate", b""),
    field(b"proxy-authorization", b""),
    field(b"range", b""),
    field(b"referer", b""),
    field(b"refresh", b""),
    field(b"retry-after", b""),
    field(b"server", b""),
    field(b"set-cookie", b""),
    field(b"strict-transport-security", b""),
    field(b"transfer-encoding", b""),
    field(b"user-agent", b""),
    field(b"vary", b""),
    field(b"via", b""),
    field(b"www-authenticate", b""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Field {
        Field {
            name: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::new(),
        }
    }

    fn names(table: &Table) -> Vec<&[u8]> {
        table
            .entries()
            .iter()
            .map(|field| &field.name[..])
            .collect()
    }

    #[test]
    fn numbers_go_through_both_tables() {
        let mut table = Table::new(100);
        table.insert(named("older"));
        table.insert(named("newer"));
        assert_eq!(table.get(0), None);
        assert_eq!(table.get(1).map(|f| &f.name[..]), Some(&b":authority"[..]));
        assert_eq!(table.get(2).map(|f| &f.value[..]), Some(&b"GET"[..]));
        assert_eq!(
            table.get(61).map(|f| &f.name[..]),
            Some(&b"www-authenticate"[..])
        );
        assert_eq!(table.get(62), Some(&named("newer")));
        assert_eq!(table.get(63), Some(&named("older")));
        assert_eq!(table.get(64), None);
        assert_eq!(table.get(u32::MAX), None);
    }

    #[test]
    fn the_oldest_go_first_and_only_as_many_as_it_takes() {
        let mut table = Table::new(3 * 33);
        for name in ["a", "b", "c"] {
            table.insert(named(name));
        }
        assert_eq!(
            (names(&table), table.bytes()),
            (vec![&b"c"[..], b"b", b"a"], 99)
        );
        table.insert(named("d"));
        assert_eq!(
            (names(&table), table.bytes()),
            (vec![&b"d"[..], b"c", b"b"], 99)
        );
        table.insert(named("ee"));
        assert_eq!((names(&table), table.bytes()), (vec![&b"ee"[..], b"d"], 67));
    }

    #[test]
    fn an_entry_that_just_fits_is_kept_and_a_larger_one_empties_the_table() {
        let mut table = Table::new(40);
        table.insert(named("a"));
        table.insert(named("12345678"));
        assert_eq!((names(&table), table.bytes()), (vec![&b"12345678"[..]], 40));
        table.insert(named("123456789"));
        assert_eq!((names(&table).len(), table.bytes()), (0, 0));
    }

    #[test]
    fn a_smaller_limit_drops_entries_and_a_larger_one_brings_none_back() {
        let mut table = Table::new(99);
        for name in ["a", "b", "c"] {
            table.insert(named(name));
        }
        table.set_max_bytes(98);
        assert_eq!(names(&table), [b"c", b"b"]);
        table.set_max_bytes(99);
        assert_eq!(names(&table), [b"c", b"b"]);
        table.set_max_bytes(0);
        assert_eq!((names(&table).len(), table.bytes()), (0, 0));
        table.insert(named(""));
        assert_eq!(names(&table).len(), 0);
    }
}
