//! The naive model: a list of everything that happened, and answers found by going through all of it.

use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use eaves_kv::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use eaves_kv::proto::etcdserverpb::request_op::Request;
use eaves_kv::proto::etcdserverpb::response_op::Response;
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::proto::mvccpb::KeyValue;
use eaves_kv::store::KvError;
use std::collections::BTreeMap;

/// A put (with a value) or a delete of a key.
#[derive(Clone, Debug)]
pub struct Happened {
    pub revision: i64,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub events: Vec<Happened>,
    pub revision: i64,
    pub compact_revision: i64,
}

impl Model {
    pub fn new() -> Self {
        Self {
            events: Vec::new(),
            revision: 1,
            compact_revision: -1,
        }
    }

    /// All keys as of a revision.
    pub fn at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut keys: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for event in self.events.iter().filter(|e| e.revision <= revision) {
            let Some(value) = &event.value else {
                keys.remove(&event.key);
                continue;
            };
            let kv = keys.entry(event.key.clone()).or_insert_with(|| KeyValue {
                key: event.key.clone(),
                create_revision: event.revision,
                ..Default::default()
            });
            kv.value = value.clone();
            kv.mod_revision = event.revision;
            kv.version += 1;
        }
        keys
    }

    fn in_range(&self, key: &Bytes, range_end: &Bytes, revision: i64) -> Vec<KeyValue> {
        self.at(revision)
            .into_values()
            .filter(|kv| in_range(&kv.key, key, range_end))
            .collect()
    }

    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, KvError> {
        self.whole(|model, now| {
            if request.lease != 0 {
                return Err(KvError::LeaseNotFound);
            }
            model.check_put(request)?;
            Ok(model.put_in(request, now))
        })
    }

    pub fn delete(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, KvError> {
        self.whole(|model, now| Ok(model.delete_in(request, now)))
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, KvError> {
        let before = self.clone();
        self.whole(|model, now| {
            before.check(request, &mut |op| match op {
                Request::RequestPut(put) => before.check_put(put),
                _ => Ok(()),
            })?;
            before.check(request, &mut |op| match op {
                Request::RequestRange(range) => before.check_range(range),
                _ => Ok(()),
            })?;
            let mut response = model.txn_in(request, &before, now)?;
            response.header = header(model.now(now));
            Ok(response)
        })
    }

    pub fn compact(&mut self, revision: i64) -> Result<CompactionResponse, KvError> {
        if revision <= self.compact_revision {
            return Err(KvError::Compacted);
        }
        if revision > self.revision {
            return Err(KvError::FutureRevision);
        }
        self.compact_revision = revision;
        Ok(CompactionResponse {
            header: header(self.revision),
        })
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        self.range_in(request, self.revision)
    }

    /// Runs one command: all of it or nothing.
    fn whole<T>(
        &mut self,
        command: impl FnOnce(&mut Model, i64) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let mut after = self.clone();
        let answer = command(&mut after, self.revision)?;
        after.revision = after.now(self.revision);
        *self = after;
        Ok(answer)
    }

    /// The revision that a command which began at `before` sees.
    fn now(&self, before: i64) -> i64 {
        before + i64::from(self.events.iter().any(|event| event.revision > before))
    }

    fn put_in(&mut self, request: &PutRequest, before: i64) -> PutResponse {
        let previous = self.at(before + 1).get(&request.key).cloned();
        let value = match &previous {
            Some(previous) if request.ignore_value => previous.value.clone(),
            _ => request.value.clone(),
        };
        self.events.push(Happened {
            revision: before + 1,
            key: request.key.clone(),
            value: Some(value),
        });
        PutResponse {
            header: header(before + 1),
            prev_kv: previous.filter(|_| request.prev_kv),
        }
    }

    fn delete_in(&mut self, request: &DeleteRangeRequest, before: i64) -> DeleteRangeResponse {
        let found = self.in_range(&request.key, &request.range_end, before + 1);
        for kv in &found {
            self.events.push(Happened {
                revision: before + 1,
                key: kv.key.clone(),
                value: None,
            });
        }
        DeleteRangeResponse {
            header: header(self.now(before)),
            deleted: found.len() as i64,
            prev_kvs: if request.prev_kv { found } else { Vec::new() },
        }
    }

    fn txn_in(
        &mut self,
        request: &TxnRequest,
        pre: &Model,
        before: i64,
    ) -> Result<TxnResponse, KvError> {
        let (succeeded, ops) = pre.branch(request);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestRange(range) => {
                    Response::ResponseRange(self.range_in(range, self.now(before))?)
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put_in(put, before)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete_in(delete, before))
                }
                Request::RequestTxn(txn) => Response::ResponseTxn(self.txn_in(txn, pre, before)?),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: header(0),
            succeeded,
            responses,
        })
    }

    fn branch<'a>(&self, request: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        if request.compare.iter().all(|compare| self.holds(compare)) {
            (true, &request.success)
        } else {
            (false, &request.failure)
        }
    }

    fn check(
        &self,
        request: &TxnRequest,
        check: &mut dyn FnMut(&Request) -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        for op in self.branch(request).1 {
            match op.request.as_ref().expect("an operation") {
                Request::RequestTxn(txn) => self.check(txn, check)?,
                op => check(op)?,
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), KvError> {
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && !self.at(self.revision).contains_key(&put.key) {
            return Err(KvError::KeyNotFound);
        }
        if put.lease != 0 {
            return Err(KvError::LeaseNotFound);
        }
        Ok(())
    }

    fn check_range(&self, range: &RangeRequest) -> Result<(), KvError> {
        match range.revision {
            0 => Ok(()),
            revision if revision > self.revision => Err(KvError::FutureRevision),
            revision if revision < self.compact_revision => Err(KvError::Compacted),
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.in_range(&compare.key, &compare.range_end, self.revision);
        if found.is_empty() {
            return compare.target() != CompareTarget::Value
                && holds(compare, &KeyValue::default());
        }
        found.iter().all(|kv| holds(compare, kv))
    }

    fn range_in(&self, request: &RangeRequest, now: i64) -> Result<RangeResponse, KvError> {
        if request.revision > now {
            return Err(KvError::FutureRevision);
        }
        let at = if request.revision <= 0 {
            now
        } else {
            request.revision
        };
        if at < self.compact_revision {
            return Err(KvError::Compacted);
        }
        let mut kvs = self.in_range(&request.key, &request.range_end, at);
        let count = kvs.len() as i64;
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX
        };
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.count_only {
            kvs.clear();
        }
        if request.sort_order() == SortOrder::None && filters == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        let [min_mod, max_mod, min_create, max_create] = filters;
        kvs.retain(|kv| min_mod == 0 || kv.mod_revision >= min_mod);
        kvs.retain(|kv| max_mod == 0 || kv.mod_revision <= max_mod);
        kvs.retain(|kv| min_create == 0 || kv.create_revision >= min_create);
        kvs.retain(|kv| max_create == 0 || kv.create_revision <= max_create);
        let key_of = |kv: &KeyValue| match request.sort_target() {
            SortTarget::Key => (kv.key.clone(), 0),
            SortTarget::Value => (kv.value.clone(), 0),
            SortTarget::Version => (Bytes::new(), kv.version),
            SortTarget::Create => (Bytes::new(), kv.create_revision),
            SortTarget::Mod => (Bytes::new(), kv.mod_revision),
        };
        if request.sort_order() == SortOrder::Descend {
            kvs.sort_by_key(|kv| std::cmp::Reverse(key_of(kv)));
        } else {
            kvs.sort_by_key(key_of);
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse {
            header: header(now),
            kvs,
            more,
            count,
        })
    }
}

/// Whether a request's range has a key.
pub fn in_range(candidate: &Bytes, key: &Bytes, range_end: &Bytes) -> bool {
    if range_end.is_empty() {
        candidate == key
    } else {
        candidate >= key && (range_end.as_ref() == b"\0" || candidate < range_end)
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let number = |actual: i64, expected: Option<i64>| actual.cmp(&expected.unwrap_or(0));
    let union = compare.target_union.clone();
    let ordering = match compare.target() {
        CompareTarget::Version => number(
            kv.version,
            union.and_then(|union| match union {
                TargetUnion::Version(version) => Some(version),
                _ => None,
            }),
        ),
        CompareTarget::Create => number(
            kv.create_revision,
            union.and_then(|union| match union {
                TargetUnion::CreateRevision(revision) => Some(revision),
                _ => None,
            }),
        ),
        CompareTarget::Mod => number(
            kv.mod_revision,
            union.and_then(|union| match union {
                TargetUnion::ModRevision(revision) => Some(revision),
                _ => None,
            }),
        ),
        CompareTarget::Lease => number(
            kv.lease,
            union.and_then(|union| match union {
                TargetUnion::Lease(lease) => Some(lease),
                _ => None,
            }),
        ),
        CompareTarget::Value => kv.value.cmp(&match union {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}
