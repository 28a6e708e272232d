//! What a client asks next.

use crate::history::{Compare, Freshness, Request, Step};
use crate::rng::Rng;
use std::collections::BTreeMap;

/// Keys of one set that are in use at a time.
const KEYS: u64 = 4;

/// Requests after which a set of keys is left and a fresh one taken: the search for an order is exponential at worst.
const REQUESTS_PER_SET: u64 = 100;

/// Requests of unknown outcome after which that happens, too: each doubles what there is to search.
const UNKNOWN_PER_SET: u64 = 4;

/// The oldest state that a read with a bound accepts.
const MAX_AGE_MS: u64 = 3_000;

/// What a client knows when it draws its next request.
pub struct Draw {
    /// Its set of keys.
    pub group: u64,
    /// How manieth set it is.
    pub set: u64,
    /// Makes its values unlike anybody else's.
    pub client: u32,
    /// Values it has written so far.
    pub written: u64,
    /// What it saw last of each key.
    pub known: BTreeMap<String, Option<String>>,
    /// The latest revision it was told of.
    pub revision: i64,
}

/// The sets of keys that one group of clients has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sets {
    present: u64,
    asked: u64,
    unknown: u64,
}

impl Sets {
    /// The set for the next request.
    pub fn next(&mut self) -> u64 {
        if self.asked == REQUESTS_PER_SET || self.unknown >= UNKNOWN_PER_SET {
            *self = Sets {
                present: self.present + 1,
                ..Sets::default()
            };
        }
        self.asked += 1;
        self.present
    }

    /// Nobody knows what became of a request for this set.
    pub fn is_unknown(&mut self, set: u64) {
        self.unknown += u64::from(set == self.present);
    }

    /// All keys so far.
    pub fn keys(self, group: u64) -> impl Iterator<Item = String> {
        (0..=self.present).flat_map(move |set| (0..KEYS).map(move |key| name(group, set, key)))
    }
}

fn name(group: u64, set: u64, key: u64) -> String {
    format!("g{group}/s{set:03}/k{key}")
}

impl Draw {
    /// The next request.
    pub fn request(&mut self, rng: &mut Rng) -> Request {
        match rng.below(100) {
            0..30 => {
                let key = self.key(rng);
                Request::One(self.put(key))
            }
            30..38 => Request::One(Step::Delete { key: self.key(rng) }),
            38..58 => Request::One(Step::Get { key: self.key(rng) }),
            58..68 => self.read(rng, Freshness::Serializable, 0),
            68..78 => {
                let age_ms = rng.below(MAX_AGE_MS + 1);
                self.read(rng, Freshness::WithinNs(age_ms * 1_000_000), 0)
            }
            78..85 => self.read(rng, Freshness::Serializable, self.revision),
            _ => self.txn(rng),
        }
    }

    fn key(&self, rng: &mut Rng) -> String {
        name(self.group, self.set, rng.below(KEYS))
    }

    fn put(&mut self, key: String) -> Step {
        self.written += 1;
        let value = format!("c{}-{}", self.client, self.written);
        Step::Put { key, value }
    }

    fn read(&self, rng: &mut Rng, freshness: Freshness, min_revision: i64) -> Request {
        Request::Read {
            key: self.key(rng),
            freshness,
            min_revision,
        }
    }

    /// Some keys are compared with what was seen last, some are read or written; if a comparison fails, those keys are read.
    fn txn(&mut self, rng: &mut Rng) -> Request {
        let mut compares = Vec::new();
        let mut then = Vec::new();
        let mut or_else = Vec::new();
        for number in 0..KEYS {
            let key = name(self.group, self.set, number);
            if rng.permille(350) {
                let expected = self.known.get(&key).cloned().flatten();
                compares.push(Compare {
                    key: key.clone(),
                    expected,
                });
                or_else.push(Step::Get { key: key.clone() });
            }
            match rng.below(6) {
                0 | 1 => then.push(self.put(key)),
                2 => then.push(Step::Delete { key }),
                3 => then.push(Step::Get { key }),
                _ => {}
            }
        }
        if then.is_empty() {
            let key = name(self.group, self.set, 0);
            then.push(self.put(key));
        }
        Request::Txn {
            compares,
            then,
            or_else,
        }
    }
}
