//! etcd as an oracle: random sequences of KV and Watch requests go to a real etcd and to voters and listeners of ours,
//! and every response, status code and error text is compared.
//!
//! `sequence` runs one of them (`sequence/` has its streams, what it does to watches, and how it waits and compares) and lists the allowances, `scenarios` holds what they do not reach; `requests` makes the calls, `replies` sends and normalises
//! them, `watches` keeps what the streams deliver, `processes` starts the servers, `tamper` shows that a difference would
//! be seen. The seeds are fixed; `EAVES_ORACLE_SEEDS=FIRST..END` and `EAVES_ORACLE_STEPS=N` run others.
//!
//! Without an etcd these tests say so and what to do, and pass; in CI (`CI` is set) they fail.

mod processes;
mod replies;
mod requests;
mod scenarios;
mod sequence;
mod tamper;
mod watches;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use processes::{Cluster, HOW_TO_INSTALL};
use sequence::{Outcome, Side};

/// The sequences that are run when none are asked for.
const SEEDS: Range<u64> = 1..7;

/// Steps of a sequence, each a call or something done to a watch.
const STEPS: usize = 250;

/// What the sequences must have met, so that they cannot quietly stop testing it.
const MUST_MEET: &[&str] = &[
    "range ok",
    "put ok",
    "delete range ok",
    "txn ok, succeeded",
    "txn ok, failed",
    "compact ok",
    r#"InvalidArgument "etcdserver: key is not provided""#,
    r#"InvalidArgument "etcdserver: key not found""#,
    r#"InvalidArgument "etcdserver: value is provided""#,
    r#"InvalidArgument "etcdserver: lease is provided""#,
    r#"InvalidArgument "etcdserver: too many operations in txn request""#,
    r#"InvalidArgument "etcdserver: duplicate key given in txn request""#,
    r#"NotFound "etcdserver: requested lease not found""#,
    r#"OutOfRange "etcdserver: mvcc: required revision has been compacted""#,
    r#"OutOfRange "etcdserver: mvcc: required revision is a future revision""#,
    "watch from past revision",
    "watch from now",
    "watch from future revision",
    "watch from compacted revision",
    "watch cancel",
    "watch cancel of an unknown id",
    "watch progress",
    "watch stream closed",
    r#"watch refused "mvcc: duplicate watch ID provided on the WatchStream""#,
    r#"watch refused "mvcc: watcher range is empty""#,
];

/// The harness itself: an etcd does as an etcd does, and the sequences meet all that they should.
#[tokio::test]
async fn etcd_agrees_with_etcd() {
    let Some(etcd) = etcd_or_say_so() else { return };
    let mut coverage = BTreeMap::new();
    for seed in seeds() {
        let (mut reference, mut subject) = (Cluster::etcd(&etcd).await, Cluster::etcd(&etcd).await);
        let outcome = sequence::run(
            seed,
            steps(),
            etcd_side(&mut reference),
            etcd_side(&mut subject),
        )
        .await;
        assert_agree(seed, &outcome);
        let (reference, subject) = (&reference.nodes[0], &subject.nodes[0]);
        scenarios::compare(reference, subject, subject).await;
        for (kind, times) in outcome.coverage {
            *coverage.entry(kind).or_insert(0) += times;
        }
    }
    println!("met: {coverage:#?}");
    if seeds() == SEEDS {
        let missed: Vec<_> = MUST_MEET
            .iter()
            .filter(|kind| !coverage.contains_key(**kind))
            .collect();
        assert!(
            missed.is_empty(),
            "the sequences no longer meet {missed:?}; add seeds or steps"
        );
    }
}

/// The comparison itself: whatever of a reply or a stream is changed, it is noticed.
#[tokio::test]
async fn a_changed_response_is_noticed() {
    let Some(etcd) = etcd_or_say_so() else { return };
    let (mut reference, mut subject) = (Cluster::etcd(&etcd).await, Cluster::etcd(&etcd).await);
    let outcome = sequence::run(
        SEEDS.start,
        STEPS,
        etcd_side(&mut reference),
        etcd_side(&mut subject),
    )
    .await;
    tamper::assert_all_noticed(&outcome.replies, &outcome.streams);
}

/// What it is all for.
#[tokio::test]
async fn voters_and_listeners_answer_like_etcd() {
    let Some(etcd) = etcd_or_say_so() else { return };
    for seed in seeds() {
        let (mut reference, mut subject) = (Cluster::etcd(&etcd).await, Cluster::eaves().await);
        let ours = Side {
            cluster: &mut subject,
            keeps_deletion_at_compaction: true,
        };
        let outcome = sequence::run(seed, steps(), etcd_side(&mut reference), ours).await;
        assert_agree(seed, &outcome);
    }
}

/// What the sequences do not reach; and what later etcds do, which ours must do too.
#[tokio::test]
async fn voters_and_listeners_do_as_etcd_in_the_scenarios() {
    let Some(etcd) = etcd_or_say_so() else { return };
    let (reference, subject) = (Cluster::etcd(&etcd).await, Cluster::eaves().await);
    let etcd = &reference.nodes[0];
    let (first, last) = (&subject.nodes[0], &subject.nodes[subject.nodes.len() - 1]);
    for (writer, reader) in [(first, last), (last, first)] {
        scenarios::compare(etcd, writer, reader).await;
    }
    for (writer, watcher) in [(first, last), (last, first)] {
        scenarios::as_later_etcds(writer, watcher).await;
        scenarios::a_put_with_a_lease_is_refused(writer).await;
    }
}

/// etcd 3.5.1 drops a deletion at exactly the compacted revision.
fn etcd_side(cluster: &mut Cluster) -> Side<'_> {
    Side {
        cluster,
        keeps_deletion_at_compaction: false,
    }
}

fn assert_agree(seed: u64, outcome: &Outcome) {
    println!("seed {seed}: {} replies compared", outcome.replies.len());
    let differences = outcome.differences.join("\n");
    assert!(
        outcome.differences.is_empty(),
        "seed {seed} shows differences (run it alone with EAVES_ORACLE_SEEDS={seed}..{}):\n{differences}",
        seed + 1
    );
}

fn etcd_or_say_so() -> Option<PathBuf> {
    let etcd = processes::find_etcd();
    if etcd.is_none() {
        let message = format!("THE ORACLE DID NOT RUN: there is no etcd here. {HOW_TO_INSTALL}");
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("{message}");
    }
    etcd
}

fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("EAVES_ORACLE_SEEDS") else {
        return SEEDS;
    };
    let (first, end) = asked
        .split_once("..")
        .expect("EAVES_ORACLE_SEEDS has the form FIRST..END");
    let number = |text: &str| {
        text.parse()
            .expect("EAVES_ORACLE_SEEDS has numbers on both sides of ..")
    };
    number(first)..number(end)
}

fn steps() -> usize {
    std::env::var("EAVES_ORACLE_STEPS").map_or(STEPS, |steps| {
        steps.parse().expect("EAVES_ORACLE_STEPS is a number")
    })
}
