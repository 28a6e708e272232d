//! Watches: what each rule says.

use crate::harness::*;
use eaves::StateMachine;
use eaves_kv::proto::mvccpb::{Event, KeyValue, event::EventType};
use eaves_kv::store::{
    FAN_OUT_STEP, KvCommand, QUEUE_MAX_REVISIONS, WatchEvents, WatchItem, WatchRefusal, WatchSpec,
};
use futures_util::FutureExt;
use std::collections::BTreeMap;

/// The next item, if there is one without waiting for anything to happen.
pub fn next(events: &mut WatchEvents) -> Option<WatchItem> {
    // A poll may end early only to let others run.
    (0..10_000).find_map(|_| events.recv().now_or_never())?.ok()
}

fn rest(events: &mut WatchEvents) -> Vec<WatchItem> {
    std::iter::from_fn(|| next(events)).collect()
}

fn spec(key: &str, range_end: &str, start_revision: i64) -> WatchSpec {
    WatchSpec {
        key: bytes(key),
        range_end: bytes(range_end),
        start_revision,
        ..WatchSpec::default()
    }
}

fn created(watch_id: i64, revision: i64) -> WatchItem {
    WatchItem::Created { watch_id, revision }
}

/// Events as `+key@revision` and `-key@revision`.
fn short(events: &[Event]) -> String {
    let one = |event: &Event| {
        let kv = event.kv.as_ref().unwrap();
        let sign = if event.r#type == EventType::Put as i32 {
            '+'
        } else {
            '-'
        };
        format!(
            "{sign}{}@{}",
            String::from_utf8_lossy(&kv.key),
            kv.mod_revision
        )
    };
    events.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Items as text, events as [`short`] with the header revision.
fn shorts(items: Vec<WatchItem>) -> Vec<String> {
    let text = |item| match item {
        WatchItem::Events {
            watch_id,
            revision,
            events,
        } => format!("{watch_id}: {} ({revision})", short(&events)),
        other => format!("{other:?}"),
    };
    items.into_iter().map(text).collect()
}

#[test]
fn a_watcher_hears_what_happens_from_now_on() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    node.puts(&[("a", "2"), ("b", "1")]);
    assert_eq!(next(&mut events), Some(created(0, 2)));
    node.delete(delete("a", "")).unwrap();
    assert_eq!(shorts(rest(&mut events)), ["0: +a@3 -a@5 (5)"]);
    node.puts(&[("a", "3")]);
    assert_eq!(shorts(rest(&mut events)), ["0: +a@6 (6)"]);
}

#[test]
fn a_delete_event_has_key_and_revision_only() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(WatchSpec {
        prev_kv: true,
        ..spec("a", "", 0)
    });
    node.delete(delete("a", "")).unwrap();
    let Some(WatchItem::Events { events, .. }) = rest(&mut events).pop() else {
        panic!("the delete is an event");
    };
    let deleted = KeyValue {
        key: bytes("a"),
        mod_revision: 3,
        ..KeyValue::default()
    };
    assert_eq!(events[0].kv, Some(deleted));
    assert_eq!(events[0].prev_kv, Some(kv("a", "1", 2, 2, 1)));
}

#[test]
fn ids_are_the_streams_own() {
    let node = Node::new();
    let hub = node.store.watch_hub();
    let (first, mut first_events) = hub.open_stream();
    let (second, mut second_events) = hub.open_stream();
    first.watch(spec("a", "", 0));
    first.watch(WatchSpec {
        watch_id: 1,
        ..spec("a", "", 0)
    });
    first.watch(spec("a", "", 0));
    first.watch(WatchSpec {
        watch_id: 1,
        ..spec("a", "", 0)
    });
    second.watch(spec("a", "", 0));
    let refused = WatchItem::Refused {
        revision: 1,
        refusal: WatchRefusal::DuplicateId,
    };
    assert_eq!(
        rest(&mut first_events),
        [created(0, 1), created(1, 1), created(2, 1), refused]
    );
    assert_eq!(rest(&mut second_events), [created(0, 1)]);
}

#[test]
fn an_empty_range_and_a_negative_start_are_refused() {
    let node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("b", "a", 0));
    handle.watch(spec("b", "b", 0));
    handle.watch(spec("b", "", -1));
    let refused = |refusal| WatchItem::Refused {
        revision: 1,
        refusal,
    };
    assert_eq!(
        rest(&mut events),
        [
            refused(WatchRefusal::EmptyRange),
            refused(WatchRefusal::EmptyRange),
            refused(WatchRefusal::NegativeStart)
        ]
    );
}

