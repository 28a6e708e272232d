//! The key index: which versions of which key exist, in memory and in key order.
//!
//! For every key it knows the revisions of all kept versions, and of the newest what the next put needs to know: when the key's present
//! life began and how many puts it has had. Values are elsewhere, found by revision. That is etcd's shape: writes to disk are appends in
//! revision order, and only memory is kept in key order.
//!
//! Memory: 56 bytes for a key with one version plus the key itself with its allocation, times the fill of the tree's nodes (a bit over a
//! half when keys arrive in order): about 120-150 bytes a key. Older versions cost 16 bytes each.
//!
//! A read at a revision takes, for each key, the newest version at or before it; a delete there means that the key did not exist.

use super::key_sort::sorted_by_key;
use super::record::Revision;
use std::collections::BTreeMap;
use std::ops::Bound;

/// All keys and the revisions of their versions.
#[derive(Debug, Default)]
pub struct Index {
    keys: BTreeMap<Box<[u8]>, History>,
}

/// A version of a key, as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Where its record is.
    pub revision: Revision,
    /// Whether it is a delete.
    pub tombstone: bool,
}

/// The versions of one key.
///
/// Invariants: `older` ascends and lies before `newest`; `version` is 0 exactly when the newest is a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    newest: Revision,
    create_revision: i64,
    version: i64,
    /// Boxed so that the many keys with one version pay eight bytes for it.
    #[allow(clippy::box_collection)]
    older: Option<Box<Vec<Version>>>,
}

/// What the last put made of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Main revision at which the key's present life began.
    pub create_revision: i64,
    /// Puts in the key's present life, this one included.
    pub version: i64,
}

/// A range of keys as the API means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// One key.
    One(&'a [u8]),
    /// Everything from a key on.
    From(&'a [u8]),
    /// From the first up to but without the second; empty if they do not ascend.
    Between(&'a [u8], &'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// `key` and `range_end` as in requests: an empty end means one key, `\0` means all from `key`.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            _ => KeyRange::Between(key, range_end),
        }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            KeyRange::One(one) => key == one,
            KeyRange::From(from) => key >= from,
            KeyRange::Between(from, to) => key >= from && key < to,
        }
    }
}

impl Index {
    /// Number of keys known, deleted ones that still have history included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key's newest version at or before main revision `at`, if the key existed there.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Revision> {
        self.keys.get(key)?.live_at(at)
    }

    /// What a comparison of numbers needs of a key as it is now, if it exists.
    pub fn newest(&self, key: &[u8]) -> Option<(Revision, Put)> {
        let history = self.keys.get(key)?;
        let put = Put {
            create_revision: history.create_revision,
            version: history.version,
        };
        (put.version > 0).then_some((history.newest, put))
    }

    /// The versions of a key at or after main revision `from`, oldest first.
    pub fn versions_from(&self, key: &[u8], from: i64) -> impl Iterator<Item = Version> {
        self.keys
            .get(key)
            .into_iter()
            .flat_map(move |history| history.versions_from(from))
    }

    /// Calls `visit` in key order with every key of `range` that existed at main revision `at`.
    pub fn for_each_live<'a>(
        &'a self,
        range: KeyRange<'_>,
        at: i64,
        mut visit: impl FnMut(&'a [u8], Revision),
    ) {
        if let KeyRange::One(key) = range {
            if let Some((key, history)) = self.keys.get_key_value(key)
                && let Some(revision) = history.live_at(at)
            {
                visit(key, revision);
            }
            return;
        }
        let bounds = match range {
            KeyRange::Between(from, to) if from >= to => return,
            KeyRange::Between(from, to) => (Bound::Included(from), Bound::Excluded(to)),
            KeyRange::One(from) | KeyRange::From(from) => (Bound::Included(from), Bound::Unbounded),
        };
        for (key, history) in self.keys.range::<[u8], _>(bounds) {
            if let Some(revision) = history.live_at(at) {
                visit(key, revision);
            }
        }
    }

    /// Records a put at `revision`, which is above every revision so far.
    pub fn put(&mut self, key: &[u8], revision: Revision) -> Put {
        if let Some(history) = self.keys.get_mut(key) {
            return history.put(revision);
        }
        let history = History {
            newest: revision,
            create_revision: revision.main,
            version: 1,
            older: None,
        };
        self.keys.insert(key.into(), history);
        Put {
            create_revision: revision.main,
            version: 1,
        }
    }

    /// Records a delete at `revision`, which is above every revision so far. The key must exist.
    pub fn delete(&mut self, key: &[u8], revision: Revision) {
        let history = self
            .keys
            .get_mut(key)
            .expect("only an existing key is deleted");
        assert!(history.version > 0, "only an existing key is deleted");
        history.push(revision);
        history.create_revision = 0;
        history.version = 0;
    }

    /// Adds a version as it is on disk, in revision order. Slower than an [`IndexBuilder`], and without its memory.
    pub fn push(&mut self, key: &[u8], revision: Revision, create_revision: i64, version: i64) {
        if let Some(history) = self.keys.get_mut(key) {
            history.push(revision);
            (history.create_revision, history.version) = (create_revision, version);
            return;
        }
        let history = History {
            newest: revision,
            create_revision,
            version,
            older: None,
        };
        self.keys.insert(key.into(), history);
    }

    /// Forgets, in up to `max_keys` keys after `after` (from the first if `None`), every version that compaction at main revision
    /// `compact` makes unreachable, and adds their revisions to `garbage`. Returns the last key looked at, or `None` at the index's end.
    ///
    /// Unreachable is what lies before `compact` and is a delete or has a successor at or before `compact`. So the newest version at or
    /// before `compact` of each key that lived stays, and so does everything that happened at `compact` itself: a watcher may start
    /// there. (etcd 3.5.1 drops a delete at exactly `compact`; from 3.5.16 on it is kept, as here, because such a watcher missed it.)
    pub fn trim(
        &mut self,
        after: Option<&[u8]>,
        max_keys: usize,
        compact: i64,
        garbage: &mut Vec<Revision>,
    ) -> Option<Box<[u8]>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut emptied: Vec<Box<[u8]>> = Vec::new();
        let mut last = None;
        let mut keys = self
            .keys
            .range_mut::<[u8], _>((start, Bound::Unbounded))
            .take(max_keys);
        for seen in 1..=max_keys {
            let Some((key, history)) = keys.next() else {
                break;
            };
            if history.trim(compact, garbage) == Kept::Nothing {
                emptied.push(key.clone());
            }
            if seen == max_keys {
                last = Some(key.clone());
            }
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        last
    }
}

