//! Random KV requests over a key space so small that they meet: right ones, odd ones, and every kind of wrong one.
//!
//! A generator is a pure function of its seed and of what it was told about the store's revisions, so a seed repeats a run.

use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::compare::TargetUnion;
use eaves_kv::proto::etcdserverpb::request_op::Request;
use eaves_kv::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The keys: prefixes of each other, neighbours of each other, and the two ends of the order.
const KEYS: [&[u8]; 9] = [
    b"a", b"a\0", b"aa", b"ab", b"b", b"c", b"ca", b"\0", b"\xff",
];

/// The values: few, so that comparing them is sometimes equal.
const VALUES: [&[u8]; 5] = [b"", b"0", b"1", b"11", b"\xfe\xff"];

/// etcd's limit of operations in each list of a transaction.
const TXN_OPS_MAX: usize = 128;

/// What the store's answers said about its revisions, so that requests name past, present, future and compacted ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Revisions {
    /// The newest.
    pub current: i64,
    /// The last one compacted, 0 when there is none.
    pub compacted: i64,
}

/// One request that has one response.
#[derive(Clone, Debug)]
pub enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
}

impl Call {
    /// Whether answering changes nothing, so that any number of nodes can be asked.
    pub fn reads_only(&self) -> bool {
        match self {
            Call::Range(_) => true,
            Call::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .all(|op| matches!(op.request, Some(Request::RequestRange(_)))),
            _ => false,
        }
    }

    /// Whether a node may answer it from a state that is behind.
    pub fn serializable(&self) -> bool {
        match self {
            Call::Range(range) => range.serializable,
            Call::Txn(txn) => self.reads_only() && txn.success.iter().chain(&txn.failure).all(|op| {
                matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable)
            }),
            _ => false,
        }
    }
}

/// Makes the requests.
pub struct Generator {
    pub random: StdRng,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    pub fn request(&mut self, revisions: Revisions) -> Call {
        match self.random.random_range(0..100) {
            0..36 => Call::Put(self.put()),
            36..48 => Call::DeleteRange(self.delete_range()),
            48..72 => Call::Range(self.range(revisions)),
            72..96 => Call::Txn(self.txn(revisions)),
            _ => Call::Compact(self.compaction(revisions)),
        }
    }

    /// A key, rarely the empty one, which is refused.
    fn key(&mut self) -> Bytes {
        if self.one_in(60) {
            Bytes::new()
        } else {
            self.some_key()
        }
    }

    fn some_key(&mut self) -> Bytes {
        Bytes::from_static(KEYS.choose(&mut self.random).expect("there are keys"))
    }

