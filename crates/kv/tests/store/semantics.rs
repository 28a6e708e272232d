//! The rules of etcd's key-value API, one test each.

use crate::harness::*;
use bytes::Bytes;
use eaves::StateMachine;
use eaves_kv::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use eaves_kv::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use eaves_kv::proto::etcdserverpb::response_op::Response;
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::store::{KvCommand, KvError, is_read_only};

#[test]
fn an_empty_store_has_revision_1_and_the_first_write_gets_2() {
    let mut node = Node::new();
    assert_eq!(revision_of(&node.store.range(&all()).unwrap().header), 1);
    assert_eq!(revision_of(&node.put(put("a", "1")).unwrap().header), 2);
}

#[test]
fn a_command_moves_the_revision_by_one_if_it_changed_something() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "1")]);
    let nothing = node.delete(delete("x", "z")).unwrap();
    assert_eq!((nothing.deleted, revision_of(&nothing.header)), (0, 3));
    let both = node.delete(delete("a", "z")).unwrap();
    assert_eq!((both.deleted, revision_of(&both.header)), (2, 4));
    let empty = node.txn(txn(vec![], vec![op_delete(delete("a", ""))], vec![]));
    assert_eq!(revision_of(&empty.unwrap().header), 4);
    let ops = vec![op_put(put("a", "1")), op_put(put("b", "2"))];
    let two = node.txn(txn(vec![], ops, vec![])).unwrap();
    assert_eq!(revision_of(&two.header), 5);
    assert_eq!(
        node.store.range(&all()).unwrap().kvs,
        vec![kv("a", "1", 5, 5, 1), kv("b", "2", 5, 5, 1)]
    );
}

#[test]
fn a_delete_ends_a_life_and_the_next_put_begins_one() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("a", "2")]);
    assert_eq!(
        node.store.range(&get("a")).unwrap().kvs,
        vec![kv("a", "2", 2, 3, 2)]
    );
    node.delete(delete("a", "")).unwrap();
    node.puts(&[("a", "3")]);
    assert_eq!(
        node.store.range(&get("a")).unwrap().kvs,
        vec![kv("a", "3", 5, 5, 1)]
    );
}

#[test]
fn reads_at_old_revisions_show_the_past_under_the_current_header() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("a", "2")]);
    node.delete(delete("a", "")).unwrap();
    let at = |revision| {
        node.store.range(&RangeRequest {
            revision,
            ..get("a")
        })
    };
    assert_eq!(at(2).unwrap().kvs, vec![kv("a", "1", 2, 2, 1)]);
    assert_eq!(at(3).unwrap().kvs, vec![kv("a", "2", 2, 3, 2)]);
    assert_eq!(at(4).unwrap().kvs, vec![]);
    assert_eq!(at(-7).unwrap().kvs, vec![]);
    assert_eq!(revision_of(&at(2).unwrap().header), 4);
    assert_eq!(at(5), Err(KvError::FutureRevision));
}

#[test]
fn the_limit_cuts_and_the_count_does_not_care() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let limited = |limit| node.store.range(&RangeRequest { limit, ..all() }).unwrap();
    for (limit, expected, more) in [(1, 1, true), (2, 2, true), (3, 3, false), (-1, 3, false)] {
        let response = limited(limit);
        assert_eq!((response.kvs.len(), response.more), (expected, more));
        assert_eq!(response.count, 3);
    }
    let count_only = RangeRequest {
        count_only: true,
        limit: 1,
        ..all()
    };
    let response = node.store.range(&count_only).unwrap();
    assert_eq!(
        (response.kvs.len(), response.count, response.more),
        (0, 3, false)
    );
}

#[test]
fn keys_only_leaves_out_the_value_alone() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let request = RangeRequest {
        keys_only: true,
        ..all()
    };
    assert_eq!(
        node.store.range(&request).unwrap().kvs,
        vec![kv("a", "", 2, 2, 1)]
    );
}

