//! Checks of KV requests that need nothing but the request, made before anything is proposed or read.
//!
//! They follow etcd's order of checks, because a request that is wrong in two ways must be refused for the same reason.

use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request as Op,
};
use crate::store::KvError;
use std::collections::{BTreeMap, HashSet};

/// Most operations in one list of a transaction; a nested transaction gets what its parent's longest list leaves (etcd's
/// `--max-txn-ops` default).
pub const MAX_TXN_OPERATIONS: usize = 128;

/// Most bytes of a request that changes something (etcd's `--max-request-bytes` default).
pub const MAX_REQUEST_BYTES: usize = 1536 * 1024;

/// What a message may have beyond [`MAX_REQUEST_BYTES`] and still be received, so that it can be refused in words.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// The longest message that is received at all.
pub const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + REQUEST_OVERHEAD_BYTES;

pub(crate) fn range(request: &RangeRequest) -> Result<(), KvError> {
    if request.key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if known {
        Ok(())
    } else {
        Err(KvError::InvalidSortOption)
    }
}

pub(crate) fn put(request: &PutRequest) -> Result<(), KvError> {
    if request.key.is_empty() {
        Err(KvError::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(KvError::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(KvError::LeaseProvided)
    } else {
        Ok(())
    }
}

pub(crate) fn delete_range(request: &DeleteRangeRequest) -> Result<(), KvError> {
    if request.key.is_empty() {
        Err(KvError::EmptyKey)
    } else {
        Ok(())
    }
}

pub(crate) fn txn(request: &TxnRequest) -> Result<(), KvError> {
    txn_operations(request, MAX_TXN_OPERATIONS)?;
    Changes::of(&request.success)?;
    Changes::of(&request.failure)?;
    Ok(())
}

/// The limit on what is proposed, `bytes` long.
pub(crate) fn size(bytes: usize) -> Result<(), KvError> {
    if bytes > MAX_REQUEST_BYTES {
        Err(KvError::RequestTooLarge)
    } else {
        Ok(())
    }
}

/// Whether the transaction only reads, so that it needs no consensus. A nested transaction counts as a write, as in etcd.
pub(crate) fn txn_only_reads(request: &TxnRequest) -> bool {
    ranges(request).count() == operations(request).count()
}

/// Whether a transaction that only reads is content with what this node has.
pub(crate) fn txn_is_serializable(request: &TxnRequest) -> bool {
    ranges(request).all(|range| range.serializable)
}

/// The transaction's reads, of both branches, without those of nested transactions.
pub(crate) fn ranges(request: &TxnRequest) -> impl Iterator<Item = &RangeRequest> {
    operations(request).filter_map(|operation| match &operation.request {
        Some(Op::RequestRange(range)) => Some(range),
        _ => None,
    })
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn txn_operations(request: &TxnRequest, allowed: usize) -> Result<(), KvError> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if longest > allowed {
        return Err(KvError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(KvError::EmptyKey);
    }
    operations(request).try_for_each(|operation| match &operation.request {
        Some(Op::RequestRange(request)) => range(request),
        Some(Op::RequestPut(request)) => put(request),
        Some(Op::RequestDeleteRange(request)) => delete_range(request),
        Some(Op::RequestTxn(request)) => txn_operations(request, allowed - longest),
        None => Err(KvError::KeyNotFound),
    })
}

/// The keys that a list of operations may put and delete, collected to find a key that would change twice at one revision.
///
/// etcd's rules, and its gaps: the two branches of one nested transaction may change the same key, since only one of them runs; a
/// delete inside a nested transaction is compared with the puts around it and after it, not with those of an earlier nested one; and
/// an open end (one zero byte) is compared as written, so it covers nothing here.
#[derive(Default)]
struct Changes<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Changes<'a> {
    fn of(operations: &'a [RequestOp]) -> Result<Self, KvError> {
        let mut changes = Self::default();
        for operation in operations {
            if let Some(Op::RequestDeleteRange(request)) = &operation.request {
                changes.deletes.add(&request.key, &request.range_end);
            }
        }
        for operation in operations {
            if let Some(Op::RequestTxn(request)) = &operation.request {
                changes.add_branches(
                    Changes::of(&request.success)?,
                    Changes::of(&request.failure)?,
                )?;
            }
        }
        for operation in operations {
            if let Some(Op::RequestPut(request)) = &operation.request {
                changes.add_put(&request.key)?;
            }
        }
        Ok(changes)
    }

    fn add_branches(&mut self, success: Changes<'a>, failure: Changes<'a>) -> Result<(), KvError> {
        for key in &success.puts {
            self.add_put(key)?;
        }
        for key in failure.puts {
            if !success.puts.contains(key) {
                self.add_put(key)?;
            }
        }
        self.deletes.merge(success.deletes);
        self.deletes.merge(failure.deletes);
        Ok(())
    }

    fn add_put(&mut self, key: &'a [u8]) -> Result<(), KvError> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(KvError::DuplicateKey);
        }
        Ok(())
    }
}

/// A set of keys and ranges of keys, in which a look-up costs O(log n) whatever a client sends.
#[derive(Default)]
struct Intervals<'a> {
    points: HashSet<&'a [u8]>,
    /// Begin -> end, disjoint.
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Intervals<'a> {
    fn add(&mut self, begin: &'a [u8], end: &'a [u8]) {
        if end.is_empty() {
            self.points.insert(begin);
        } else if begin < end {
            self.add_range(begin, end);
        }
    }

    fn add_range(&mut self, mut begin: &'a [u8], mut end: &'a [u8]) {
        // Swallow every range that touches this one, from the right.
        while let Some((&other_begin, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < begin {
                break;
            }
            self.ranges.remove(other_begin);
            begin = begin.min(other_begin);
            end = end.max(other_end);
        }
        self.ranges.insert(begin, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        let covers = |(_, end): (&&[u8], &&'a [u8])| key < *end;
        self.points.contains(key) || self.ranges.range(..=key).next_back().is_some_and(covers)
    }

    fn merge(&mut self, other: Intervals<'a>) {
        self.points.extend(other.points);
        for (begin, end) in other.ranges {
            self.add_range(begin, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::Compare;

    fn put_op(key: &str) -> RequestOp {
        let request = PutRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        RequestOp {
            request: Some(Op::RequestPut(request)),
        }
    }

    fn delete_op(key: &str, range_end: &str) -> RequestOp {
        let request = DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..Default::default()
        };
        RequestOp {
            request: Some(Op::RequestDeleteRange(request)),
        }
    }

    fn range_op(key: &str, serializable: bool) -> RequestOp {
        let request = RangeRequest {
            key: key.to_owned().into(),
            serializable,
            ..Default::default()
        };
        RequestOp {
            request: Some(Op::RequestRange(request)),
        }
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp {
            request: Some(Op::RequestTxn(TxnRequest {
                compare: vec![],
                success,
                failure,
            })),
        }
    }

    fn then(success: Vec<RequestOp>) -> TxnRequest {
        TxnRequest {
            compare: vec![],
            success,
            failure: vec![],
        }
    }

    #[test]
    fn range_needs_a_key_and_known_sort_options() {
        let good = RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        assert_eq!(range(&good), Ok(()));
        assert_eq!(range(&RangeRequest::default()), Err(KvError::EmptyKey));
        assert_eq!(
            range(&RangeRequest {
                sort_order: 3,
                ..good.clone()
            }),
            Err(KvError::InvalidSortOption)
        );
        assert_eq!(
            range(&RangeRequest {
                sort_target: -1,
                ..good
            }),
            Err(KvError::InvalidSortOption)
        );
    }

    #[test]
    fn put_refuses_what_it_is_told_to_ignore() {
        let good = PutRequest {
            key: "a".into(),
            ..Default::default()
        };
        assert_eq!(put(&good), Ok(()));
        assert_eq!(
            put(&PutRequest {
                value: "v".into(),
                ignore_value: true,
                ..good.clone()
            }),
            Err(KvError::ValueProvided)
        );
        assert_eq!(
            put(&PutRequest {
                lease: 1,
                ignore_lease: true,
                ..good
            }),
            Err(KvError::LeaseProvided)
        );
        assert_eq!(
            put(&PutRequest {
                ignore_value: true,
                value: "v".into(),
                ..Default::default()
            }),
            Err(KvError::EmptyKey)
        );
    }

    #[test]
    fn txn_has_at_most_128_operations_in_a_list() {
        let many = |count: usize| {
            (0..count)
                .map(|n| put_op(&format!("k{n}")))
                .collect::<Vec<_>>()
        };
        assert_eq!(txn(&then(many(MAX_TXN_OPERATIONS))), Ok(()));
        assert_eq!(
            txn(&then(many(MAX_TXN_OPERATIONS + 1))),
            Err(KvError::TooManyOps)
        );
        let compare = vec![
            Compare {
                key: "a".into(),
                ..Default::default()
            };
            MAX_TXN_OPERATIONS + 1
        ];
        assert_eq!(
            txn(&TxnRequest {
                compare,
                ..Default::default()
            }),
            Err(KvError::TooManyOps)
        );
    }

    #[test]
    fn nested_txns_share_what_is_left_of_the_operations() {
        let many = |count: usize| {
            (0..count)
                .map(|n| put_op(&format!("k{n}")))
                .collect::<Vec<_>>()
        };
        assert_eq!(txn(&then(vec![txn_op(many(127), vec![])])), Ok(()));
        assert_eq!(
            txn(&then(vec![txn_op(many(128), vec![])])),
            Err(KvError::TooManyOps)
        );
    }

    #[test]
    fn txn_operations_are_checked_one_by_one() {
        assert_eq!(
            txn(&then(vec![RequestOp { request: None }])),
            Err(KvError::KeyNotFound)
        );
        assert_eq!(txn(&then(vec![delete_op("", "z")])), Err(KvError::EmptyKey));
        assert_eq!(
            txn(&then(vec![txn_op(vec![], vec![range_op("", true)])])),
            Err(KvError::EmptyKey)
        );
        let compare = vec![Compare::default()];
        assert_eq!(
            txn(&TxnRequest {
                compare,
                ..Default::default()
            }),
            Err(KvError::EmptyKey)
        );
    }

    #[test]
    fn no_key_changes_twice() {
        for refused in [
            vec![put_op("a"), put_op("a")],
            vec![put_op("a"), delete_op("a", "")],
            vec![delete_op("a", "c"), put_op("b")],
            vec![delete_op("a", "c"), delete_op("b", "d"), put_op("c")],
            vec![put_op("a"), txn_op(vec![put_op("a")], vec![])],
            vec![put_op("b"), txn_op(vec![], vec![delete_op("a", "c")])],
            vec![
                txn_op(vec![put_op("a")], vec![]),
                txn_op(vec![], vec![put_op("a")]),
            ],
            vec![
                txn_op(vec![delete_op("a", "c")], vec![]),
                txn_op(vec![put_op("b")], vec![]),
            ],
        ] {
            assert_eq!(
                txn(&then(refused.clone())),
                Err(KvError::DuplicateKey),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn branches_that_exclude_each_other_may_change_the_same_key() {
        for allowed in [
            vec![txn_op(vec![put_op("a")], vec![put_op("a")])],
            vec![txn_op(vec![put_op("a")], vec![delete_op("a", "b")])],
            vec![delete_op("a", "c"), delete_op("b", "d"), put_op("d")],
            vec![delete_op("c", "a"), put_op("b")],
            vec![put_op("a"), put_op("b"), range_op("a", false)],
        ] {
            assert_eq!(txn(&then(allowed.clone())), Ok(()), "{allowed:?}");
        }
        let both = TxnRequest {
            compare: vec![],
            success: vec![put_op("a")],
            failure: vec![put_op("a")],
        };
        assert_eq!(txn(&both), Ok(()));
    }

    #[test]
    fn intervals_merge_when_they_touch() {
        let mut intervals = Intervals::default();
        for (begin, end) in [("a", "c"), ("e", "g"), ("k", "m"), ("b", "f")] {
            intervals.add(begin.as_bytes(), end.as_bytes());
        }
        let ranges: Vec<_> = intervals.ranges.iter().map(|(b, e)| (*b, *e)).collect();
        assert_eq!(ranges, [(&b"a"[..], &b"g"[..]), (b"k", b"m")]);
        assert!(intervals.contains(b"d") && !intervals.contains(b"g") && !intervals.contains(b"h"));
    }

    #[test]
    fn reading_txns_are_told_from_writing_ones() {
        assert!(
            txn_only_reads(&TxnRequest::default()) && txn_is_serializable(&TxnRequest::default())
        );
        let mixed = TxnRequest {
            compare: vec![],
            success: vec![range_op("a", true)],
            failure: vec![range_op("a", false)],
        };
        assert!(txn_only_reads(&mixed) && !txn_is_serializable(&mixed));
        assert!(!txn_only_reads(&then(vec![txn_op(vec![], vec![])])));
        assert!(!txn_only_reads(&then(vec![put_op("a")])));
    }

    #[test]
    fn requests_end_at_one_and_a_half_mebibytes() {
        assert_eq!(size(MAX_REQUEST_BYTES), Ok(()));
        assert_eq!(size(MAX_REQUEST_BYTES + 1), Err(KvError::RequestTooLarge));
    }
}
