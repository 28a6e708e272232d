//! Writing to standard output: etcdctl's simple format, and its JSON.
//!
//! The JSON of the etcd commands has etcdctl's fields: keys and values in base64, numbers as numbers, and what is zero or empty is left
//! out, so that a script written for `etcdctl -w json` reads it.

use crate::failure::{Failure, Outcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use eaves_kv::proto::etcdserverpb::ResponseHeader;
use eaves_kv::proto::mvccpb::KeyValue;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

/// Buffered standard output. Call [`Output::flush`] at the end, and where a reader waits for what was written.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Takes standard output.
    pub fn new() -> Output {
        Output {
            out: BufWriter::new(io::stdout().lock()),
        }
    }

    /// One line of text.
    pub fn line(&mut self, text: &str) -> Outcome {
        self.bytes_line(text.as_bytes())
    }

    /// Text that is no line, such as a control sequence.
    pub fn text(&mut self, text: &str) -> Outcome {
        self.out.write_all(text.as_bytes()).map_err(Failure::output)
    }

    /// One line of any bytes, as they are.
    pub fn bytes_line(&mut self, bytes: &[u8]) -> Outcome {
        self.out
            .write_all(bytes)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(Failure::output)
    }

    /// One value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(value).expect("our own values have a JSON form");
        self.line(&text)
    }

    /// An answer, as one object for programs or as lines for people.
    pub fn answer(&mut self, json: Option<impl Serialize>, lines: &[String]) -> Outcome {
        match json {
            Some(object) => self.json(&object),
            None => lines.iter().try_for_each(|line| self.line(line)),
        }
    }

    /// A key line and a value line, or only the value line.
    pub fn key_value(&mut self, pair: &KeyValue, value_only: bool) -> Outcome {
        if !value_only {
            self.bytes_line(&pair.key)?;
        }
        self.bytes_line(&pair.value)
    }

    /// Hands what was written to the reader.
    pub fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(Failure::output)
    }
}

/// A span of time in its two largest units, as people say it.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} m {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} m"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A response header as etcdctl prints it.
pub fn header_json(header: Option<&ResponseHeader>) -> Value {
    let header = header.cloned().unwrap_or_default();
    json!({
        "cluster_id": header.cluster_id,
        "member_id": header.member_id,
        "revision": header.revision,
        "raft_term": header.raft_term,
    })
}

/// A key-value pair as etcdctl prints it.
pub fn key_value_json(pair: &KeyValue) -> Value {
    let mut fields = Map::new();
    fields.insert("key".into(), BASE64.encode(&pair.key).into());
    for (name, number) in [
        ("create_revision", pair.create_revision),
        ("mod_revision", pair.mod_revision),
        ("version", pair.version),
    ] {
        if number != 0 {
            fields.insert(name.into(), number.into());
        }
    }
    if !pair.value.is_empty() {
        fields.insert("value".into(), BASE64.encode(&pair.value).into());
    }
    if pair.lease != 0 {
        fields.insert("lease".into(), pair.lease.into());
    }
    Value::Object(fields)
}

/// The pairs of an answer, or nothing when there are none.
pub fn insert_pairs(object: &mut Map<String, Value>, name: &str, pairs: &[KeyValue]) {
    if !pairs.is_empty() {
        object.insert(name.into(), pairs.iter().map(key_value_json).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_their_two_largest_units() {
        let told = |milliseconds| duration(Duration::from_millis(milliseconds));
        for (milliseconds, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (61_000, "1 m 1 s"),
            (3 * 3_600_000 + 59_000, "3 h 0 m"),
            (100 * 3_600_000, "4 d 4 h"),
        ] {
            assert_eq!(told(milliseconds), expected);
        }
    }

    #[test]
    fn pairs_have_the_json_of_etcdctl() {
        let pair = KeyValue {
            key: "foo".into(),
            value: "bar".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        let expected =
            r#"{"key":"Zm9v","create_revision":2,"mod_revision":3,"version":2,"value":"YmFy"}"#;
        assert_eq!(
            key_value_json(&pair),
            serde_json::from_str::<Value>(expected).unwrap()
        );
        let deleted = KeyValue {
            key: "foo".into(),
            mod_revision: 4,
            ..Default::default()
        };
        assert_eq!(
            key_value_json(&deleted).to_string(),
            r#"{"key":"Zm9v","mod_revision":4}"#
        );
    }
}