#[test]
fn an_empty_key_watches_from_the_smallest() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("", "\0", 0));
    node.puts(&[("a", "1"), ("\0", "1")]);
    assert_eq!(shorts(rest(&mut events))[1], "0: +a@2 +\0@3 (3)");
}

#[test]
fn a_watcher_from_the_past_catches_up_from_memory_and_disk() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "1"), ("a", "2")]);
    node.persist();
    node.puts(&[("a", "3"), ("c", "1")]);
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 1));
    handle.watch(spec("a", "c", 3));
    let mut got: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for item in rest(&mut events) {
        if let WatchItem::Events {
            watch_id, events, ..
        } = item
        {
            got.entry(watch_id).or_default().push(short(&events));
        }
    }
    let told = |id| got[&id].join(" ");
    assert_eq!(told(0), "+a@2 +a@4 +a@5", "every change, once");
    assert_eq!(told(1), "+b@3 +a@4 +a@5", "every change, once");
    node.puts(&[("a", "4")]);
    assert_eq!(rest(&mut events).len(), 2);
    assert_eq!(node.store.watcher_counts(), (2, 0));
}

#[test]
fn a_future_start_hears_nothing_before_it() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 4));
    node.puts(&[("a", "1"), ("a", "2")]);
    handle.progress();
    handle.progress_of(0);
    assert_eq!(rest(&mut events), [created(0, 1)]);
    node.puts(&[("a", "3")]);
    handle.progress();
    let progress = WatchItem::Progress {
        watch_id: -1,
        revision: 4,
    };
    assert_eq!(
        shorts(rest(&mut events)),
        ["0: +a@4 (4)".to_string(), format!("{progress:?}")]
    );
}

#[test]
fn filters_leave_out_kinds_and_empty_answers() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(WatchSpec {
        no_put: true,
        ..spec("a", "", 0)
    });
    handle.watch(WatchSpec {
        no_delete: true,
        ..spec("a", "", 0)
    });
    node.puts(&[("a", "1")]);
    node.delete(delete("a", "")).unwrap();
    assert_eq!(
        shorts(rest(&mut events))[2..],
        ["1: +a@2 (2)", "0: -a@3 (3)"]
    );
}

#[test]
fn what_happened_at_one_revision_comes_at_once() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "c", 0));
    let ops = vec![
        op_put(put("b", "1")),
        op_put(put("c", "1")),
        op_put(put("a", "1")),
    ];
    node.txn(txn(vec![], ops, vec![])).unwrap();
    assert_eq!(shorts(rest(&mut events))[1..], ["0: +b@2 +a@2 (2)"]);
    handle.watch(spec("a", "z", 1));
    assert_eq!(shorts(rest(&mut events))[1..], ["1: +b@2 +c@2 +a@2 (2)"]);
}

#[test]
fn however_much_happened_at_one_revision_comes_at_once_from_history() {
    let mut node = Node::new();
    let keys = 12_000;
    let puts = (0..keys).map(|i| KvCommand::Put(put(&format!("k{i}"), "x")));
    node.apply_all(&puts.collect::<Vec<_>>());
    node.delete(delete("k", "l")).unwrap();
    node.puts(&[("k", "later")]);
    let deleted_at = keys + 2;
    for _ in ["from memory", "from disk"] {
        let (handle, mut events) = node.store.watch_hub().open_stream();
        handle.watch(spec("k", "l", deleted_at));
        let with_deletes = rest(&mut events).into_iter().find_map(|item| match item {
            WatchItem::Events { events, .. } => Some(events),
            _ => None,
        });
        let deletes = with_deletes.unwrap().into_iter();
        let deletes = deletes.filter(|e| e.kv.as_ref().unwrap().mod_revision == deleted_at);
        assert_eq!(deletes.count() as i64, keys);
        node.persist();
    }
}

