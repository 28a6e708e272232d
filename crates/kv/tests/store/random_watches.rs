//! Random watchers of random changes, each of which must see exactly what happened, whoever is slow.

use crate::harness::*;
use crate::model::{Happened, Model, in_range};
use crate::random;
use crate::watches::next;
use bytes::Bytes;
use eaves::StateMachine;
use eaves_kv::proto::mvccpb::{Event, event::EventType};
use eaves_kv::store::{KvCommand, WatchEvents, WatchHandle, WatchItem, WatchRefusal, WatchSpec};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Something done to a store that is watched.
#[derive(Clone, Debug)]
enum Op {
    Write(random::Op),
    /// So many puts as one batch.
    Burst(usize),
    /// On one of the streams, from so many revisions before now.
    Watch(usize, WatchSpec, i64),
    Cancel(usize, i64),
    Progress(usize),
    /// Take so many items from a stream.
    Read(usize, usize),
    Scrub,
}

const STREAMS: usize = 2;

fn op() -> impl Strategy<Value = Op> {
    let write = prop_oneof![
        4 => random::put().prop_map(random::Op::Put),
        2 => random::delete().prop_map(random::Op::Delete),
        1 => (-1..6i64).prop_map(random::Op::Compact),
        2 => (0..3u64).prop_map(random::Op::Persist),
    ];
    let watch = (
        0..STREAMS,
        (random::key(), random::range_end(), any::<[bool; 3]>(), 0..4),
        prop_oneof![Just(0i64), -3..12i64],
    );
    prop_oneof![
        12 => write.prop_map(Op::Write),
        1 => (1..1500usize).prop_map(Op::Burst),
        4 => watch.prop_map(|(stream, (key, range_end, flags, rare), before)| {
            let spec = WatchSpec {
                key,
                range_end,
                no_put: flags[0] && rare == 0,
                no_delete: flags[1] && rare == 0,
                prev_kv: flags[2],
                ..WatchSpec::default()
            };
            Op::Watch(stream, spec, before)
        }),
        1 => (0..STREAMS, 0..6i64).prop_map(|(stream, id)| Op::Cancel(stream, id)),
        2 => (0..STREAMS).prop_map(Op::Progress),
        4 => (0..STREAMS, 1..8usize).prop_map(|(stream, items)| Op::Read(stream, items)),
        1 => Just(Op::Scrub),
    ]
}

/// What one watcher must see, and how far it saw it.
struct Expected {
    spec: WatchSpec,
    /// First revision it is to see.
    start: i64,
    /// It has seen everything before this revision.
    next: i64,
    created: bool,
}

struct Watched {
    handle: WatchHandle,
    events: WatchEvents,
    /// By watch id; in order of creation for the `Created` items.
    watchers: BTreeMap<i64, Expected>,
    /// Watchers that the client canceled, whose last items may be on their way.
    canceled: BTreeMap<i64, Expected>,
    next_id: i64,
}

impl Watched {
    fn new(node: &Node) -> Self {
        let (handle, events) = node.store.watch_hub().open_stream();
        Self {
            handle,
            events,
            watchers: BTreeMap::new(),
            canceled: BTreeMap::new(),
            next_id: 0,
        }
    }

    fn watch(&mut self, mut spec: WatchSpec, before: i64, model: &Model) {
        // -3..: from the future, 0: from now.
        if before != 0 {
            spec.start_revision = (model.revision - before + 1).max(1);
        }
        let empty = !spec.range_end.is_empty()
            && spec.range_end.as_ref() != b"\0"
            && spec.key >= spec.range_end;
        self.handle.watch(spec.clone());
        if empty {
            return;
        }
        let start = if before == 0 {
            model.revision + 1
        } else {
            spec.start_revision
        };
        self.watchers.insert(
            self.next_id,
            Expected {
                spec,
                start,
                next: start,
                created: false,
            },
        );
        self.next_id += 1;
    }

    fn cancel(&mut self, id: i64) {
        self.handle.cancel(id);
        if let Some(watcher) = self.watchers.remove(&id) {
            self.canceled.insert(id, watcher);
        }
    }

    fn of(&mut self, id: i64) -> &mut Expected {
        match self.watchers.get_mut(&id) {
            Some(watcher) => watcher,
            None => self.canceled.get_mut(&id).expect("a watcher that is known"),
        }
    }

    /// Takes one item and checks it; false if there is none.
    fn read(&mut self, model: &Model) -> bool {
        let Some(item) = next(&mut self.events) else {
            return false;
        };
        match item {
            WatchItem::Created { watch_id, revision } => {
                assert!(revision <= model.revision);
                assert!(!std::mem::replace(&mut self.of(watch_id).created, true));
            }
            WatchItem::Refused { refusal, .. } => {
                assert_eq!(refusal, WatchRefusal::EmptyRange);
            }
            WatchItem::Events {
                watch_id,
                revision,
                events,
            } => self.of(watch_id).check(&events, revision, model),
            WatchItem::Progress { watch_id, revision } => {
                assert_eq!(watch_id, -1);
                for watcher in self.watchers.values().filter(|watcher| watcher.created) {
                    let missed = watcher.happened(model, revision);
                    assert!(
                        missed.is_empty(),
                        "progress {revision}, not seen: {missed:?}"
                    );
                }
            }
            WatchItem::Canceled { watch_id, .. } => {
                self.canceled.remove(&watch_id).expect("it was canceled");
            }
            WatchItem::Compacted {
                watch_id,
                compact_revision,
            } => {
                let watcher = self.watchers.remove(&watch_id);
                let watcher = watcher.or_else(|| self.canceled.remove(&watch_id)).unwrap();
                assert_eq!(compact_revision, model.compact_revision);
                assert!(watcher.start < compact_revision || watcher.next < compact_revision);
            }
        }
        true
    }
}

