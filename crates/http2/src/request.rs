//! A request's head: what a header block must be to count as one (RFC 9113, section 8).

use crate::hpack::Field;
use bytes::Bytes;

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `:method`.
    pub method: Bytes,
    /// `:path`, with the query.
    pub path: Bytes,
    /// `:authority`, empty if it is not there.
    pub authority: Bytes,
    /// All other fields, in their order.
    pub fields: Vec<Field>,
    /// What `content-length` promises.
    pub content_length: Option<u64>,
}

impl Head {
    /// The value of the first field of this name, which must be in lower case.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        let mut fields = self.fields.iter();
        let found = fields.find(|field| field.name == name.as_bytes());
        found.map(|field| &field.value)
    }

    /// Takes the fields of a header block apart; `None` if it is malformed, which ends the stream (section 8.1.1).
    pub(crate) fn of(block: &mut Vec<Field>) -> Option<Head> {
        let mut head = Head::default();
        let mut scheme = Bytes::new();
        let pseudo_count = block.iter().take_while(|field| is_pseudo(field)).count();
        let regular = block.split_off(pseudo_count);
        for field in block.drain(..) {
            let place = match &field.name[..] {
                b":method" => &mut head.method,
                b":path" => &mut head.path,
                b":scheme" => &mut scheme,
                b":authority" => &mut head.authority,
                _ => return None,
            };
            // Twice, or empty, which only an authority may be.
            if !place.is_empty() || field.value.is_empty() && field.name != b":authority"[..] {
                return None;
            }
            *place = field.value;
        }
        let whole = !head.method.is_empty() && !head.path.is_empty() && !scheme.is_empty();
        if !whole || !regular.iter().all(is_well_formed) {
            return None;
        }
        head.content_length = content_length(&regular)?;
        head.fields = regular;
        Some(head)
    }
}

/// Whether the fields after a request's body are such that may be there (section 8.1).
pub(crate) fn are_trailers(fields: &[Field]) -> bool {
    fields.iter().all(is_well_formed)
}

fn is_pseudo(field: &Field) -> bool {
    field.name.first() == Some(&b':')
}

/// What may be a field beside the pseudo-fields: a name in lower case, nothing that is about the connection, no line ends (section 8.2).
fn is_well_formed(field: &Field) -> bool {
    let is_connections = match &field.name[..] {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => field.value != b"trailers"[..],
        _ => false,
    };
    !is_connections
        && !field.name.is_empty()
        && field.name.iter().all(|byte| is_name_byte(*byte))
        && !field
            .value
            .iter()
            .any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

/// Of a token (RFC 9110, section 5.6.2) without capital letters.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `None` if it is no number, or there are two that differ.
fn content_length(fields: &[Field]) -> Option<Option<u64>> {
    let mut length = None;
    for field in fields
        .iter()
        .filter(|field| field.name == b"content-length"[..])
    {
        let digits = str::from_utf8(&field.value).ok()?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let value = digits.parse().ok()?;
        if length.is_some_and(|length| length != value) {
            return None;
        }
        length = Some(value);
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> Option<Head> {
        let mut block = fields
            .iter()
            .map(|(name, value)| Field {
                name: Bytes::from_static(name.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
            })
            .collect();
        Head::of(&mut block)
    }

    const GOOD: [(&str, &str); 4] = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        (":authority", ""),
    ];

    #[test]
    fn a_good_head_is_taken_apart() {
        let mut fields = GOOD.to_vec();
        fields.extend([("te", "trailers"), ("content-length", "5"), ("x", "")]);
        let head = head(&fields).unwrap();
        assert_eq!(
            (&head.method[..], &head.path[..]),
            (&b"POST"[..], &b"/a.B/C"[..])
        );
        assert_eq!(head.content_length, Some(5));
        assert_eq!(head.get("te").unwrap(), "trailers");
        assert_eq!(head.get("missing"), None);
    }

    #[test]
    fn what_is_missing_twice_or_unknown_is_refused() {
        for leave_out in 0..3 {
            let mut fields = GOOD.to_vec();
            fields.remove(leave_out);
            assert_eq!(head(&fields), None);
        }
        for more in [
            (":method", "GET"),
            (":path", ""),
            (":status", "200"),
            (":other", "x"),
        ] {
            let mut fields = GOOD.to_vec();
            fields.push(more);
            assert_eq!(head(&fields), None, "{more:?}");
        }
    }

    #[test]
    fn fields_that_must_not_be_there_are_refused() {
        for bad in [
            ("Upper", "x"),
            ("", "x"),
            ("a b", "x"),
            ("connection", "close"),
            ("keep-alive", "x"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "gzip"),
            ("a", "x\r\ny"),
            ("a", "\0"),
            ("content-length", "x"),
            ("content-length", "-1"),
            ("content-length", "99999999999999999999"),
            // After a regular one.
            (":authority", "x"),
        ] {
            let mut fields = GOOD[..3].to_vec();
            fields.extend([("x", "y"), bad]);
            assert_eq!(head(&fields), None, "{bad:?}");
        }
        let mut fields = GOOD.to_vec();
        fields.extend([("content-length", "5"), ("content-length", "6")]);
        assert_eq!(head(&fields), None);
    }
}
