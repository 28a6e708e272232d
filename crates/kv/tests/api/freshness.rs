//! What a read may demand by metadata: a greatest age, a least revision (B14).

use crate::server::{Server, assert_status, put, range, range_op};
use eaves_kv::proto::etcdserverpb::{RangeRequest, TxnRequest};
use tonic::{Code, Request};

const MAX_STALENESS: &str = "eaves-max-staleness-ms";
const MIN_REVISION: &str = "eaves-min-revision";
const STALENESS: &str = "eaves-staleness-ms";

fn demanding<M>(message: M, metadata: &[(&'static str, &str)]) -> Request<M> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn local(key: &str) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..range(key, "")
    }
}

fn only_reads(key: &str) -> TxnRequest {
    TxnRequest {
        success: vec![range_op(key)],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_bounded_read_says_how_old_the_state_was_at_most() {
    let server = Server::start().await;
    let mut kv = server.kv();
    kv.put(put("a", "1")).await.unwrap();
    for bound in ["0", "1", "60000", "18446744073709551615"] {
        for request in [range("a", ""), local("a")] {
            let answer = kv
                .range(demanding(request, &[(MAX_STALENESS, bound)]))
                .await
                .unwrap();
            let staleness = answer.metadata().get(STALENESS).unwrap();
            staleness.to_str().unwrap().parse::<u64>().unwrap();
            assert_eq!(answer.into_inner().kvs[0].value, "1");
        }
        let answer = kv
            .txn(demanding(only_reads("a"), &[(MAX_STALENESS, bound)]))
            .await
            .unwrap();
        assert!(answer.metadata().contains_key(STALENESS));
    }
    let plain = kv.range(range("a", "")).await.unwrap();
    assert!(!plain.metadata().contains_key(STALENESS));
}

#[tokio::test]
async fn a_revision_that_is_demanded_is_there() {
    let server = Server::start().await;
    let mut kv = server.kv();
    for number in 0..50 {
        let written = kv.put(put("a", &number.to_string())).await.unwrap();
        let revision = written.into_inner().header.unwrap().revision.to_string();
        let request = demanding(local("a"), &[(MIN_REVISION, &revision)]);
        let read = kv.range(request).await.unwrap().into_inner();
        assert_eq!(read.kvs[0].value, number.to_string());
    }
}

#[tokio::test]
async fn a_revision_that_nobody_has_is_a_future_one() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let future = (server.revision().await + 1).to_string();
    let words = "etcdserver: mvcc: required revision is a future revision";
    for request in [range("a", ""), local("a")] {
        let refused = kv
            .range(demanding(request, &[(MIN_REVISION, &future)]))
            .await
            .unwrap_err();
        assert_status(&refused, Code::OutOfRange, words);
    }
    let refused = kv
        .txn(demanding(only_reads("a"), &[(MIN_REVISION, &future)]))
        .await
        .unwrap_err();
    assert_status(&refused, Code::OutOfRange, words);
}

#[tokio::test]
async fn nonsense_is_refused_by_name_and_value() {
    let server = Server::start().await;
    let mut kv = server.kv();
    for name in [MAX_STALENESS, MIN_REVISION] {
        let words = format!("eaves: metadata {name} is \"soon\": give a whole number, 0 or more");
        let refused = kv
            .range(demanding(local("a"), &[(name, "soon")]))
            .await
            .unwrap_err();
        assert_status(&refused, Code::InvalidArgument, &words);
        let refused = kv
            .txn(demanding(only_reads("a"), &[(name, "soon")]))
            .await
            .unwrap_err();
        assert_status(&refused, Code::InvalidArgument, &words);
    }
}

#[tokio::test]
async fn what_cannot_be_had_without_a_leader_is_unavailable() {
    let server = Server::start_without_quorum().await;
    let (mut bounded, mut reaching, mut both) = (server.kv(), server.kv(), server.kv());
    let demands = [(MAX_STALENESS, "1000"), (MIN_REVISION, "5")];
    let (stale, early, first) = tokio::join!(
        bounded.range(demanding(local("a"), &[(MAX_STALENESS, "1000")])),
        reaching.range(demanding(local("a"), &[(MIN_REVISION, "5")])),
        both.range(demanding(local("a"), &demands)),
    );
    // The revision is waited for before the age is taken, which would be too small after the wait.
    assert_eq!(
        first.unwrap_err().message(),
        early.as_ref().unwrap_err().message()
    );
    let (stale, early) = (stale.unwrap_err(), early.unwrap_err());
    assert_eq!(stale.code(), Code::Unavailable);
    assert!(stale.message().contains("at most 1000 ms old"), "{stale:?}");
    assert_eq!(early.code(), Code::Unavailable);
    assert!(
        early.message().contains("at revision 1, not yet at 5"),
        "{early:?}"
    );
    let mut kv = server.kv();
    kv.range(demanding(local("a"), &[(MIN_REVISION, "1")]))
        .await
        .unwrap();
}
