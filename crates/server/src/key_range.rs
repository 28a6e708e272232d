//! Keys as users name them: one key, a range, a prefix, or everything from a key on.

use crate::failure::{Failure, Outcome};
use clap::Args;

/// `KEY [RANGE_END] [--prefix] [--from-key]`, as etcdctl has them.
#[derive(Args, Debug, Clone)]
pub struct RangeArgs {
    /// The key, or where the range begins
    pub key: String,

    /// Where the range ends (not included)
    pub range_end: Option<String>,

    /// All keys that begin with KEY; an empty KEY means all keys
    #[arg(long)]
    pub prefix: bool,

    /// All keys greater than or equal to KEY; an empty KEY means all keys
    #[arg(long)]
    pub from_key: bool,
}

/// `key` and `range_end` as etcd's requests carry them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub key: Vec<u8>,
    /// Empty: only `key`. `\0`: everything from `key` on. Otherwise the first key beyond the range.
    pub range_end: Vec<u8>,
}

/// The smallest key there can be: etcd has no empty key.
const FIRST_KEY: &[u8] = b"\0";
/// As a range end: no end.
const NO_END: &[u8] = b"\0";

impl RangeArgs {
    /// Checks that the flags fit together and makes the range of them.
    pub fn range(&self) -> Outcome<KeyRange> {
        let conflict = |text: &str| Err(Failure::usage(text.to_string()));
        match (&self.range_end, self.prefix, self.from_key) {
            (_, true, true) => {
                conflict("--prefix and --from-key exclude each other; give one of them")
            }
            (Some(_), true, _) => {
                conflict("--prefix: a RANGE_END was given too; leave one of them out")
            }
            (Some(_), _, true) => {
                conflict("--from-key: a RANGE_END was given too; leave one of them out")
            }
            (None, true, false) => Ok(prefix_range(self.key.as_bytes())),
            (None, false, true) => Ok(from_key_range(self.key.as_bytes())),
            (_, false, false) if self.key.is_empty() => {
                conflict("KEY is empty, and no key is; give a key, or --prefix for all keys")
            }
            (end, false, false) => Ok(KeyRange {
                key: self.key.clone().into_bytes(),
                range_end: end.clone().unwrap_or_default().into_bytes(),
            }),
        }
    }
}

fn prefix_range(prefix: &[u8]) -> KeyRange {
    if prefix.is_empty() {
        return from_key_range(prefix);
    }
    KeyRange {
        key: prefix.to_vec(),
        range_end: prefix_end(prefix),
    }
}

fn from_key_range(key: &[u8]) -> KeyRange {
    let first = if key.is_empty() { FIRST_KEY } else { key };
    KeyRange {
        key: first.to_vec(),
        range_end: NO_END.to_vec(),
    }
}

/// The first key beyond all keys that begin with `prefix`: the prefix with its last byte below 0xff raised by one, cut after it.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    NO_END.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(key: &str, range_end: Option<&str>, prefix: bool, from_key: bool) -> RangeArgs {
        RangeArgs {
            key: key.into(),
            range_end: range_end.map(Into::into),
            prefix,
            from_key,
        }
    }

    #[test]
    fn ranges_as_etcd_has_them() {
        for (args, key, end) in [
            (
                args("a", None, false, false),
                b"a".as_slice(),
                b"".as_slice(),
            ),
            (args("a", Some("c"), false, false), b"a", b"c"),
            (args("a", None, true, false), b"a", b"b"),
            (args("", None, true, false), b"\0", b"\0"),
            (args("a", None, false, true), b"a", b"\0"),
            (args("", None, false, true), b"\0", b"\0"),
        ] {
            assert_eq!(
                args.range().unwrap(),
                KeyRange {
                    key: key.to_vec(),
                    range_end: end.to_vec()
                }
            );
        }
    }

    #[test]
    fn a_prefix_of_highest_bytes_has_no_end() {
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for args in [
            args("a", None, true, true),
            args("a", Some("b"), true, false),
            args("a", Some("b"), false, true),
            args("", None, false, false),
        ] {
            assert!(matches!(args.range(), Err(Failure::Usage(_))), "{args:?}");
        }
    }
}
