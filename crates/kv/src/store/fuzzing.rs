//! Entry points of the fuzzers: requests that clients may write, and snapshots that peers may send. Built for tests and fuzzers only; see
//! `fuzz/README.md`.
//!
//! A request goes the way of a real one: checked, made a command, applied. It is applied to two states, whose answers and contents must
//! be the same, and, where the input speaks of few keys, to the naive model that the tests of the store have. Applying touches memory
//! alone, so a state here is one that begins empty above an empty file that all inputs share.

#[path = "../../tests/store/model.rs"]
mod model;

use super::command::{KvCommand, decode_answer};
use super::index::Index;
use super::range::State;
use super::record::{Record, Revision};
use super::snapshot::{Brought, Received};
use super::table::{StateFile, View};
use super::{KvError, Store};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::*;
use crate::services::validate;
use arbitrary::Unstructured;
use bytes::{BufMut, Bytes, BytesMut};
use eaves::{Command, Position, StateMachine};
use eaves_log::Disk;
use eaves_log::sim::SimDisk;
use model::Model;
use prost::Message;
use std::path::Path;
use std::sync::Arc;

/// Requests of one input.
const MAX_REQUESTS: usize = 24;

/// Operations in one list of a transaction that the script makes.
const MAX_OPERATIONS: usize = 3;

/// Keys of which a script speaks: few, so that requests meet. Not more than six: in larger answers etcd, and so the store, leaves ties in
/// an order that the model does not know.
const KEYS: [&[u8]; 6] = [b"a", b"ab", b"b", b"b\0", b"b\xff", b"\0"];
const ENDS: [&[u8]; 6] = [b"", b"", b"\0", b"b", b"c", b"\xff"];
const VALUES: [&[u8]; 4] = [b"", b"1", b"2", b"three"];

/// What the fuzzer of requests calls. The first byte says whether the rest are messages as clients send them, or a script.
pub fn etcd_requests(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut script = Unstructured::new(rest);
    // A script that ends early writes nothing more.
    let _ended = match kind % 3 {
        0 => messages(&mut script),
        1 => scripted(&mut script),
        _ => {
            as_it_is(rest);
            Ok(())
        }
    };
}

/// Two states that are given the same.
struct Twins {
    one: State,
    other: State,
    index: u64,
}

impl Twins {
    fn new() -> Twins {
        Twins {
            one: empty_state(),
            other: empty_state(),
            index: 0,
        }
    }

    /// Applies a command to both. Returns its answer.
    fn apply(&mut self, data: Bytes) -> Bytes {
        self.index += 1;
        let before = (self.one.revision, self.one.compact_revision);
        let [answer, twin] = [&mut self.one, &mut self.other].map(|state| {
            let command = Command {
                index: self.index,
                data: data.clone(),
            };
            let applied = state.apply(&[command], self.index, Position::default());
            applied.expect("memory does not fail").remove(0)
        });
        assert_eq!(answer, twin, "two replicas answer differently");
        assert!(
            (before.0..=before.0 + 1).contains(&self.one.revision),
            "a command moves the revision by one at most: {} to {}",
            before.0,
            self.one.revision
        );
        assert!(self.one.compact_revision >= before.1);
        assert!(self.one.compact_revision <= self.one.revision);
        answer
    }

    /// Both hold the same.
    fn check(&self) {
        let all = |state: &State| {
            let request = RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                ..Default::default()
            };
            range(state, &request)
        };
        assert_eq!(all(&self.one), all(&self.other));
        assert_eq!(self.one.revision, self.other.revision);
    }
}

fn range(state: &State, request: &RangeRequest) -> Result<RangeResponse, KvError> {
    let found = state.find(request, state.revision)?;
    Ok(found.finish(request).expect("memory does not fail"))
}