#[test]
fn sorting_by_every_target_and_filtering_come_before_the_limit() {
    let mut node = Node::new();
    node.puts(&[
        ("b", "3"),
        ("a", "1"),
        ("c", "2"),
        ("a", "9"),
        ("b", "0"),
        ("b", "5"),
    ]);
    let sorted = |target: SortTarget, order: SortOrder| {
        let request = RangeRequest {
            sort_target: target as i32,
            sort_order: order as i32,
            ..all()
        };
        keys(&node.store.range(&request).unwrap()).concat()
    };
    let (up, down, none) = (SortOrder::Ascend, SortOrder::Descend, SortOrder::None);
    assert_eq!(sorted(SortTarget::Key, down), "cba");
    assert_eq!(sorted(SortTarget::Version, up), "cab");
    assert_eq!(sorted(SortTarget::Create, up), "bac");
    assert_eq!(sorted(SortTarget::Mod, down), "bac");
    assert_eq!(sorted(SortTarget::Value, none), "cba");
    let oldest_created_but_one = RangeRequest {
        sort_target: SortTarget::Create as i32,
        sort_order: down as i32,
        max_create_revision: 3,
        limit: 1,
        ..all()
    };
    let response = node.store.range(&oldest_created_but_one).unwrap();
    assert_eq!(
        (keys(&response).concat(), response.more, response.count),
        ("a".into(), true, 3)
    );
    let modified_in_the_middle = RangeRequest {
        min_mod_revision: 4,
        max_mod_revision: 5,
        ..all()
    };
    assert_eq!(
        keys(&node.store.range(&modified_in_the_middle).unwrap()).concat(),
        "ac"
    );
}

#[test]
fn a_sort_target_without_an_order_sorts_what_the_limit_left() {
    let mut node = Node::new();
    node.puts(&[("a", "3"), ("b", "2"), ("c", "1")]);
    let request = RangeRequest {
        sort_target: SortTarget::Value as i32,
        limit: 1,
        ..all()
    };
    let response = node.store.range(&request).unwrap();
    assert_eq!(
        (keys(&response).concat(), response.more),
        ("b".into(), true)
    );
}

#[test]
fn a_sort_that_does_not_exist_is_refused() {
    let mut node = Node::new();
    let request = RangeRequest {
        sort_order: 3,
        ..all()
    };
    assert_eq!(node.store.range(&request), Err(KvError::InvalidSortOption));
    let ops = vec![op_put(put("a", "1")), op_range(request)];
    assert_eq!(
        node.txn(txn(vec![], ops, vec![])),
        Err(KvError::InvalidSortOption)
    );
    assert_eq!(node.store.revision(), 1);
}

#[test]
fn put_gives_back_or_keeps_what_was_there() {
    let mut node = Node::new();
    let keeping = PutRequest {
        ignore_value: true,
        ..put("a", "")
    };
    assert_eq!(node.put(keeping.clone()), Err(KvError::KeyNotFound));
    let with_previous = |value| PutRequest {
        prev_kv: true,
        ..put("a", value)
    };
    assert_eq!(node.put(with_previous("1")).unwrap().prev_kv, None);
    assert_eq!(
        node.put(with_previous("2")).unwrap().prev_kv,
        Some(kv("a", "1", 2, 2, 1))
    );
    assert_eq!(node.put(keeping).unwrap().prev_kv, None);
    assert_eq!(
        node.store.range(&get("a")).unwrap().kvs,
        vec![kv("a", "2", 2, 4, 3)]
    );
}

#[test]
fn a_lease_is_refused_never_ignored() {
    let mut node = Node::new();
    let leased = PutRequest {
        lease: 7,
        ..put("a", "1")
    };
    assert_eq!(node.put(leased.clone()), Err(KvError::LeaseNotFound));
    let ops = vec![op_put(put("b", "1")), op_put(leased)];
    assert_eq!(
        node.txn(txn(vec![], ops, vec![])),
        Err(KvError::LeaseNotFound)
    );
    assert_eq!(node.store.range(&all()).unwrap().count, 0);
}

#[test]
fn delete_gives_back_what_it_deleted() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "2")]);
    let request = DeleteRangeRequest {
        prev_kv: true,
        ..delete("a", "\0")
    };
    let response = node.delete(request).unwrap();
    assert_eq!(
        response.prev_kvs,
        vec![kv("a", "1", 2, 2, 1), kv("b", "2", 3, 3, 1)]
    );
}

fn compared(node: &Node, compare: Compare) -> bool {
    let request = txn(vec![compare], vec![], vec![]);
    node.store.txn_read_only(&request).unwrap().succeeded
}

#[test]
fn comparing_a_missing_key_compares_zeros_but_never_values() {
    let node = Node::new();
    use CompareResult::*;
    let create = |result| {
        compare(
            "x",
            CompareTarget::Create,
            result,
            TargetUnion::CreateRevision(0),
        )
    };
    assert!(compared(&node, create(Equal)));
    assert!(!compared(&node, create(Greater)));
    for result in [Equal, NotEqual, Less, Greater] {
        let value = compare(
            "x",
            CompareTarget::Value,
            result,
            TargetUnion::Value(Bytes::new()),
        );
        assert!(!compared(&node, value));
    }
}