    /// The end of a range that begins at `key`: none, "everything from here", the end of the prefix, or any key, so
    /// that some ranges are empty and some are the wrong way round.
    pub fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.random_range(0..6) {
            0..2 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            3 => prefix_end(key),
            _ => self.some_key(),
        }
    }

    pub fn watch_key(&mut self) -> Bytes {
        self.key()
    }

    fn value(&mut self) -> Bytes {
        Bytes::from_static(VALUES.choose(&mut self.random).expect("there are values"))
    }

    /// A revision as a read or a watch may name it: mostly one that can be served, sometimes compacted, future or negative.
    pub fn revision(&mut self, revisions: Revisions) -> i64 {
        let Revisions { current, compacted } = revisions;
        match self.random.random_range(0..12) {
            0 => compacted,
            1 => compacted - 1,
            2 => current,
            3 => current + 1,
            4 => current + self.random.random_range(2..20),
            5 => -1,
            _ => self
                .random
                .random_range(compacted.max(1)..=current.max(compacted).max(1)),
        }
    }

    pub fn range(&mut self, revisions: Revisions) -> RangeRequest {
        let key = self.key();
        let mut range = RangeRequest {
            range_end: self.range_end(&key),
            key,
            ..Default::default()
        };
        range.serializable = self.one_in(2);
        range.keys_only = self.one_in(5);
        range.count_only = self.one_in(8);
        if self.one_in(3) {
            range.revision = self.revision(revisions);
        }
        if self.one_in(3) {
            range.limit = self.random.random_range(-1..5);
        }
        if self.one_in(3) {
            range.sort_order = self.random.random_range(0..3);
            range.sort_target = self.random.random_range(0..5);
        }
        if self.one_in(5) {
            for bound in [
                &mut range.min_mod_revision,
                &mut range.max_mod_revision,
                &mut range.min_create_revision,
                &mut range.max_create_revision,
            ] {
                if self.random.random_ratio(1, 2) {
                    *bound = self.random.random_range(-1..=revisions.current + 1);
                }
            }
        }
        range
    }

    fn put(&mut self) -> PutRequest {
        let mut put = PutRequest {
            key: self.key(),
            value: self.value(),
            ..Default::default()
        };
        put.prev_kv = self.one_in(3);
        if self.one_in(6) {
            put.ignore_value = true;
            if !self.one_in(4) {
                put.value = Bytes::new();
            }
        }
        put.ignore_lease = self.one_in(10);
        if self.one_in(25) {
            // No lease is ever granted here, so none is known.
            put.lease = self.random.random_range(1..4);
        }
        put
    }

    fn delete_range(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        // Ranges empty the small key space quickly: mostly delete one key.
        let range_end = if self.one_in(3) {
            self.range_end(&key)
        } else {
            Bytes::new()
        };
        DeleteRangeRequest {
            range_end,
            key,
            prev_kv: self.one_in(2),
        }
    }

    fn compaction(&mut self, revisions: Revisions) -> CompactionRequest {
        let Revisions { current, compacted } = revisions;
        let revision = match self.random.random_range(0..10) {
            0 => compacted,
            1 => current + 1,
            2 => self.random.random_range(-1..=compacted.max(0)),
            3 => current,
            _ => self
                .random
                .random_range(compacted + 1..=current.max(compacted + 1)),
        };
        // Physical, so that both systems have dropped what they drop by the time they answer.
        CompactionRequest {
            revision,
            physical: true,
        }
    }

    pub fn txn(&mut self, revisions: Revisions) -> TxnRequest {
        if self.one_in(40) {
            return self.long_txn();
        }
        // Most transactions use each key once; the others find the duplicates.
        let mut fresh: Vec<Bytes> = KEYS.iter().map(|key| Bytes::from_static(key)).collect();
        let distinct = !self.one_in(8);
        self.nested_txn(revisions, 2, distinct.then_some(&mut fresh))
    }

    fn nested_txn(
        &mut self,
        revisions: Revisions,
        depth: u32,
        mut fresh: Option<&mut Vec<Bytes>>,
    ) -> TxnRequest {
        let compares = self.random.random_range(0..4);
        let mut txn = TxnRequest {
            compare: (0..compares).map(|_| self.compare(revisions)).collect(),
            ..Default::default()
        };
        for branch in [&mut txn.success, &mut txn.failure] {
            for _ in 0..self.random.random_range(0..4) {
                branch.push(RequestOp {
                    request: self.operation(revisions, depth, fresh.as_deref_mut()),
                });
            }
        }
        txn
    }

    fn operation(
        &mut self,
        revisions: Revisions,
        depth: u32,
        mut fresh: Option<&mut Vec<Bytes>>,
    ) -> Option<Request> {
        match self.random.random_range(0..100) {
            0..30 => {
                let mut range = self.range(revisions);
                // A revision that cannot be read fails the whole transaction: keep most alive.
                if !self.one_in(4) {
                    range.revision = 0;
                }
                Some(Request::RequestRange(range))
            }
            30..70 => {
                let mut put = self.put();
                self.take_fresh(&mut fresh, &mut put.key);
                if !self.one_in(4) {
                    (put.lease, put.ignore_lease, put.ignore_value) = (0, false, false);
                }
                Some(Request::RequestPut(put))
            }
            70..86 => {
                let mut delete = self.delete_range();
                if self.take_fresh(&mut fresh, &mut delete.key) {
                    delete.range_end = Bytes::new();
                }
                Some(Request::RequestDeleteRange(delete))
            }
            86..99 if depth > 0 => Some(Request::RequestTxn(self.nested_txn(
                revisions,
                depth - 1,
                fresh,
            ))),
            99 => None,
            _ => Some(Request::RequestRange(RangeRequest {
                key: self.key(),
                ..Default::default()
            })),
        }
    }

    /// Replaces the key by one that no other operation of the transaction has had, while there are some and if there must be.
    fn take_fresh(&mut self, fresh: &mut Option<&mut Vec<Bytes>>, key: &mut Bytes) -> bool {
        let Some(fresh) = fresh else { return false };
        if fresh.is_empty() || self.one_in(60) {
            return false;
        }
        *key = fresh.swap_remove(self.random.random_range(0..fresh.len()));
        true
    }

    /// As many operations as are allowed, or one more; or as many compares. Half of the time inside another transaction,
    /// whose own operations etcd takes from what the inner one may have.
    fn long_txn(&mut self) -> TxnRequest {
        if !self.one_in(2) {
            let length = TXN_OPS_MAX + self.random.random_range(0..2);
            return self.txn_of_length(length);
        }
        let outer_length = 2;
        let length = TXN_OPS_MAX - outer_length + self.random.random_range(0..2);
        let inner = Request::RequestTxn(self.txn_of_length(length));
        let beside = Request::RequestRange(RangeRequest {
            key: "a".into(),
            ..Default::default()
        });
        let success = [beside, inner].map(|request| RequestOp {
            request: Some(request),
        });
        TxnRequest {
            success: success.into(),
            ..Default::default()
        }
    }

    fn txn_of_length(&mut self, length: usize) -> TxnRequest {
        let mut txn = TxnRequest::default();
        match self.random.random_range(0..3) {
            0 => {
                let compare = Compare {
                    key: self.some_key(),
                    ..Default::default()
                };
                txn.compare = vec![compare; length];
            }
            list => {
                let operations = (0..length).map(|index| {
                    let key = Bytes::from(format!("long-{index}"));
                    let delete = DeleteRangeRequest {
                        key,
                        ..Default::default()
                    };
                    RequestOp {
                        request: Some(Request::RequestDeleteRange(delete)),
                    }
                });
                let branch = if list == 1 {
                    &mut txn.success
                } else {
                    &mut txn.failure
                };
                branch.extend(operations);
            }
        }
        txn
    }

    fn compare(&mut self, revisions: Revisions) -> Compare {
        let key = self.key();
        let range_end = if self.one_in(4) {
            self.range_end(&key)
        } else {
            Bytes::new()
        };
        let target = if self.one_in(40) {
            9
        } else {
            self.random.random_range(0..5)
        };
        let result = if self.one_in(40) {
            9
        } else {
            self.random.random_range(0..4)
        };
        // Mostly the operand that the target asks for; otherwise another one, or none: both stand for zero.
        let operand = if self.one_in(10) {
            self.random.random_range(0..6)
        } else {
            target
        };
        let revision = self.random.random_range(0..=revisions.current);
        let target_union = match operand {
            0 => Some(TargetUnion::Version(self.random.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(if self.one_in(3) {
                0
            } else {
                revision
            })),
            2 => Some(TargetUnion::ModRevision(if self.one_in(3) {
                0
            } else {
                revision
            })),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.random.random_range(0..2))),
            _ => None,
        };
        Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        }
    }
}

/// The first key after all those that begin with `prefix`; "\0", everything, when there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}
