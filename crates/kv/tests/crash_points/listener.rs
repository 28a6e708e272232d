//! A listener that falls behind, takes a snapshot, becomes a voter and a listener again.

use crate::group::{Client, Plan, converge, role, voters};
use crate::machine::Machine;
use crate::{Cut, before_every_operation, eventually, run, within};
use eaves::{Node, Role, RoleChange};
use std::time::Duration;

#[test]
fn a_listener_that_changes_its_role_goes_down_before_each_operation() {
    let expected = &[
        "create LOCK",
        "rename to upstreams",
        "rename to identity",
        "write incoming",
        "write state.installing.#",
        "sync state.installing.#",
        "sync snapshot-installed.tmp",
        "rename to state.redb",
        "remove snapshot-installed",
        "rename to #-#.seg",
        "remove #-#.seg",
        "sync directory log",
    ];
    before_every_operation("listener", &expected[..], |operations, cut| {
        run(async move { Story::new(operations).tell(cut).await })
    });
}

struct Story {
    voters: [Machine; 2],
    /// The machine under test.
    one: Machine,
    client: Client,
}

impl Story {
    fn new(operations: u64) -> Story {
        let plan = Plan::new(2);
        let one = plan.listener("l1");
        one.go_down_after(operations);
        Story {
            voters: [plan.voter("v1"), plan.voter("v2")],
            one,
            client: Client::default(),
        }
    }

    async fn tell(mut self, cut: Cut) -> Option<String> {
        for voter in &mut self.voters {
            voter.start().await.expect("nothing is wrong with it");
        }
        self.write(2).await;
        let ended = self.until_cut().await;
        assert!(ended.is_some() || self.one.cut().is_some(), "to its end");
        let kind = self.one.cut();
        let what = format!("{cut:?} before {kind:?}");
        self.one.go_down(cut).await;
        self.check_disk(&what);
        if let Cut::KillThenPower(seed) = cut {
            self.start(&what).await;
            self.write(3).await;
            converge(&what, &self.client, &self.one, &self.voters[0]).await;
            self.one.go_down(Cut::Power(seed)).await;
            self.check_disk(&what);
        }
        self.start(&what).await;
        self.agrees(&what).await;
        // What may have been under way comes to its end, and so does the way back.
        for change in [promotion(), demotion()] {
            self.change(&what, change).await;
            self.agrees(&what).await;
            self.write(1).await;
        }
        converge(&what, &self.client, &self.one, &self.voters[0]).await;
        self.one.stop().await;
        for voter in &mut self.voters {
            voter.stop().await;
        }
        kind
    }

    /// First start, a stop, a snapshot in place of a log that is gone, a change of role and back. `None` once it is cut.
    async fn until_cut(&mut self) -> Option<()> {
        self.one.start().await.ok()?;
        self.write(2).await;
        self.caught_up().await?;
        let last = self.one.node().positions().last;
        self.one.stop().await;
        eventually("the voters forget what it would need", async || {
            self.write(5).await;
            let is_forgotten = |voter: &Machine| voter.log_begins_at() > last + 1;
            self.voters.iter().all(is_forgotten).then_some(())
        })
        .await;
        self.one.start().await.ok()?;
        self.caught_up().await?;
        for change in [promotion(), demotion()] {
            let changed = self.asked().change_role(change, |_| {}).await;
            self.caught_up().await?;
            changed.expect("nothing is wrong");
            self.write(2).await;
        }
        self.caught_up().await
    }

    /// Waits until the machine under test has all; `None` if it goes down first.
    async fn caught_up(&self) -> Option<()> {
        eventually("it catches up or goes down", async || {
            if self.one.cut().is_some() {
                return Some(None);
            }
            self.client.finds_all(self.one.store()).then_some(Some(()))
        })
        .await
    }

    async fn write(&mut self, count: u32) {
        for _ in 0..count {
            let node = self.asked().clone();
            self.client
                .write_surely("the group takes writes", &node)
                .await;
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
    }

    /// Whom the client asks.
    fn asked(&self) -> &Node {
        self.voters[0].node()
    }

    async fn start(&mut self, what: &str) {
        let started = self.one.start().await;
        started.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    fn check_disk(&self, what: &str) {
        let store = self.one.look();
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        self.client.check_prefix(&store, self.voters[0].store());
    }

    async fn change(&self, what: &str, change: RoleChange) {
        eventually(&format!("{what}: {change:?}"), async || {
            let asked = self.asked().change_role(change.clone(), |_| {});
            within(what, asked).await.ok()
        })
        .await;
    }

    /// All know the same voters, and the machine under test is what that says.
    async fn agrees(&self, what: &str) {
        eventually(&format!("{what}: roles and membership agree"), async || {
            let node = self.one.node();
            let known = voters(node);
            let votes = known.iter().any(|name| name == "l1");
            let same = self
                .voters
                .iter()
                .all(|voter| voters(voter.node()) == known);
            let is_voter = role(node) != Role::Listener;
            let fed = node.status().borrow().depth.is_some();
            (same && votes == is_voter && fed).then_some(())
        })
        .await;
    }
}

fn promotion() -> RoleChange {
    RoleChange::Promote { node: "l1".into() }
}

fn demotion() -> RoleChange {
    RoleChange::Demote { node: "l1".into() }
}