#[test]
fn comparing_a_range_asks_every_key() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "1"), ("b", "1")]);
    let versions = |result, version| Compare {
        range_end: bytes("\0"),
        ..compare(
            "a",
            CompareTarget::Version,
            result,
            TargetUnion::Version(version),
        )
    };
    assert!(compared(&node, versions(CompareResult::Greater, 0)));
    let newest = compared(&node, versions(CompareResult::Equal, 1));
    assert!(!newest, "the newest version of a key was not compared");
    assert!(compared(&node, versions(CompareResult::Less, 3)));
}

#[test]
fn a_comparand_of_another_kind_counts_as_zero() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let odd = compare(
        "a",
        CompareTarget::Version,
        CompareResult::Greater,
        TargetUnion::Lease(9),
    );
    assert!(compared(&node, odd));
}

#[test]
fn ranges_of_a_transaction_see_its_earlier_operations() {
    let mut node = Node::new();
    let ops = vec![
        op_range(get("a")),
        op_put(put("a", "1")),
        op_range(get("a")),
    ];
    let response = node.txn(txn(vec![], ops, vec![])).unwrap();
    let ranges: Vec<(i64, i64)> = response
        .responses
        .iter()
        .filter_map(|op| match &op.response {
            Some(Response::ResponseRange(range)) => Some((range.count, revision_of(&range.header))),
            _ => None,
        })
        .collect();
    assert_eq!(ranges, vec![(0, 1), (1, 2)]);
}

#[test]
fn nested_transactions_compare_the_state_before_anything_happened() {
    let mut node = Node::new();
    let absent = compare(
        "a",
        CompareTarget::Create,
        CompareResult::Equal,
        TargetUnion::CreateRevision(0),
    );
    let nested = txn(
        vec![absent],
        vec![op_put(put("b", "absent"))],
        vec![op_put(put("b", "there"))],
    );
    let ops = vec![op_put(put("a", "1")), op_txn(nested)];
    let response = node.txn(txn(vec![], ops, vec![])).unwrap();
    assert_eq!(
        node.store.range(&get("b")).unwrap().kvs,
        vec![kv("b", "absent", 2, 2, 1)]
    );
    let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
        panic!("the answer to a nested transaction is one");
    };
    assert_eq!((nested.succeeded, revision_of(&nested.header)), (true, 0));
}

#[test]
fn a_transaction_happens_whole_or_not_at_all() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let future = RangeRequest {
        revision: 9,
        ..get("a")
    };
    let keeping = PutRequest {
        ignore_value: true,
        ..put("x", "")
    };
    let ops = |last| vec![op_put(put("a", "2")), op_delete(delete("b", "")), last];
    let refused = node.txn(txn(vec![], ops(op_range(future.clone())), vec![]));
    assert_eq!(refused, Err(KvError::FutureRevision));
    let refused = node.txn(txn(vec![], ops(op_put(keeping.clone())), vec![]));
    assert_eq!(refused, Err(KvError::KeyNotFound));
    // Puts are checked before ranges, wherever they stand.
    let both = vec![op_range(future), op_put(keeping)];
    assert_eq!(
        node.txn(txn(vec![], both, vec![])),
        Err(KvError::KeyNotFound)
    );
    assert_eq!(
        node.store.range(&all()).unwrap().kvs,
        vec![kv("a", "1", 2, 2, 1)]
    );
    assert_eq!(node.store.revision(), 2);
}

#[test]
fn a_transaction_of_ranges_only_reads_and_a_nested_one_writes() {
    assert!(is_read_only(&txn(vec![], vec![], vec![op_range(all())])));
    assert!(!is_read_only(&txn(
        vec![],
        vec![],
        vec![op_put(put("a", "1"))]
    )));
    assert!(!is_read_only(&txn(
        vec![],
        vec![op_txn(txn(vec![], vec![], vec![]))],
        vec![]
    )));
}

#[test]
fn put_then_delete_of_a_key_in_sibling_transactions_leaves_it_deleted() {
    let mut node = Node::new();
    let first = txn(vec![], vec![op_put(put("a", "1"))], vec![]);
    let second = txn(vec![], vec![op_delete(delete("a", ""))], vec![]);
    node.txn(txn(vec![], vec![op_txn(first), op_txn(second)], vec![]))
        .unwrap();
    assert_eq!(node.store.range(&get("a")).unwrap().count, 0);
    node.puts(&[("a", "2")]);
    assert_eq!(
        node.store.range(&get("a")).unwrap().kvs,
        vec![kv("a", "2", 3, 3, 1)]
    );
}