/// What trimming left of a key's history.
#[derive(PartialEq, Eq)]
enum Kept {
    Something,
    Nothing,
}

impl History {
    fn put(&mut self, revision: Revision) -> Put {
        let was_deleted = self.version == 0;
        self.push(revision);
        if was_deleted {
            self.create_revision = revision.main;
        }
        self.version += 1;
        Put {
            create_revision: self.create_revision,
            version: self.version,
        }
    }

    /// Makes `revision` the newest; the caller sets create revision and version.
    fn push(&mut self, revision: Revision) {
        assert!(revision > self.newest, "revisions only grow");
        let before = Version {
            revision: self.newest,
            tombstone: self.version == 0,
        };
        self.older.get_or_insert_default().push(before);
        self.newest = revision;
    }

    fn newest(&self) -> Version {
        Version {
            revision: self.newest,
            tombstone: self.version == 0,
        }
    }

    fn older(&self) -> &[Version] {
        self.older.as_deref().map_or(&[], Vec::as_slice)
    }

    fn versions_from(&self, from: i64) -> impl Iterator<Item = Version> {
        let older = self.older();
        let start = older.partition_point(|version| version.revision.main < from);
        let newest = (self.newest.main >= from).then_some(self.newest());
        older[start..].iter().copied().chain(newest)
    }

    fn live_at(&self, at: i64) -> Option<Revision> {
        let version = if self.newest.main <= at {
            self.newest()
        } else {
            let older = self.older();
            let newer_from = older.partition_point(|version| version.revision.main <= at);
            older[newer_from.checked_sub(1)?]
        };
        (!version.tombstone).then_some(version.revision)
    }

    fn trim(&mut self, compact: i64, garbage: &mut Vec<Revision>) -> Kept {
        let older = self.older();
        let before = older.partition_point(|version| version.revision.main < compact);
        // All that has a successor before `compact` goes; of the last before `compact`, it depends on what comes next.
        let obsolete = if before == older.len() && self.newest.main < compact {
            garbage.extend(older.iter().map(|version| version.revision));
            if self.version == 0 {
                garbage.push(self.newest);
                return Kept::Nothing;
            }
            before
        } else {
            let next = older.get(before).copied().unwrap_or(self.newest());
            let last_goes = next.revision.main <= compact
                || before
                    .checked_sub(1)
                    .is_some_and(|last| older[last].tombstone);
            let obsolete = if last_goes {
                before
            } else {
                before.saturating_sub(1)
            };
            garbage.extend(older[..obsolete].iter().map(|version| version.revision));
            obsolete
        };
        if obsolete == older.len() {
            self.older = None;
        } else if let Some(older) = &mut self.older {
            older.drain(..obsolete);
            older.shrink_to(older.len() * 2);
        }
        Kept::Something
    }
}