#[test]
fn previous_values_are_those_of_the_revision_before() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    let with_previous = |start| WatchSpec {
        prev_kv: true,
        ..spec("a", "", start)
    };
    handle.watch(with_previous(0));
    node.puts(&[("a", "1"), ("a", "2")]);
    node.persist();
    handle.watch(with_previous(2));
    node.compact(3).unwrap();
    handle.watch(with_previous(3));
    let mut previous: BTreeMap<i64, Vec<Option<KeyValue>>> = BTreeMap::new();
    for item in rest(&mut events) {
        match item {
            WatchItem::Events {
                watch_id, events, ..
            } => previous
                .entry(watch_id)
                .or_default()
                .extend(events.into_iter().map(|event| event.prev_kv)),
            WatchItem::Compacted { watch_id, .. } => {
                previous.insert(watch_id, vec![]);
            }
            _ => {}
        }
    }
    assert_eq!(previous[&0], [None, Some(kv("a", "1", 2, 2, 1))]);
    // The second was too slow for the compaction, for the third the value before is compacted.
    assert_eq!(previous[&1], []);
    assert_eq!(previous[&2], [None]);
}

#[test]
fn a_put_that_makes_its_key_has_no_previous_value() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let ops = vec![op_delete(delete("a", "")), op_put(put("a", "2"))];
    node.txn(txn(vec![], ops, vec![])).unwrap();
    node.persist();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(WatchSpec {
        prev_kv: true,
        ..spec("a", "", 3)
    });
    let items = rest(&mut events);
    let WatchItem::Events { events, .. } = &items[1] else {
        panic!("events follow the answer: {items:?}");
    };
    let previous: Vec<_> = events.iter().map(|event| event.prev_kv.clone()).collect();
    assert_eq!(previous, [Some(kv("a", "1", 2, 2, 1)), None]);
}

#[test]
fn a_start_before_the_compaction_is_told_so_after_it_was_created() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("a", "2"), ("a", "3")]);
    node.compact(3).unwrap();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 2));
    handle.watch(spec("a", "", 3));
    let items = rest(&mut events);
    let compacted = WatchItem::Compacted {
        watch_id: 0,
        compact_revision: 3,
    };
    assert_eq!(items[..2], [created(0, 4), created(1, 4)]);
    assert!(items.contains(&compacted), "{items:?}");
    assert!(shorts(items).contains(&"1: +a@3 +a@4 (4)".to_string()));
    // The id is free again, and canceling it is silent.
    handle.cancel(0);
    handle.watch(spec("a", "", 0));
    assert_eq!(rest(&mut events), [created(2, 4)]);
}

#[test]
fn a_delete_at_the_compacted_revision_is_still_heard() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    node.delete(delete("a", "")).unwrap();
    node.puts(&[("b", "1")]);
    node.compact(3).unwrap();
    node.scrub();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 3));
    handle.watch(spec("a", "z", 3));
    let items = shorts(rest(&mut events));
    assert!(items.contains(&"0: -a@3 (4)".to_string()), "{items:?}");
    assert!(items.contains(&"1: -a@3 +b@4 (4)".to_string()), "{items:?}");
}

#[test]
fn a_canceled_watcher_is_silent() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    handle.cancel(7);
    node.puts(&[("a", "1")]);
    handle.cancel(0);
    node.puts(&[("a", "2")]);
    let canceled = WatchItem::Canceled {
        watch_id: 0,
        revision: 2,
    };
    let items = rest(&mut events);
    assert_eq!(items[0], created(0, 1));
    assert_eq!(items[2..], [canceled]);
    assert_eq!(node.store.watcher_counts(), (0, 0));
}

#[test]
fn progress_comes_after_the_events_it_speaks_of() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.progress();
    handle.watch(spec("a", "", 0));
    node.puts(&[("a", "1"), ("b", "1")]);
    handle.progress();
    handle.progress_of(0);
    handle.progress_of(5);
    let progress = |watch_id, revision| WatchItem::Progress { watch_id, revision };
    let items = rest(&mut events);
    assert_eq!(items[..2], [progress(-1, 1), created(0, 1)]);
    assert_eq!(items[3..], [progress(-1, 3), progress(0, 3)]);
}

#[test]
fn a_stream_with_a_watcher_behind_makes_no_progress() {
    let mut node = Node::new();
    node.puts(&[("a", "1")]);
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 1));
    handle.progress();
    assert_eq!(
        shorts(rest(&mut events)),
        [format!("{:?}", created(0, 2)), "0: +a@2 (2)".into()]
    );
    handle.progress();
    assert_eq!(rest(&mut events).len(), 1);
}