#[test]
fn compaction_refuses_the_past_and_keeps_its_own_revision() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("a", "2"), ("b", "1"), ("a", "3")]);
    assert_eq!(node.compact(6), Err(KvError::FutureRevision));
    assert_eq!(revision_of(&node.compact(4).unwrap().header), 5);
    assert_eq!(node.compact(4), Err(KvError::Compacted));
    assert_eq!(node.compact(3), Err(KvError::Compacted));
    node.scrub();
    let at = |revision| node.store.range(&RangeRequest { revision, ..all() });
    assert_eq!(at(3), Err(KvError::Compacted));
    let lost = "compaction lost what is there at its revision";
    assert_eq!(
        at(4).unwrap().kvs,
        vec![kv("a", "2", 2, 3, 2), kv("b", "1", 4, 4, 1)],
        "{lost}"
    );
    assert_eq!(
        at(0).unwrap().kvs,
        vec![kv("a", "3", 2, 5, 3), kv("b", "1", 4, 4, 1)],
        "{lost}"
    );
}

#[test]
fn an_empty_store_can_be_compacted_at_0_once() {
    let mut node = Node::new();
    assert_eq!(node.compact(-1), Err(KvError::Compacted));
    assert!(node.compact(0).is_ok());
    assert_eq!(node.compact(0), Err(KvError::Compacted));
    assert!(node.compact(1).is_ok());
}

#[test]
fn a_transaction_takes_a_negative_revision_literally() {
    let mut node = Node::new();
    let ops = vec![op_range(RangeRequest {
        revision: -2,
        ..all()
    })];
    assert_eq!(node.txn(txn(vec![], ops, vec![])), Err(KvError::Compacted));
}

#[test]
fn scrubbing_gives_back_memory_and_rows() {
    let mut node = Node::new();
    for i in 0..200 {
        node.puts(&[("hot", "x"), (&format!("gone/{i}"), "x")]);
    }
    node.delete(delete("gone/", "gone0")).unwrap();
    node.persist();
    let before = node.store.db_size_in_use_bytes();
    node.compact(node.store.revision()).unwrap();
    node.scrub();
    // The deletes happened at the compacted revision itself, so they are kept until the next one.
    assert_eq!(node.store.key_count(), 201);
    assert!(node.store.db_size_in_use_bytes() < before);
    node.puts(&[("hot", "y")]);
    node.compact(node.store.revision()).unwrap();
    node.scrub();
    assert_eq!(node.store.key_count(), 1);
    assert_eq!(node.store.db_size_in_use_bytes(), 12 + 32 + 3 + 1);
}

#[test]
fn a_command_that_nobody_knows_is_answered_and_changes_nothing() {
    let mut node = Node::new();
    node.log.push(Bytes::from_static(&[77, 1, 2, 3]));
    let answers = apply_log(&node.store, &node.log, 0);
    assert_eq!(answers[0].as_ref(), [KvError::UnknownCommand.to_byte()]);
    assert_eq!(node.store.revision(), 1);
}

#[test]
fn only_what_the_log_has_durably_becomes_durable() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("a", "2"), ("a", "3")]);
    assert_eq!(node.store.position(), None);
    let ahead = "the state on disk is ahead of the log on disk";
    assert_eq!(node.store.persist(0).unwrap(), None, "{ahead}");
    assert_eq!(node.store.persist(2).unwrap(), Some(2), "{ahead}");
    assert_eq!(node.store.position(), Some(position(2)));
    assert_eq!(node.store.persist(2).unwrap(), Some(2));
    node.log.truncate(2);
    node.crash();
    assert_eq!(
        node.store.range(&get("a")).unwrap().kvs,
        vec![kv("a", "2", 2, 3, 2)]
    );
}

#[test]
fn a_command_with_very_many_changes_becomes_durable_whole() {
    let mut node = Node::new();
    let keys = 1000;
    let puts = (0..keys).map(|i| KvCommand::Put(put(&format!("k{i}"), "x")));
    node.apply_all(&puts.collect::<Vec<_>>());
    node.delete(delete("k", "l")).unwrap();
    node.persist();
    node.crash();
    let at = |revision| node.store.range(&RangeRequest { revision, ..all() });
    assert_eq!(at(0).unwrap().count, 0);
    assert_eq!(at(keys + 1).unwrap().count, keys);
}

#[test]
fn what_is_applied_and_not_durable_is_counted() {
    let mut node = Node::new();
    assert_eq!(node.store.unpersisted_bytes(), 0);
    node.puts(&[("a", &"x".repeat(1000))]);
    assert!(node.store.unpersisted_bytes() > 1000);
    node.persist();
    assert_eq!(node.store.unpersisted_bytes(), 0);
}