/// Builds an index from all records in revision order, as a scan of the revision table gives them.
///
/// What is pushed is laid down in one arena, each key beside its numbers, sorted once at the end, and the tree is built from sorted keys. That
/// is several times as fast as inserting into a tree of a million keys, which waits for memory at every step.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    /// `main i64 | sub u32 | create i64 | version i64 | key length u32 | key` for each record.
    arena: Vec<u8>,
}

/// Bytes before a key in the arena.
const PUSHED_HEADER_BYTES: usize = 32;

/// A record in the arena of a builder.
#[derive(Clone, Copy)]
struct Pushed<'a>(&'a [u8]);

impl IndexBuilder {
    /// Adds the next record.
    pub fn push(&mut self, key: &[u8], revision: Revision, create_revision: i64, version: i64) {
        let key_len = u32::try_from(key.len()).expect("a key is shorter than 4 GiB");
        let mut header = [0; PUSHED_HEADER_BYTES];
        header[..8].copy_from_slice(&revision.main.to_le_bytes());
        header[8..12].copy_from_slice(&revision.sub.to_le_bytes());
        header[12..20].copy_from_slice(&create_revision.to_le_bytes());
        header[20..28].copy_from_slice(&version.to_le_bytes());
        header[28..].copy_from_slice(&key_len.to_le_bytes());
        self.arena.extend_from_slice(&header);
        self.arena.extend_from_slice(key);
    }

    /// The index of all that was pushed.
    pub fn build(self) -> Index {
        let pushed_at = |at: u64| Pushed(&self.arena[at as usize..]);
        let mut starts = Vec::new();
        let mut at = 0;
        while (at as usize) < self.arena.len() {
            starts.push(at);
            at += (PUSHED_HEADER_BYTES + pushed_at(at).key().len()) as u64;
        }
        // Versions of one key stay in revision order.
        let order = sorted_by_key(starts, |at| pushed_at(at).key());
        let histories = order
            .chunk_by(|a, b| pushed_at(*a).key() == pushed_at(*b).key())
            .map(|versions| {
                let versions = versions.iter().map(|at| pushed_at(*at));
                History::from_pushed(versions)
            });
        Index {
            keys: histories.collect(),
        }
    }
}

impl<'a> Pushed<'a> {
    fn key(self) -> &'a [u8] {
        let key_len = u32::from_le_bytes(self.bytes(28)) as usize;
        &self.0[PUSHED_HEADER_BYTES..PUSHED_HEADER_BYTES + key_len]
    }

    fn revision(self) -> Revision {
        Revision {
            main: i64::from_le_bytes(self.bytes(0)),
            sub: u32::from_le_bytes(self.bytes(8)),
        }
    }

    fn create_revision(self) -> i64 {
        i64::from_le_bytes(self.bytes(12))
    }

    fn version(self) -> i64 {
        i64::from_le_bytes(self.bytes(20))
    }

    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("N bytes")
    }
}

