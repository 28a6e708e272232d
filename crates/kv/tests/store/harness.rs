//! A store with the log that feeds it, and short ways to write requests.

use bytes::Bytes;
use eaves::{Command, Position, StateMachine};
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::proto::mvccpb::KeyValue;
use eaves_kv::store::{KvCommand, KvError, Store, decode_answer};
use tempfile::TempDir;

/// A store, its directory, and all that was ever applied to it.
pub struct Node {
    pub dir: TempDir,
    pub store: Store,
    pub log: Vec<Bytes>,
}

impl Node {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(dir.path()).unwrap(),
            dir,
            log: Vec::new(),
        }
    }

    /// Applies commands as one batch.
    pub fn apply_all(&mut self, commands: &[KvCommand]) -> Vec<Bytes> {
        let first = self.log.len();
        self.log.extend(commands.iter().map(KvCommand::encode));
        apply_log(&self.store, &self.log, first)
    }

    pub fn apply(&mut self, command: KvCommand) -> Bytes {
        self.apply_all(&[command]).remove(0)
    }

    pub fn put(&mut self, request: PutRequest) -> Result<PutResponse, KvError> {
        decode_answer(self.apply(KvCommand::Put(request)))
    }

    pub fn delete(&mut self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, KvError> {
        decode_answer(self.apply(KvCommand::DeleteRange(request)))
    }

    pub fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, KvError> {
        decode_answer(self.apply(KvCommand::Txn(request)))
    }

    pub fn compact(&mut self, revision: i64) -> Result<CompactionResponse, KvError> {
        let physical = false;
        decode_answer(self.apply(KvCommand::Compact(CompactionRequest { revision, physical })))
    }

    /// Puts that succeed.
    pub fn puts(&mut self, pairs: &[(&str, &str)]) {
        for (key, value) in pairs {
            self.put(put(key, value)).unwrap();
        }
    }

    pub fn persist(&self) {
        self.store.persist(self.log.len() as u64).unwrap();
    }

    /// Persists until nothing unreachable is left.
    pub fn scrub(&self) {
        let mut scrubbed = self.store.scrubbed_revision();
        while *scrubbed.borrow_and_update() < self.store.compact_revision() {
            self.persist();
        }
    }

    /// Loses what is in memory, opens what is on disk and applies the rest of the log again.
    pub fn crash(&mut self) {
        // The old store must let go of the file first.
        let nowhere = tempfile::tempdir().unwrap();
        self.store = Store::open(nowhere.path()).unwrap();
        self.store = Store::open(self.dir.path()).unwrap();
        let index = durable_index(&self.store);
        if index < self.log.len() {
            apply_log(&self.store, &self.log, index);
        }
    }
}

/// Applies everything of `log` from `first` on.
pub fn apply_log(store: &Store, log: &[Bytes], first: usize) -> Vec<Bytes> {
    let commands: Vec<Command> = log[first..]
        .iter()
        .enumerate()
        .map(|(i, data)| Command {
            index: (first + i + 1) as u64,
            data: data.clone(),
        })
        .collect();
    let index = log.len() as u64;
    store
        .apply(&commands, index, position(index))
        .expect("the state file is sound")
}

pub fn position(index: u64) -> Position {
    Position(Bytes::copy_from_slice(&index.to_le_bytes()))
}

/// The log index the durable state stands for.
pub fn durable_index(store: &Store) -> usize {
    store.position().map_or(0, |position| {
        u64::from_le_bytes(position.0.as_ref().try_into().unwrap()) as usize
    })
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        prev_kv: false,
    }
}

pub fn get(key: &str) -> RangeRequest {
    range(key, "")
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..Default::default()
    }
}

pub fn all() -> RangeRequest {
    range("\0", "\0")
}

pub fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue {
        key: bytes(key),
        value: bytes(value),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

pub fn op_put(request: PutRequest) -> RequestOp {
    op(request_op::Request::RequestPut(request))
}

pub fn op_delete(request: DeleteRangeRequest) -> RequestOp {
    op(request_op::Request::RequestDeleteRange(request))
}

pub fn op_range(request: RangeRequest) -> RequestOp {
    op(request_op::Request::RequestRange(request))
}

pub fn op_txn(request: TxnRequest) -> RequestOp {
    op(request_op::Request::RequestTxn(request))
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

pub fn compare(
    key: &str,
    target: compare::CompareTarget,
    result: compare::CompareResult,
    union: compare::TargetUnion,
) -> Compare {
    Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(union),
    }
}

/// Keys of an answer, as text.
pub fn keys(response: &RangeResponse) -> Vec<String> {
    let text = |kv: &KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
    response.kvs.iter().map(text).collect()
}

pub fn revision_of(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}
