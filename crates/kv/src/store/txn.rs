//! Writes: one command's changes to the state, all under one main revision.
//!
//! A [`WriteTxn`] begins at the store's revision and writes to the next; what it writes it sees at once, at that next revision. A
//! transaction request first decides every branch on the state before it, nested ones included, then checks everything that could be
//! refused, and only then changes anything: so it happens whole or not at all, without undoing.

use super::error::KvError;
use super::index::KeyRange;
use super::range::{ReadError, State, check_sort, header};
use super::record::{Record, Revision};
use super::table::StateFileError;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use bytes::Bytes;
use std::cmp::Ordering;

/// One command under way.
pub struct WriteTxn<'a> {
    state: &'a mut State,
    /// The store's revision before the command.
    before: i64,
    /// Changes so far.
    changes: u32,
}

impl<'a> WriteTxn<'a> {
    /// Begins a command.
    pub fn begin(state: &'a mut State) -> Self {
        let before = state.revision;
        Self {
            state,
            before,
            changes: 0,
        }
    }

    /// Ends the command: the revision moves by one if anything changed.
    pub fn end(self) {
        self.state.revision = self.now();
    }

    /// Executes a put.
    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, ReadError> {
        check_lease(request)?;
        self.state.check_keeps(request)?;
        Ok(self.put_checked(request)?)
    }

    fn put_checked(&mut self, request: &PutRequest) -> Result<PutResponse, StateFileError> {
        let keeps = request.ignore_value || request.ignore_lease;
        let previous = if keeps || request.prev_kv {
            self.state.get(&request.key, self.now())?
        } else {
            None
        };
        // A transaction that deletes a key and then puts it keeping its value has nothing to keep; services refuse such a one.
        let value = match &previous {
            Some(previous) if request.ignore_value => &previous.value,
            _ => &request.value,
        };
        let lease = match &previous {
            Some(previous) if request.ignore_lease => previous.lease,
            _ => request.lease,
        };
        let revision = self.next_revision();
        let put = self.state.index.put(&request.key, revision);
        self.state.overlay.push(Record {
            revision,
            key: request.key.clone(),
            value: value.clone(),
            create_revision: put.create_revision,
            version: put.version,
            lease,
        });
        Ok(PutResponse {
            header: Some(header(self.now())),
            prev_kv: previous
                .filter(|_| request.prev_kv)
                .map(|previous| previous.to_key_value()),
        })
    }

    /// Executes a delete of a key or range.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, StateFileError> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut keys = Vec::new();
        self.state
            .index
            .for_each_live(range, self.now(), |key, revision| {
                keys.push((Bytes::copy_from_slice(key), revision));
            });
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            for (_, revision) in &keys {
                let record = self.state.locate(*revision).fetch(&self.state.view)?;
                prev_kvs.push(record.to_key_value());
            }
        }
        let deleted = keys.len() as i64;
        for (key, _) in keys {
            let revision = self.next_revision();
            self.state.index.delete(&key, revision);
            self.state.overlay.push(Record::tombstone(revision, key));
        }
        Ok(DeleteRangeResponse {
            header: Some(header(self.now())),
            deleted,
            prev_kvs,
        })
    }

    /// Executes a transaction.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
        let plan = self.state.plan(request)?;
        self.state.check(&plan, Writes::Checked)?;
        let mut response = self.execute(&plan)?;
        response.header = Some(header(self.now()));
        Ok(response)
    }

    /// Executes what was checked: nothing here is refused.
    fn execute(&mut self, plan: &Plan<'_>) -> Result<TxnResponse, StateFileError> {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let response = match step {
                Step::Range(request) => Some(Response::ResponseRange(self.range(request)?)),
                Step::Put(request) => Some(Response::ResponsePut(self.put_checked(request)?)),
                Step::DeleteRange(request) => {
                    Some(Response::ResponseDeleteRange(self.delete_range(request)?))
                }
                Step::Txn(plan) => Some(Response::ResponseTxn(self.execute(plan)?)),
                Step::Nothing => None,
            };
            responses.push(ResponseOp { response });
        }
        // Only the outermost header gets a revision: etcd leaves that of nested transactions empty.
        Ok(TxnResponse {
            header: Some(header(0)),
            succeeded: plan.succeeded,
            responses,
        })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StateFileError> {
        match self.state.range(request, self.now()) {
            Ok(response) => Ok(response),
            Err(ReadError::Broken(error)) => Err(error),
            Err(ReadError::Refused(error)) => {
                unreachable!("a range that was checked is refused: {error}")
            }
        }
    }

    /// The revision that reads of this command see, and that its answer shows.
    fn now(&self) -> i64 {
        self.before + i64::from(self.changes > 0)
    }

    fn next_revision(&mut self) -> Revision {
        let revision = Revision {
            main: self.before + 1,
            sub: self.changes,
        };
        self.changes = self
            .changes
            .checked_add(1)
            .expect("a command changes fewer than four billion keys");
        revision
    }
}

/// A transaction with its branches decided.
pub struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    DeleteRange(&'a DeleteRangeRequest),
    Txn(Plan<'a>),
    /// An operation without content; services refuse it, and if one comes it has an empty response.
    Nothing,
}

/// Whether a check looks at puts too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Checked,
    Absent,
}