/// A state as a node that never ran has it.
fn empty_state() -> State {
    thread_local! {
        static VIEW: Arc<View> = {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
            disk.create_dir_all(Path::new("/data")).expect("the disk works");
            let file = StateFile::create(&disk, Path::new("/data/state")).expect("the disk works");
            Arc::new(file.view().expect("an empty file is read"))
        };
    }
    VIEW.with(|view| State {
        index: Index::default(),
        overlay: Default::default(),
        revision: 1,
        compact_revision: -1,
        view: view.clone(),
    })
}

/// Messages as they come from clients: refused, or written.
fn messages(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut twins = Twins::new();
    for _ in 0..MAX_REQUESTS {
        if script.is_empty() {
            break;
        }
        let kind = script.int_in_range(0..=4u8)?;
        let count = usize::from(script.arbitrary::<u8>()?).min(script.len());
        let bytes = Bytes::copy_from_slice(script.bytes(count)?);
        let command = match kind {
            0 => checked(bytes, validate::put, KvCommand::Put),
            1 => checked(bytes, validate::delete_range, KvCommand::DeleteRange),
            2 => checked(bytes, validate::txn, KvCommand::Txn),
            3 => checked(bytes, |_| Ok(()), KvCommand::Compact),
            _ => {
                if let Ok(request) = RangeRequest::decode(bytes)
                    && validate::range(&request).is_ok()
                {
                    assert_eq!(range(&twins.one, &request), range(&twins.other, &request));
                }
                None
            }
        };
        let Some(command) = command else { continue };
        if let KvCommand::Txn(request) = &command
            && validate::txn_only_reads(request)
        {
            // Answered without the log, and the same as with it.
            let read = super::txn::read_only(&twins.one, request).map_err(|_| ());
            let read = read.map(|answer| answer.encode_to_vec());
            let written = decode_answer::<TxnResponse>(twins.apply(command.encode()));
            assert_eq!(read, written.map(|a| a.encode_to_vec()).map_err(|_| ()));
            continue;
        }
        let encoded = command.encode();
        assert_eq!(KvCommand::decode(encoded.clone()), Ok(command));
        twins.apply(encoded);
    }
    twins.check();
    Ok(())
}

/// A request, if it is one and nothing is wrong with it.
fn checked<M: Message + Default>(
    bytes: Bytes,
    check: fn(&M) -> Result<(), KvError>,
    command: fn(M) -> KvCommand,
) -> Option<KvCommand> {
    let request = M::decode(bytes).ok()?;
    check(&request).ok()?;
    Some(command(request))
}

/// Bytes in the log that nobody checked: the state machine has an answer all the same.
fn as_it_is(input: &[u8]) {
    let mut twins = Twins::new();
    for piece in input.split(|byte| *byte == 0xfe).take(MAX_REQUESTS) {
        let answer = twins.apply(Bytes::copy_from_slice(piece));
        assert!(!answer.is_empty(), "every command has an answer");
    }
    twins.check();
}

/// Requests about few keys, compared with the model.
fn scripted(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut twins = Twins::new();
    let mut model = Model::new();
    for _ in 0..MAX_REQUESTS {
        if script.is_empty() {
            break;
        }
        let request = match script.int_in_range(0..=9u8)? {
            0..=2 => Request::RequestPut(put(script)?),
            3 => Request::RequestDeleteRange(delete(script)?),
            4..=5 => Request::RequestTxn(txn(script, 2)?),
            6 => {
                let revision = script.int_in_range(-2..=30)?;
                let request = CompactionRequest {
                    revision,
                    physical: false,
                };
                let answer = twins.apply(KvCommand::Compact(request).encode());
                assert_eq!(decode_answer(answer), model.compact(revision));
                continue;
            }
            _ => {
                let request = range_request(script)?;
                assert_eq!(range(&twins.one, &request), model.range(&request));
                continue;
            }
        };
        write(&mut twins, &mut model, request);
        assert_eq!(twins.one.revision, model.revision);
    }
    for revision in model.compact_revision.max(1)..=model.revision {
        let request = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            revision,
            ..Default::default()
        };
        assert_eq!(range(&twins.one, &request), model.range(&request));
    }
    twins.check();
    Ok(())
}