impl History {
    /// The key and history of all versions of a key, oldest first.
    fn from_pushed<'a>(
        mut versions: impl DoubleEndedIterator<Item = Pushed<'a>>,
    ) -> (Box<[u8]>, Self) {
        let newest = versions.next_back().expect("a key has a version");
        let older: Vec<Version> = versions
            .map(|pushed| Version {
                revision: pushed.revision(),
                tombstone: pushed.version() == 0,
            })
            .collect();
        let history = History {
            newest: newest.revision(),
            create_revision: newest.create_revision(),
            version: newest.version(),
            older: (!older.is_empty()).then(|| Box::new(older)),
        };
        (newest.key().into(), history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision::first_of(main)
    }

    /// Key, main revision, create revision and version (0: a delete) of some records in revision order.
    const RECORDS: [(&str, i64, i64, i64); 6] = [
        ("b", 2, 2, 1),
        ("a", 3, 3, 1),
        ("b", 4, 2, 2),
        ("b", 5, 0, 0),
        ("c", 6, 1, 9),
        ("b", 7, 7, 1),
    ];

    #[test]
    fn both_ways_from_records_lead_to_the_same_index() {
        let (mut builder, mut index) = (IndexBuilder::default(), Index::default());
        for (key, main, create, version) in RECORDS {
            builder.push(key.as_bytes(), at(main), create, version);
            index.push(key.as_bytes(), at(main), create, version);
        }
        assert_eq!(builder.build().keys, index.keys);
    }

    fn live(index: &Index, range: KeyRange<'_>, main: i64) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        index.for_each_live(range, main, |key, revision| {
            found.push((String::from_utf8(key.to_vec()).unwrap(), revision.main));
        });
        found
    }

    /// a: put 2, put 4, delete 6, put 8. b: put 3.
    fn sample() -> Index {
        let mut index = Index::default();
        index.put(b"a", at(2));
        index.put(b"b", at(3));
        index.put(b"a", at(4));
        index.delete(b"a", at(6));
        index.put(b"a", at(8));
        index
    }

    #[test]
    fn a_life_begins_at_its_first_put_and_counts_its_puts() {
        let mut index = Index::default();
        let put = |create_revision, version| Put {
            create_revision,
            version,
        };
        assert_eq!(index.put(b"a", at(2)), put(2, 1));
        assert_eq!(index.put(b"a", at(3)), put(2, 2));
        index.delete(b"a", at(4));
        assert_eq!(index.put(b"a", at(5)), put(5, 1));
    }

    #[test]
    fn reads_find_the_newest_version_at_or_before_a_revision() {
        let index = sample();
        let seen: Vec<Option<i64>> = (1..=9)
            .map(|main| index.get(b"a", main).map(|r| r.main))
            .collect();
        let expected = [
            None,
            Some(2),
            Some(2),
            Some(4),
            Some(4),
            None,
            None,
            Some(8),
            Some(8),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn ranges_are_half_open_and_ascend() {
        let index = sample();
        let all = vec![("a".to_string(), 8), ("b".to_string(), 3)];
        assert_eq!(live(&index, KeyRange::new(b"\0", b"\0"), 9), all);
        assert_eq!(live(&index, KeyRange::new(b"a", b"c"), 9), all);
        assert_eq!(live(&index, KeyRange::new(b"a", b"b"), 9), all[..1]);
        assert_eq!(live(&index, KeyRange::new(b"b", b""), 9), all[1..]);
        assert_eq!(live(&index, KeyRange::new(b"b", b"a"), 9), vec![]);
        assert_eq!(live(&index, KeyRange::new(b"b", b"b"), 9), vec![]);
    }

    #[test]
    fn compaction_keeps_what_is_alive_and_what_happened_at_its_revision() {
        let trimmed = |compact| {
            let mut garbage = Vec::new();
            let mut index = sample();
            assert_eq!(index.trim(None, 9, compact, &mut garbage), None);
            let kept: Vec<i64> = index
                .versions_from(b"a", 0)
                .map(|v| v.revision.main)
                .collect();
            let gone: Vec<i64> = garbage.iter().map(|r| r.main).collect();
            (gone, kept)
        };
        assert_eq!(trimmed(3), (vec![], vec![2, 4, 6, 8]));
        assert_eq!(trimmed(4), (vec![2], vec![4, 6, 8]));
        assert_eq!(trimmed(5), (vec![2], vec![4, 6, 8]));
        assert_eq!(trimmed(6), (vec![2, 4], vec![6, 8]));
        assert_eq!(trimmed(7), (vec![2, 4, 6], vec![8]));
        assert_eq!(trimmed(9), (vec![2, 4, 6], vec![8]));
    }

    #[test]
    fn keys_are_trimmed_in_bounded_steps() {
        let mut index = sample();
        let mut garbage = Vec::new();
        let next = index.trim(None, 1, 9, &mut garbage);
        assert_eq!(next.as_deref(), Some(&b"a"[..]));
        let next = index.trim(next.as_deref(), 1, 9, &mut garbage);
        assert_eq!(next.as_deref(), Some(&b"b"[..]));
        assert_eq!(index.trim(next.as_deref(), 1, 9, &mut garbage), None);
        assert_eq!(garbage, vec![at(2), at(4), at(6)]);
    }

    #[test]
    fn a_key_is_forgotten_with_its_last_version() {
        let mut index = Index::default();
        index.put(b"a", at(2));
        index.delete(b"a", at(3));
        let mut garbage = Vec::new();
        index.trim(None, 9, 3, &mut garbage);
        assert_eq!((index.len(), garbage.len()), (1, 1));
        index.trim(None, 9, 4, &mut garbage);
        assert_eq!((index.len(), garbage.len()), (0, 2));
    }

    #[test]
    fn the_builder_gives_the_same_index_as_the_changes() {
        let mut builder = IndexBuilder::default();
        let rows: [(&[u8], i64, i64, i64); 5] = [
            (b"a", 2, 2, 1),
            (b"b", 3, 3, 1),
            (b"a", 4, 2, 2),
            (b"a", 6, 0, 0),
            (b"a", 8, 8, 1),
        ];
        for (key, main, create, version) in rows {
            builder.push(key, at(main), create, version);
        }
        assert_eq!(builder.build().keys, sample().keys);
    }
}