impl Expected {
    /// What it wants and has not seen, up to a revision.
    fn happened<'a>(&self, model: &'a Model, through: i64) -> Vec<&'a Happened> {
        let wanted = |event: &&Happened| {
            let filtered = match event.value {
                Some(_) => self.spec.no_put,
                None => self.spec.no_delete,
            };
            !filtered && in_range(&event.key, &self.spec.key, &self.spec.range_end)
        };
        model
            .events
            .iter()
            .filter(|event| event.revision >= self.next && event.revision <= through)
            .filter(wanted)
            .collect()
    }

    fn check(&mut self, events: &[Event], revision: i64, model: &Model) {
        assert!(self.created, "events come after the creation");
        let expected = self.happened(model, revision);
        assert!(!events.is_empty());
        let seen: Vec<(i64, Bytes, bool)> = events
            .iter()
            .map(|event| {
                let kv = event.kv.clone().unwrap();
                (
                    kv.mod_revision,
                    kv.key,
                    event.r#type == EventType::Put as i32,
                )
            })
            .collect();
        let happened: Vec<(i64, Bytes, bool)> = expected
            .iter()
            .map(|event| (event.revision, event.key.clone(), event.value.is_some()))
            .collect();
        assert_eq!(seen, happened, "of {:?} from {}", self.spec, self.next);
        for event in events {
            self.check_values(event, model);
        }
        self.next = revision + 1;
    }

    fn check_values(&self, event: &Event, model: &Model) {
        let kv = event.kv.as_ref().unwrap();
        if event.r#type == EventType::Put as i32 {
            assert_eq!(model.at(kv.mod_revision).get(&kv.key), Some(kv));
        }
        if let Some(previous) = &event.prev_kv {
            assert!(self.spec.prev_kv);
            let before = model.at(kv.mod_revision - 1);
            assert_eq!(before.get(&kv.key), Some(previous));
        } else if self.spec.prev_kv && model.compact_revision < kv.mod_revision {
            let before = model.at(kv.mod_revision - 1);
            assert_eq!(before.get(&kv.key), None, "a previous value is missing");
        }
    }
}

fn run(ops: Vec<Op>) {
    let mut node = Node::new();
    let mut model = Model::new();
    let mut streams: Vec<Watched> = (0..STREAMS).map(|_| Watched::new(&node)).collect();
    let write = |node: &mut Node, model: &mut Model, command: KvCommand| {
        node.apply(command.clone());
        let _ = random::model_answer(model, &command);
        assert_eq!(node.store.revision(), model.revision);
    };
    for op in ops {
        match op {
            Op::Write(random::Op::Put(put)) => write(&mut node, &mut model, KvCommand::Put(put)),
            Op::Write(random::Op::Delete(delete)) => {
                write(&mut node, &mut model, KvCommand::DeleteRange(delete));
            }
            Op::Write(random::Op::Compact(before)) => {
                let revision = model.revision - before;
                let request = eaves_kv::proto::etcdserverpb::CompactionRequest {
                    revision,
                    physical: false,
                };
                write(&mut node, &mut model, KvCommand::Compact(request));
            }
            Op::Write(random::Op::Persist(short)) => {
                let index = (node.log.len() as u64).saturating_sub(short);
                node.store.persist(index).unwrap();
            }
            Op::Write(other) => unreachable!("{other:?} is not generated here"),
            Op::Burst(puts) => {
                let command = KvCommand::Put(put("b", "burst"));
                node.apply_all(&vec![command; puts]);
                for revision in model.revision + 1..=model.revision + puts as i64 {
                    model.events.push(Happened {
                        revision,
                        key: bytes("b"),
                        value: Some(bytes("burst")),
                    });
                }
                model.revision += puts as i64;
            }
            Op::Watch(stream, spec, before) => streams[stream].watch(spec, before, &model),
            Op::Cancel(stream, id) => streams[stream].cancel(id),
            Op::Progress(stream) => streams[stream].handle.progress(),
            Op::Read(stream, items) => {
                for _ in 0..items {
                    streams[stream].read(&model);
                }
            }
            Op::Scrub => node.scrub(),
        }
    }
    for stream in &mut streams {
        while stream.read(&model) {}
        for (id, watcher) in &stream.watchers {
            let missed = watcher.happened(&model, model.revision);
            assert!(missed.is_empty(), "watcher {id} never saw {missed:?}");
        }
        assert!(stream.canceled.is_empty());
    }
    assert_eq!(node.store.watcher_counts().1, 0, "everybody caught up");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_sees_exactly_what_happened(ops in prop::collection::vec(op(), 1..80)) {
        run(ops);
    }
}