/// Writes what a client may write, to the states and to the model.
fn write(twins: &mut Twins, model: &mut Model, request: Request) {
    match request {
        Request::RequestPut(put) if validate::put(&put).is_ok() => {
            let expected = model.put(&put);
            let answer = twins.apply(KvCommand::Put(put).encode());
            assert_eq!(decode_answer(answer), expected);
        }
        Request::RequestDeleteRange(delete) => {
            let expected = model.delete(&delete);
            let answer = twins.apply(KvCommand::DeleteRange(delete).encode());
            assert_eq!(decode_answer(answer), expected);
        }
        Request::RequestTxn(txn) if validate::txn(&txn).is_ok() => {
            let expected = model.txn(&txn);
            let answer = twins.apply(KvCommand::Txn(txn).encode());
            assert_eq!(decode_answer(answer), expected);
        }
        _ => {}
    }
}

fn one_of(script: &mut Unstructured<'_>, of: &[&'static [u8]]) -> arbitrary::Result<Bytes> {
    Ok(Bytes::from_static(script.choose(of)?))
}

/// Mostly small, at times negative: around the revisions that a short script reaches.
fn revision(script: &mut Unstructured<'_>) -> arbitrary::Result<i64> {
    match script.int_in_range(0..=3u8)? {
        0..=1 => Ok(0),
        2 => script.int_in_range(-3..=30),
        _ => script.arbitrary(),
    }
}

fn put(script: &mut Unstructured<'_>) -> arbitrary::Result<PutRequest> {
    let flags: u8 = script.arbitrary()?;
    let ignore_value = flags & 7 == 1;
    let ignore_lease = flags & 56 == 8;
    Ok(PutRequest {
        key: one_of(script, &KEYS)?,
        value: match ignore_value {
            true => Bytes::new(),
            false => one_of(script, &VALUES)?,
        },
        lease: i64::from(flags == 0xff),
        prev_kv: flags & 64 != 0,
        ignore_value,
        ignore_lease,
    })
}

fn delete(script: &mut Unstructured<'_>) -> arbitrary::Result<DeleteRangeRequest> {
    Ok(DeleteRangeRequest {
        key: one_of(script, &KEYS)?,
        range_end: one_of(script, &ENDS)?,
        prev_kv: script.arbitrary()?,
    })
}

fn range_request(script: &mut Unstructured<'_>) -> arbitrary::Result<RangeRequest> {
    let flags: u8 = script.arbitrary()?;
    let mut filters = [0; 4];
    if flags & 3 == 0 {
        for filter in &mut filters {
            *filter = revision(script)?;
        }
    }
    Ok(RangeRequest {
        key: one_of(script, &KEYS)?,
        range_end: one_of(script, &ENDS)?,
        limit: script.int_in_range(-1..=5)?,
        revision: revision(script)?,
        sort_order: script.int_in_range(0..=2)?,
        sort_target: script.int_in_range(0..=4)?,
        serializable: true,
        keys_only: flags & 12 == 4,
        count_only: flags & 48 == 16,
        min_mod_revision: filters[0],
        max_mod_revision: filters[1],
        min_create_revision: filters[2],
        max_create_revision: filters[3],
    })
}

fn compare(script: &mut Unstructured<'_>) -> arbitrary::Result<Compare> {
    let (target, target_union) = match script.int_in_range(0..=5u8)? {
        0 => (
            CompareTarget::Version,
            TargetUnion::Version(script.int_in_range(0..=3)?),
        ),
        1 => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(revision(script)?),
        ),
        2 => (
            CompareTarget::Mod,
            TargetUnion::ModRevision(revision(script)?),
        ),
        3 => (
            CompareTarget::Value,
            TargetUnion::Value(one_of(script, &VALUES)?),
        ),
        4 => (
            CompareTarget::Lease,
            TargetUnion::Lease(script.int_in_range(0..=1)?),
        ),
        _ => (CompareTarget::Mod, TargetUnion::Version(1)),
    };
    Ok(Compare {
        result: *script.choose(&[
            CompareResult::Equal as i32,
            CompareResult::Greater as i32,
            CompareResult::Less as i32,
            CompareResult::NotEqual as i32,
        ])?,
        target: target as i32,
        key: one_of(script, &KEYS)?,
        range_end: one_of(script, &ENDS)?,
        target_union: Some(target_union),
    })
}

