//! One of two voters whose third has never come up: what is acknowledged is on the disks of both.

use crate::group::{Client, Plan, converge, role};
use crate::machine::Machine;
use crate::{Cut, before_every_operation, run};
use eaves::Role;
use std::time::Duration;

#[test]
fn a_voter_goes_down_before_each_operation() {
    let expected = &[
        "create LOCK",
        "create state.redb",
        "rename to state.redb",
        "write state.redb",
        "sync state.redb",
        "rename to identity",
        "sync directory v#",
        "write segment.tmp",
        "sync segment.tmp",
        "rename to #-#.seg",
        "remove #-#.seg",
        "rename to state",
        "sync directory log",
    ];
    before_every_operation("voter", &expected[..], |operations, cut| {
        run(async move { Story::new(operations).tell(cut).await })
    });
}

struct Story {
    plan: Plan,
    /// The machine under test.
    one: Machine,
    other: Machine,
    client: Client,
}

impl Story {
    fn new(operations: u64) -> Story {
        let plan = Plan::new(3);
        let one = plan.voter("v2");
        one.go_down_after(operations);
        Story {
            one,
            other: plan.voter("v1"),
            plan,
            client: Client::default(),
        }
    }

    async fn tell(mut self, cut: Cut) -> Option<String> {
        self.other.start().await.expect("nothing is wrong with it");
        let ended = self.until_cut().await;
        assert!(ended.is_some() || self.one.cut().is_some(), "to its end");
        let kind = self.one.cut();
        let what = format!("{cut:?} before {kind:?}");
        self.one.go_down(cut).await;
        self.check_disk(&what);
        if let Cut::KillThenPower(seed) = cut {
            self.start(&what).await;
            for _ in 0..3 {
                self.client.write_surely(&what, self.other.node()).await;
            }
            self.one.go_down(Cut::Power(seed)).await;
            self.check_disk(&what);
        }

        // The other one is gone for good. What the two had acknowledged is found by a third that knows nothing.
        self.other.stop().await;
        self.start(&what).await;
        let mut third = self.plan.voter("v3");
        third
            .start()
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        self.client.write_surely(&what, self.one.node()).await;
        converge(&what, &self.client, &self.one, &third).await;
        self.one.stop().await;
        third.stop().await;
        kind
    }

    /// First start, writes, segments begun and left behind, a state made durable now and then, a restart. `None` once it is cut.
    async fn until_cut(&mut self) -> Option<()> {
        self.one.start().await.ok()?;
        self.write(12).await?;
        self.one.stop().await;
        self.one.start().await.ok()?;
        self.write(12).await
    }

    async fn write(&mut self, count: u32) -> Option<()> {
        for number in 0..count {
            if self.one.cut().is_some() {
                return None;
            }
            // A write that is not acknowledged soon may be one day, or never.
            let patience = Duration::from_secs(2);
            let node = match number % 2 {
                0 => self.one.node().clone(),
                _ => self.other.node().clone(),
            };
            let _ = tokio::time::timeout(patience, self.client.write(&node)).await;
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
        Some(())
    }

    async fn start(&mut self, what: &str) {
        let started = self.one.start().await;
        started.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_ne!(role(self.one.node()), Role::Listener, "{what}");
    }

    fn check_disk(&self, what: &str) {
        let store = self.one.look();
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        self.client.check_prefix(&store, self.other.store());
    }
}
