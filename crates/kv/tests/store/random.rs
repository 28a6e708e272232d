//! Random commands, reads, persists and crashes: every answer is the naive model's.

use crate::harness::{Node, op_delete, op_put, op_range, op_txn};
use crate::model::Model;
use bytes::Bytes;
use eaves::StateMachine;
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::store::{KvCommand, KvError, decode_answer};
use proptest::prelude::*;
use prost::Message;

/// Something done to a store.
#[derive(Clone, Debug)]
pub enum Op {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    /// Compacts at that many revisions before the current one.
    Compact(i64),
    Range(RangeRequest),
    /// Persists, letting the log be durable that many entries short of its end.
    Persist(u64),
    Crash,
}

pub fn key() -> impl Strategy<Value = Bytes> {
    // Not more than six: in larger answers etcd, and so the store, leaves ties in an order that the model does not know.
    let keys: [&[u8]; 6] = [b"a", b"ab", b"b", b"b\0", b"b\xff", b"\0"];
    proptest::sample::select(keys.to_vec()).prop_map(Bytes::from_static)
}

pub fn range_end() -> impl Strategy<Value = Bytes> {
    let ends: [&[u8]; 6] = [b"", b"", b"\0", b"b", b"c", b"\xff"];
    proptest::sample::select(ends.to_vec()).prop_map(Bytes::from_static)
}

fn value() -> impl Strategy<Value = Bytes> {
    let values: [&[u8]; 4] = [b"", b"1", b"2", b"three"];
    proptest::sample::select(values.to_vec()).prop_map(Bytes::from_static)
}

/// Mostly small, at times negative: around the revisions that a short test reaches.
fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 5 => 1..30i64, 1 => -3..0i64]
}

pub fn put() -> impl Strategy<Value = PutRequest> {
    (key(), value(), any::<[bool; 4]>(), 0..20).prop_map(|(key, value, flags, rare)| PutRequest {
        key,
        value: if flags[0] && rare < 5 {
            Bytes::new()
        } else {
            value
        },
        lease: i64::from(rare == 19),
        prev_kv: flags[1],
        ignore_value: flags[0] && rare < 5,
        ignore_lease: flags[2] && rare < 2,
    })
}

pub fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let filters =
        prop_oneof![3 => Just([0i64; 4]), 1 => [revision(), revision(), revision(), revision()]];
    (
        (key(), range_end(), 0..5i64, revision()),
        (0..3i32, 0..5i32, any::<[bool; 2]>(), 0..4),
        filters,
    )
        .prop_map(
            |((key, range_end, limit, revision), (order, target, flags, rare), filters)| {
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order: order,
                    sort_target: target,
                    serializable: true,
                    keys_only: flags[0] && rare == 0,
                    count_only: flags[1] && rare == 0,
                    min_mod_revision: filters[0],
                    max_mod_revision: filters[1],
                    min_create_revision: filters[2],
                    max_create_revision: filters[3],
                }
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    use compare::TargetUnion::*;
    let union = prop_oneof![
        (0..3i64).prop_map(|n| Some(Version(n))),
        revision().prop_map(|n| Some(CreateRevision(n))),
        revision().prop_map(|n| Some(ModRevision(n))),
        value().prop_map(|v| Some(Value(v))),
        (0..2i64).prop_map(|n| Some(Lease(n))),
        Just(None),
    ];
    (key(), range_end(), 0..4i32, 0..5i32, union).prop_map(
        |(key, range_end, result, other_target, target_union)| {
            // Mostly the target fits the comparand.
            let fitting = match &target_union {
                Some(Version(_)) => 0,
                Some(CreateRevision(_)) => 1,
                Some(ModRevision(_)) => 2,
                Some(Value(_)) => 3,
                Some(Lease(_)) => 4,
                None => other_target,
            };
            Compare {
                result,
                target: if result == 3 { other_target } else { fitting },
                key,
                range_end,
                target_union,
            }
        },
    )
}