/// Whether the request only reads: all its operations are ranges. A nested transaction makes it a write, as in etcd.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let is_range = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    request.success.iter().chain(&request.failure).all(is_range)
}

/// Executes a transaction that only reads.
pub fn read_only(state: &State, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
    assert!(is_read_only(request), "a read-only transaction only reads");
    let plan = state.plan(request)?;
    state.check(&plan, Writes::Absent)?;
    let mut responses = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let Step::Range(request) = step else {
            unreachable!("a read-only transaction has only ranges");
        };
        let response = Response::ResponseRange(state.range(request, state.revision)?);
        responses.push(ResponseOp {
            response: Some(response),
        });
    }
    Ok(TxnResponse {
        header: Some(header(state.revision)),
        succeeded: plan.succeeded,
        responses,
    })
}

impl State {
    /// Decides every branch on the state as it is.
    fn plan<'a>(&self, request: &'a TxnRequest) -> Result<Plan<'a>, StateFileError> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.compare(compare)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            steps.push(match &op.request {
                Some(Request::RequestRange(range)) => Step::Range(range),
                Some(Request::RequestPut(put)) => Step::Put(put),
                Some(Request::RequestDeleteRange(delete)) => Step::DeleteRange(delete),
                Some(Request::RequestTxn(nested)) => Step::Txn(self.plan(nested)?),
                None => Step::Nothing,
            });
        }
        Ok(Plan { succeeded, steps })
    }

    /// Refuses what cannot be executed. All puts come first, then all ranges: which error wins is etcd's.
    fn check(&self, plan: &Plan<'_>, writes: Writes) -> Result<(), KvError> {
        if writes == Writes::Checked {
            plan.for_each_step(&mut |step| match step {
                Step::Put(request) => self.check_put(request),
                _ => Ok(()),
            })?;
        }
        plan.for_each_step(&mut |step| match step {
            Step::Range(request) => self.check_range(request),
            _ => Ok(()),
        })
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), KvError> {
        self.check_keeps(request)?;
        check_lease(request)
    }

    /// Keeping a value or lease needs a key that has one.
    fn check_keeps(&self, request: &PutRequest) -> Result<(), KvError> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.index.get(&request.key, self.revision).is_none() {
            return Err(KvError::KeyNotFound);
        }
        Ok(())
    }

    /// Unlike outside of transactions, a negative revision below that of the last compaction (-1 before the first) is compacted: etcd's
    /// check is literal.
    fn check_range(&self, request: &RangeRequest) -> Result<(), KvError> {
        check_sort(request)?;
        if request.revision > self.revision {
            return Err(KvError::FutureRevision);
        }
        if request.revision != 0 && request.revision < self.compact_revision {
            return Err(KvError::Compacted);
        }
        Ok(())
    }

    /// Whether a comparison holds: for every key of its range, or on a key of zeros if there is none. A value is never equal, less or
    /// anything else to that of a key that is not there.
    fn compare(&self, compare: &Compare) -> Result<bool, StateFileError> {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        if let KeyRange::One(key) = range
            && let Some(numbers) = self.numbers_of(key)
            && is_in_index(compare.target)
        {
            return Ok(holds(compare, &numbers));
        }
        let mut found = Vec::new();
        self.index
            .for_each_live(range, self.revision, |_, revision| found.push(revision));
        if found.is_empty() {
            let absent = Record::tombstone(Revision::default(), Bytes::new());
            let on_value = compare.target == CompareTarget::Value as i32;
            return Ok(!on_value && holds(compare, &absent));
        }
        for revision in found {
            if !holds(compare, &self.locate(revision).fetch(&self.view)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The key as the index knows it, without value and lease: that spares most comparisons the state file.
    fn numbers_of(&self, key: &[u8]) -> Option<Record> {
        let (revision, put) = self.index.newest(key)?;
        Some(Record {
            create_revision: put.create_revision,
            version: put.version,
            ..Record::tombstone(revision, Bytes::new())
        })
    }
}

/// Whether the index knows what a comparison of this target asks for.
fn is_in_index(target: i32) -> bool {
    matches!(
        CompareTarget::try_from(target),
        Ok(CompareTarget::Version | CompareTarget::Create | CompareTarget::Mod)
    )
}

impl Plan<'_> {
    fn for_each_step(
        &self,
        visit: &mut impl FnMut(&Step<'_>) -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        for step in &self.steps {
            match step {
                Step::Txn(nested) => nested.for_each_step(visit)?,
                step => visit(step)?,
            }
        }
        Ok(())
    }
}

/// No lease exists yet, so none can be attached.
fn check_lease(request: &PutRequest) -> Result<(), KvError> {
    if request.lease == 0 {
        Ok(())
    } else {
        Err(KvError::LeaseNotFound)
    }
}

/// Compares one record. A comparand of another kind than the target counts as zero or empty; an unknown target compares equal and an
/// unknown relation holds, as in etcd.
fn holds(compare: &Compare, record: &Record) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => record.version.cmp(&match union {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => record.create_revision.cmp(&match union {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => record.revision.main.cmp(&match union {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => record.lease.cmp(&match union {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        Ok(CompareTarget::Value) => record.value.as_ref().cmp(match union {
            Some(TargetUnion::Value(value)) => value.as_ref(),
            _ => &[],
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
