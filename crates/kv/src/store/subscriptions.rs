//! Which of many watchers want a change: those of one key and of one prefix are hashed, other ranges are tried in turn.

use super::index::KeyRange;
use super::record::Record;
use super::watch::{Interest, WatcherKey};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The synced watchers by what they watch.
#[derive(Default)]
pub struct Subscriptions {
    keys: HashMap<Bytes, BTreeSet<WatcherKey>>,
    prefixes: HashMap<Bytes, BTreeSet<WatcherKey>>,
    /// How many prefixes there are of each length.
    prefix_lengths: BTreeMap<usize, usize>,
    /// By key and range end.
    ranges: BTreeMap<(Bytes, Bytes), BTreeSet<WatcherKey>>,
    /// What the watchers want beyond the range.
    interests: HashMap<WatcherKey, Arc<Interest>>,
}

impl Subscriptions {
    pub fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }

    pub fn add(&mut self, interest: &Arc<Interest>, key: WatcherKey) {
        self.interests.insert(key, interest.clone());
        match Shape::of(interest) {
            Shape::Key => self.keys.entry(interest.key.clone()).or_default(),
            Shape::Prefix => {
                let prefix = self.prefixes.entry(interest.key.clone());
                prefix.or_insert_with(|| {
                    *self.prefix_lengths.entry(interest.key.len()).or_default() += 1;
                    BTreeSet::new()
                })
            }
            Shape::Range => {
                let range = (interest.key.clone(), interest.range_end.clone());
                self.ranges.entry(range).or_default()
            }
        }
        .insert(key);
    }

    pub fn remove(&mut self, interest: &Interest, key: WatcherKey) {
        if self.interests.remove(&key).is_none() {
            return;
        }
        match Shape::of(interest) {
            Shape::Key => {
                remove_from(&mut self.keys, &interest.key, key);
            }
            Shape::Prefix => {
                if remove_from(&mut self.prefixes, &interest.key, key) {
                    let length = interest.key.len();
                    let count = self.prefix_lengths.get_mut(&length).expect("it was added");
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lengths.remove(&length);
                    }
                }
            }
            Shape::Range => {
                let range = (interest.key.clone(), interest.range_end.clone());
                if let Some(group) = self.ranges.get_mut(&range) {
                    group.remove(&key);
                    if group.is_empty() {
                        self.ranges.remove(&range);
                    }
                }
            }
        }
    }

    /// Adds the watchers that want `record`.
    pub fn find(&self, record: &Record, found: &mut Vec<WatcherKey>) {
        let from = found.len();
        if let Some(group) = self.keys.get(record.key.as_ref()) {
            found.extend(group);
        }
        for (&length, _) in self.prefix_lengths.range(..=record.key.len()) {
            if let Some(group) = self.prefixes.get(&record.key[..length]) {
                found.extend(group);
            }
        }
        for ((key, range_end), group) in &self.ranges {
            if KeyRange::new(key, range_end).contains(&record.key) {
                found.extend(group);
            }
        }
        let mut kept = from;
        for i in from..found.len() {
            if self.interests[&found[i]].matches(record) {
                found[kept] = found[i];
                kept += 1;
            }
        }
        found.truncate(kept);
    }
}

/// Removes a watcher from its group; returns whether the group is gone with it.
fn remove_from(
    groups: &mut HashMap<Bytes, BTreeSet<WatcherKey>>,
    of: &Bytes,
    key: WatcherKey,
) -> bool {
    let Some(group) = groups.get_mut(of) else {
        return false;
    };
    group.remove(&key);
    if !group.is_empty() {
        return false;
    }
    groups.remove(of);
    true
}

/// How a range is looked up.
enum Shape {
    Key,
    Prefix,
    Range,
}

impl Shape {
    fn of(interest: &Interest) -> Shape {
        match KeyRange::new(&interest.key, &interest.range_end) {
            KeyRange::One(_) => Shape::Key,
            KeyRange::Between(key, end) if is_prefix_range(key, end) => Shape::Prefix,
            _ => Shape::Range,
        }
    }
}

/// Whether the keys from `key` to `end` are exactly those that begin with `key`.
fn is_prefix_range(key: &[u8], end: &[u8]) -> bool {
    let Some((last, rest)) = key.split_last() else {
        return false;
    };
    *last < u8::MAX
        && end
            .split_last()
            .is_some_and(|(end_last, end_rest)| *end_last == last + 1 && end_rest == rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_told_from_other_ranges() {
        assert!(is_prefix_range(b"a/", b"a0"));
        assert!(!is_prefix_range(b"a/", b"a1"));
        assert!(!is_prefix_range(b"a/", b"b"));
        assert!(!is_prefix_range(b"a\xff", b"b"));
        assert!(!is_prefix_range(b"", b"\x01"));
    }
}