#[test]
fn a_client_that_does_not_read_costs_a_bounded_queue_and_loses_nothing() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    let many = QUEUE_MAX_REVISIONS + 500;
    let puts: Vec<KvCommand> = (0..many).map(|_| KvCommand::Put(put("a", "x"))).collect();
    node.apply_all(&puts);
    assert_eq!(node.store.watcher_counts(), (1, 1));
    node.persist();
    let mut revisions = Vec::new();
    for item in rest(&mut events) {
        if let WatchItem::Events { events, .. } = item {
            revisions.extend(events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision));
        }
    }
    assert_eq!(revisions, (2..many as i64 + 2).collect::<Vec<_>>());
    assert_eq!(node.store.watcher_counts(), (1, 0));
}

#[test]
fn a_stream_that_is_dropped_takes_its_watchers_along() {
    let mut node = Node::new();
    let (handle, events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    handle.watch(spec("a", "", 1));
    drop(events);
    assert_eq!(node.store.watcher_counts(), (0, 0));
    node.puts(&[("a", "1")]);
    handle.watch(spec("a", "", 0));
    assert_eq!(node.store.watcher_counts(), (0, 0));
}

#[test]
fn requests_wait_while_too_many_answers_are_unread() {
    let node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    let mut asked = 0;
    while handle.room().now_or_never().is_some() {
        handle.watch(spec("a", "", 0));
        asked += 1;
        assert!(asked < 10_000, "there is a limit");
    }
    next(&mut events);
    assert!(handle.room().now_or_never().is_some());
    while handle.room().now_or_never().is_some() {
        handle.watch(spec("a", "", 0));
    }
    drop(events);
    assert!(handle.room().now_or_never().is_some());
}

#[test]
fn after_an_installed_snapshot_watchers_go_on_where_they_were() {
    let mut ahead = Node::new();
    let mut node = Node::new();
    for one in [&mut ahead, &mut node] {
        one.puts(&[("a", "1")]);
    }
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    handle.watch(spec("a", "", 9));
    ahead.puts(&[("a", "2"), ("b", "1"), ("a", "3")]);
    ahead.persist();
    let mut source = ahead.store.snapshot().unwrap();
    let mut sink = node.store.install().unwrap();
    while let Some(chunk) = source.next_chunk(1000).unwrap() {
        sink.write_chunk(chunk).unwrap();
    }
    sink.finish(source.position()).unwrap();
    node.log = ahead.log.clone();
    assert_eq!(
        shorts(rest(&mut events))[2..],
        ["0: +a@3 +a@5 (5)"],
        "what the snapshot brought, once"
    );
    node.puts(&[("a", "4")]);
    assert_eq!(shorts(rest(&mut events)), ["0: +a@6 (6)"]);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken() {
    let mut node = Node::new();
    let (handle, mut events) = node.store.watch_hub().open_stream();
    handle.watch(spec("a", "", 0));
    events.recv().await.expect("the watch is made");
    let reader = tokio::spawn(async move { events.recv().await.unwrap() });
    tokio::task::yield_now().await;
    assert!(!reader.is_finished(), "it waits");
    node.puts(&[("a", "1")]);
    // It is the only thread: the reader goes on only if it was woken.
    assert_eq!(shorts(vec![reader.await.unwrap()]), ["0: +a@2 (2)"]);
}

/// The revisions of the events that come until `last` is among them.
async fn revisions_until(events: &mut WatchEvents, last: i64) -> Vec<i64> {
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        if let WatchItem::Events { events, .. } = events.recv().await.unwrap() {
            let revision = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
            heard.extend(events.iter().map(revision));
        }
    }
    heard
}

#[tokio::test]
async fn more_watchers_than_one_step_serves_hear_everything_once_and_in_order() {
    let mut node = Node::new();
    let open = |node: &Node| {
        let (handle, events) = node.store.watch_hub().open_stream();
        handle.watch(spec("k", "", 0));
        (handle, events)
    };
    let mut early: Vec<_> = (0..3 * FAN_OUT_STEP + 1).map(|_| open(&node)).collect();
    node.puts(&[("k", "2"), ("k", "3"), ("k", "4")]);
    // The first step is done, the others wait for their turns: who comes or goes in between changes nothing for the rest.
    let (gone, canceled) = (early.pop().unwrap(), early[FAN_OUT_STEP].0.clone());
    drop(gone);
    canceled.cancel(0);
    let mut late = open(&node);
    node.puts(&[("k", "5")]);
    for (number, (_, events)) in early.iter_mut().enumerate() {
        if number != FAN_OUT_STEP {
            assert_eq!(revisions_until(events, 5).await, [2, 3, 4, 5]);
        }
    }
    assert_eq!(revisions_until(&mut late.1, 5).await, [5]);
}