fn txn(script: &mut Unstructured<'_>, levels: u8) -> arbitrary::Result<TxnRequest> {
    let mut request = TxnRequest::default();
    for _ in 0..script.int_in_range(0..=2)? {
        request.compare.push(compare(script)?);
    }
    for _ in 0..script.int_in_range(0..=MAX_OPERATIONS)? {
        request.success.push(operation(script, levels)?);
    }
    for _ in 0..script.int_in_range(0..=MAX_OPERATIONS)? {
        request.failure.push(operation(script, levels)?);
    }
    Ok(request)
}

fn operation(script: &mut Unstructured<'_>, levels: u8) -> arbitrary::Result<RequestOp> {
    let request = match script.int_in_range(0..=7u8)? {
        0..=2 => Request::RequestPut(put(script)?),
        3..=4 => Request::RequestDeleteRange(delete(script)?),
        5 if levels > 0 => Request::RequestTxn(txn(script, levels - 1)?),
        _ => Request::RequestRange(range_request(script)?),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

/// What the fuzzer of snapshots calls, with the part of its inputs that the library leaves to the state machine: chunks of records. Their
/// checksums are made to fit. A snapshot that is taken to its end leads to a state that can be read and written to; now and then all of
/// it goes through a real file.
pub fn snapshot_records(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    if kind % 4 != 3 {
        return;
    }
    // A script that ends early sends nothing more.
    let _ended = snapshot(&mut Unstructured::new(rest));
}

fn snapshot(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let through_a_file = script.arbitrary::<u8>()? == 0x5a;
    let mut chunks = Vec::new();
    let mut records = 0;
    let mut next = Revision { main: 2, sub: 0 };
    let mut begin = BytesMut::from(&b"B"[..]);
    begin.put_u32_le(u32::from(!script.ratio(1, 32)?));
    begin.put_u64_le(script.arbitrary()?);
    begin.put_i64_le(number(script, 20)?);
    begin.put_i64_le(number(script, 3)?);
    begin.put_i64_le(number(script, -1)?);
    chunks.push(begin.freeze());
    for _ in 0..script.int_in_range(0..=3)? {
        let mut chunk = BytesMut::from(&b"R"[..]);
        for _ in 0..script.int_in_range(0..=4)? {
            let record = record(script, next)?;
            next = Revision {
                main: record
                    .revision
                    .main
                    .wrapping_add(i64::from(script.ratio(3, 4)?)),
                sub: record.revision.sub.wrapping_add(1),
            };
            let mut row = Vec::new();
            record.encode_row(&mut row);
            if script.ratio(1, 16)? {
                let at = script.int_in_range(0..=row.len() - 1)?;
                row[at] ^= script.arbitrary::<u8>()?;
            }
            chunk.put_slice(&record.revision.to_row_key());
            chunk.put_u32_le(row.len() as u32);
            chunk.put_slice(&row);
            records += 1;
        }
        chunks.push(chunk.freeze());
    }
    let mut end = BytesMut::from(&b"E"[..]);
    end.put_i64_le(number(script, records)?);
    chunks.push(end.freeze());
    if script.ratio(1, 4)? {
        let at = script.int_in_range(0..=chunks.len() - 1)?;
        match script.int_in_range(0..=3u8)? {
            0 => drop(chunks.remove(at)),
            1 => chunks.insert(at, chunks[at].clone()),
            2 => {
                let keep = script.int_in_range(0..=chunks[at].len())?;
                chunks[at].truncate(keep);
            }
            _ => {
                let count = script.int_in_range(0..=script.len())?;
                chunks[at] = Bytes::copy_from_slice(script.bytes(count)?);
            }
        }
    }
    let whole = receive(&chunks);
    if through_a_file {
        assert_eq!(install(&chunks), whole);
    }
    Ok(())
}

/// Mostly the number expected, now and then another.
fn number(script: &mut Unstructured<'_>, expected: i64) -> arbitrary::Result<i64> {
    match script.int_in_range(0..=15u8)? {
        0 => script.arbitrary(),
        1 => Ok(i64::MAX),
        2 => script.int_in_range(-2..=30),
        _ => Ok(expected),
    }
}

fn record(script: &mut Unstructured<'_>, at: Revision) -> arbitrary::Result<Record> {
    let revision = Revision {
        main: number(script, at.main)?,
        sub: match script.ratio(1, 16)? {
            true => script.arbitrary()?,
            false => at.sub,
        },
    };
    let version = number(script, 1)?;
    Ok(Record {
        revision,
        key: one_of(script, &KEYS)?,
        value: one_of(script, &VALUES)?,
        create_revision: number(script, revision.main)?,
        version,
        lease: 0,
    })
}

/// Reads a snapshot as a sink does, and tries the state that comes of it. Returns its revision, if it was whole.
fn receive(chunks: &[Bytes]) -> Option<i64> {
    let mut received = Received::default();
    let mut overlay = Vec::new();
    for chunk in chunks {
        match received.take(chunk.clone()).ok()? {
            Brought::Rows(rows) => {
                for (revision, row) in rows {
                    let record = Record::decode_row(revision, &row);
                    overlay.push(record.expect("it was read before"));
                }
            }
            Brought::Begin | Brought::End => {}
        }
    }
    let (notes, index, _) = received.whole().ok()?;
    let revision = notes.revision;
    let mut state = State {
        index,
        revision,
        compact_revision: notes.compact_revision,
        ..empty_state()
    };
    for record in overlay {
        state.overlay.push(record);
    }
    goes_on(&mut state);
    Some(revision)
}

/// The same with a store and its file.
fn install(chunks: &[Bytes]) -> Option<i64> {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let dir = Path::new("/data");
    disk.create_dir_all(dir).expect("the disk works");
    let store = Store::open_on(disk.clone(), dir).expect("an empty directory opens");
    let mut sink = store.install().expect("the disk works");
    let taken = chunks
        .iter()
        .try_for_each(|chunk| sink.write_chunk(chunk.clone()));
    let finished = taken.and_then(|()| sink.finish(Position::default()));
    let revision = store.revision();
    drop(store);
    let store = Store::open_on(disk, dir).expect("what was installed opens again");
    assert_eq!(store.revision(), revision);
    finished.ok().map(|()| revision)
}

/// A state that was received can be read, written to, and compacted.
fn goes_on(state: &mut State) {
    let before = state.revision;
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let _ = range(state, &all);
    let put = PutRequest {
        key: Bytes::from_static(b"a"),
        prev_kv: true,
        ..Default::default()
    };
    let compact = CompactionRequest {
        revision: before,
        physical: false,
    };
    let commands = [
        KvCommand::Put(put),
        KvCommand::Compact(compact),
        KvCommand::DeleteRange(DeleteRangeRequest {
            key: all.key.clone(),
            range_end: all.range_end.clone(),
            prev_kv: true,
        }),
    ];
    for (command, index) in commands.into_iter().zip(1..) {
        let command = Command {
            index,
            data: command.encode(),
        };
        let applied = state.apply(&[command], index, Position::default());
        applied.expect("all of it is in memory");
    }
    assert_eq!(state.revision, before + 2);
}

#[cfg(test)]
mod tests {
    #[test]
    fn etcd_requests_replayed() {
        eaves_corpus::replay("etcd_requests", super::etcd_requests);
    }

    #[test]
    fn snapshot_records_replayed() {
        eaves_corpus::replay("snapshot_stream", super::snapshot_records);
    }
}
