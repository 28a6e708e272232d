//! The group that the machine under test belongs to, and a client that remembers what it was told.

use crate::eventually;
use crate::machine::Machine;
use crate::memory::Memory;
use eaves::{Blocking, Config, Group, Node, Role, StartAs};
use eaves_kv::proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use eaves_kv::store::{KvCommand, Store, decode_answer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Founding members.
const VOTERS: [&str; 3] = ["v1", "v2", "v3"];

/// How configurations of one group are made.
pub struct Plan {
    network: Memory,
    group: Group,
}

impl Plan {
    /// A group of so many founders.
    pub fn new(voters: usize) -> Plan {
        let founders: Vec<(String, String)> = VOTERS[..voters]
            .iter()
            .map(|name| (name.to_string(), format!("{name}:1")))
            .collect();
        Plan {
            network: Memory::default(),
            group: Group::new("crash points", &founders),
        }
    }

    pub fn voter(&self, name: &str) -> Machine {
        let group = self.group.clone();
        self.machine(name, StartAs::Voter { group })
    }

    pub fn listener(&self, name: &str) -> Machine {
        let upstreams = VOTERS.iter().map(|name| format!("{name}:1")).collect();
        self.machine(name, StartAs::Listener { upstreams })
    }

    fn machine(&self, name: &str, start_as: StartAs) -> Machine {
        let mut config = Config::new(name, format!("/{name}"), format!("{name}:1"), start_as);
        config.network = Arc::new(self.network.clone());
        config.blocking = Blocking::Inline(Duration::from_millis(1));
        // The same in every run, so that operations come in about the same order.
        config.seed = name.bytes().map(u64::from).sum();
        // Segments of a few entries, of which hardly any stay.
        config.log.segment_bytes = 8 << 10;
        config.log_retention_bytes = 16 << 10;
        config.snapshot_entries = 10;
        Machine::new(config)
    }
}

/// Bytes of a value: some to a segment.
const VALUE_BYTES: usize = 1500;

/// Writes keys of its own, each once, and remembers which were acknowledged, and at which revision.
#[derive(Clone, Default)]
pub struct Client {
    written: u32,
    acknowledged: BTreeMap<String, i64>,
}

impl Client {
    /// Writes a key through a node; whether it was acknowledged.
    pub async fn write(&mut self, node: &Node) -> bool {
        self.written += 1;
        let key = format!("key{:04}", self.written);
        let put = PutRequest {
            key: key.clone().into(),
            value: value_of(&key).into(),
            ..Default::default()
        };
        let Ok(answer) = node.write(KvCommand::Put(put).encode()).await else {
            return false;
        };
        let response: PutResponse = decode_answer(answer).expect("a put cannot be refused");
        let revision = response.header.expect("a header").revision;
        self.acknowledged.insert(key, revision);
        true
    }

    /// Writes until it is told that a write is durable.
    pub async fn write_surely(&mut self, what: &str, node: &Node) {
        eventually(what, async || self.write(node).await.then_some(())).await;
    }

    /// Whether all that was acknowledged is in `store`.
    pub fn finds_all(&self, store: &Store) -> bool {
        let newest = self.acknowledged.values().max().copied().unwrap_or(0);
        newest <= store.revision() && {
            self.check(store, newest);
            true
        }
    }

    /// What is in `store` is what was written, whole and at its revision; and nothing is missing below `through`.
    fn check(&self, store: &Store, through: i64) {
        let found: BTreeMap<String, (i64, Vec<u8>)> = content(store, 0)
            .kvs
            .into_iter()
            .map(|kv| {
                let key = String::from_utf8(kv.key.to_vec()).expect("a key of ours");
                (key, (kv.mod_revision, kv.value.to_vec()))
            })
            .collect();
        for (key, (_, value)) in &found {
            assert_eq!(*value, value_of(key).as_bytes(), "{key}");
        }
        for (key, revision) in &self.acknowledged {
            if *revision <= through {
                let there = found.get(key).map(|(revision, _)| *revision);
                assert_eq!(there, Some(*revision), "{key} was acknowledged");
            }
        }
    }

    /// What is on disk is a prefix of what the group has: `whole`, as far as it goes.
    pub fn check_prefix(&self, part: &Store, whole: &Store) {
        let revision = part.revision();
        assert!(revision <= whole.revision(), "it cannot know more");
        assert_eq!(
            content(part, revision).kvs,
            content(whole, revision).kvs,
            "at revision {revision}"
        );
        self.check(part, revision);
    }
}

fn value_of(key: &str) -> String {
    key.repeat(VALUE_BYTES / key.len())
}

/// Everything as of a revision; 0 for now.
pub fn content(store: &Store, revision: i64) -> RangeResponse {
    let all = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        revision,
        ..Default::default()
    };
    store.range(&all).expect("nothing is compacted")
}

pub fn role(node: &Node) -> Role {
    node.status().borrow().role
}

/// Names of the voters, as a node knows them.
pub fn voters(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = node
        .members()
        .into_iter()
        .map(|member| member.name)
        .collect();
    names.sort();
    names
}

/// Waits until two nodes have the same, and all that was acknowledged.
pub async fn converge(what: &str, client: &Client, one: &Machine, other: &Machine) {
    eventually(what, async || {
        let (one, other) = (one.store(), other.store());
        let equal = one.revision() == other.revision();
        (equal && client.finds_all(one) && client.finds_all(other)).then_some(())
    })
    .await;
    assert_eq!(
        content(one.store(), 0).kvs,
        content(other.store(), 0).kvs,
        "{what}"
    );
}