pub fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => put().prop_map(op_put),
        2 => delete().prop_map(op_delete),
        3 => range().prop_map(op_range),
    ];
    let ops = leaf.prop_recursive(2, 12, 3, |op| {
        (
            prop::collection::vec(compare(), 0..2),
            prop::collection::vec(op.clone(), 0..3),
            prop::collection::vec(op, 0..3),
        )
            .prop_map(|(compare, success, failure)| {
                op_txn(TxnRequest {
                    compare,
                    success,
                    failure,
                })
            })
    });
    (
        prop::collection::vec(compare(), 0..3),
        prop::collection::vec(ops.clone(), 0..4),
        prop::collection::vec(ops, 0..4),
    )
        .prop_map(|(compare, success, failure)| TxnRequest {
            compare,
            success,
            failure,
        })
}

pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => put().prop_map(Op::Put),
        3 => delete().prop_map(Op::Delete),
        4 => txn().prop_map(Op::Txn),
        1 => (-2..8i64).prop_map(Op::Compact),
        8 => range().prop_map(Op::Range),
        2 => (0..4u64).prop_map(Op::Persist),
        1 => Just(Op::Crash),
    ]
}

/// What one command changes in the model, and its answer there.
pub fn model_answer(model: &mut Model, command: &KvCommand) -> Result<Bytes, KvError> {
    match command {
        KvCommand::Put(request) => encoded(model.put(request)),
        KvCommand::DeleteRange(request) => encoded(model.delete(request)),
        KvCommand::Txn(request) => encoded(model.txn(request)),
        KvCommand::Compact(request) => encoded(model.compact(request.revision)),
    }
}

fn encoded<M: Message>(answer: Result<M, KvError>) -> Result<Bytes, KvError> {
    answer.map(|message| message.encode_to_vec().into())
}

/// The store's answer, as bytes without the tag.
fn store_answer(command: &KvCommand, answer: Bytes) -> Result<Bytes, KvError> {
    match command {
        KvCommand::Put(_) => encoded(decode_answer::<PutResponse>(answer)),
        KvCommand::DeleteRange(_) => encoded(decode_answer::<DeleteRangeResponse>(answer)),
        KvCommand::Txn(_) => encoded(decode_answer::<TxnResponse>(answer)),
        KvCommand::Compact(_) => encoded(decode_answer::<CompactionResponse>(answer)),
    }
}

fn check_command(node: &mut Node, model: &mut Model, command: KvCommand) {
    if let KvCommand::Txn(request) = &command
        && eaves_kv::store::is_read_only(request)
    {
        assert_eq!(
            node.store.txn_read_only(request),
            model.clone().txn(request)
        );
    }
    let answer = node.apply(command.clone());
    let answer = store_answer(&command, answer);
    assert_eq!(answer, model_answer(model, &command), "answers {command:?}");
    assert_eq!(node.store.revision(), model.revision);
    assert_eq!(node.store.compact_revision(), model.compact_revision);
}

fn run(ops: Vec<Op>) {
    let mut node = Node::new();
    let mut model = Model::new();
    for op in ops {
        match op {
            Op::Put(request) => check_command(&mut node, &mut model, KvCommand::Put(request)),
            Op::Delete(request) => {
                check_command(&mut node, &mut model, KvCommand::DeleteRange(request));
            }
            Op::Txn(request) => check_command(&mut node, &mut model, KvCommand::Txn(request)),
            Op::Compact(before) => {
                let revision = model.revision - before;
                let request = CompactionRequest {
                    revision,
                    physical: false,
                };
                check_command(&mut node, &mut model, KvCommand::Compact(request));
            }
            Op::Range(request) => {
                assert_eq!(
                    node.store.range(&request),
                    model.range(&request),
                    "{request:?}"
                );
            }
            Op::Persist(short) => {
                let index = (node.log.len() as u64).saturating_sub(short);
                let durable = node.store.persist(index).unwrap();
                assert!(
                    durable.unwrap_or(0)
                        <= index.max(crate::harness::durable_index(&node.store) as u64)
                );
            }
            Op::Crash => node.crash(),
        }
    }
    // Every revision that is left reads the same before and after all of it is on disk and scrubbed.
    let check_history = |node: &Node| {
        for revision in model.compact_revision.max(1)..=model.revision {
            let request = RangeRequest {
                revision,
                ..crate::harness::all()
            };
            assert_eq!(node.store.range(&request), model.range(&request));
        }
    };
    check_history(&node);
    node.scrub();
    node.persist();
    check_history(&node);
    node.crash();
    check_history(&node);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_models(ops in prop::collection::vec(op(), 1..60)) {
        run(ops);
    }
}
