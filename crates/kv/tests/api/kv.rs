//! KV: every call and option, with the codes, strings and revisions that etcd has.

use crate::server::{Server, assert_status, delete, put, put_op, range, range_op};
use eaves_kv::proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op, response_op, *,
};
use tonic::Code;

#[tokio::test]
async fn a_put_is_read_back_with_its_revisions() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let base = server.revision().await;

    let first = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert_eq!(first.header.unwrap().revision, base + 1);
    let request = PutRequest {
        prev_kv: true,
        ..put("a", "2")
    };
    let second = kv.put(request).await.unwrap().into_inner();
    assert_eq!(second.prev_kv.unwrap().value, "1");

    let read = kv.range(range("a", "")).await.unwrap().into_inner();
    let found = &read.kvs[0];
    assert_eq!(
        (found.key.as_ref(), found.value.as_ref()),
        (&b"a"[..], &b"2"[..])
    );
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (base + 1, base + 2, 2)
    );
    assert_eq!((read.count, read.more), (1, false));
}

#[tokio::test]
async fn headers_name_the_cluster_the_member_and_the_term() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let written = kv
        .put(put("a", "1"))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap();
    let read = kv
        .range(range("a", ""))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap();
    let local = RangeRequest {
        serializable: true,
        ..range("a", "")
    };
    let read_locally = kv.range(local).await.unwrap().into_inner().header.unwrap();
    assert_eq!(written, read);
    assert_eq!(written, read_locally);
    assert!(written.cluster_id != 0 && written.member_id != 0 && written.raft_term != 0);
}

#[tokio::test]
async fn range_options_select_and_sort() {
    let server = Server::start().await;
    let mut kv = server.kv();
    for (key, value) in [("k1", "c"), ("k2", "a"), ("k3", "b")] {
        kv.put(put(key, value)).await.unwrap();
    }
    let all = range("k", "l");
    let mut keys = async |request: RangeRequest| -> (Vec<String>, i64, bool) {
        let response = kv.range(request).await.unwrap().into_inner();
        let keys = response
            .kvs
            .iter()
            .map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
            .collect();
        (keys, response.count, response.more)
    };
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| name.to_string())
            .collect::<Vec<_>>()
    };

    let limited = RangeRequest {
        limit: 2,
        ..all.clone()
    };
    assert_eq!(keys(limited).await, (names(&["k1", "k2"]), 3, true));
    let counted = RangeRequest {
        count_only: true,
        ..all.clone()
    };
    assert_eq!(keys(counted).await, (vec![], 3, false));
    let by_value = RangeRequest {
        sort_target: SortTarget::Value.into(),
        ..all.clone()
    };
    assert_eq!(keys(by_value).await.0, names(&["k2", "k3", "k1"]));
    let descending = RangeRequest {
        sort_order: SortOrder::Descend.into(),
        limit: 1,
        ..all.clone()
    };
    assert_eq!(keys(descending).await, (names(&["k3"]), 3, true));
    assert_eq!(keys(range("k2", "\0")).await.0, names(&["k2", "k3"]));
    assert_eq!(keys(range("k2", "k2")).await.0, names(&[]));
}

#[tokio::test]
async fn keys_only_leaves_values_out() {
    let server = Server::start().await;
    let mut kv = server.kv();
    kv.put(put("a", "1")).await.unwrap();
    let request = RangeRequest {
        keys_only: true,
        ..range("a", "")
    };
    let response = kv.range(request).await.unwrap().into_inner();
    assert!(response.kvs[0].value.is_empty() && response.kvs[0].mod_revision > 0);
}

#[tokio::test]
async fn old_revisions_can_be_read_until_compacted() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let first = kv
        .put(put("a", "1"))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap()
        .revision;
    kv.put(put("a", "2")).await.unwrap();

    let at = |revision| RangeRequest {
        revision,
        ..range("a", "")
    };
    let old = kv.range(at(first)).await.unwrap().into_inner();
    assert_eq!(old.kvs[0].value, "1");
    assert_eq!(old.header.unwrap().revision, first + 1);
    let future = kv.range(at(first + 9)).await.unwrap_err();
    assert_status(
        &future,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );

    let compaction = CompactionRequest {
        revision: first + 1,
        physical: true,
    };
    let compacted = kv.compact(compaction).await.unwrap().into_inner();
    assert_eq!(compacted.header.unwrap().revision, first + 1);
    let gone = kv.range(at(first)).await.unwrap_err();
    assert_status(
        &gone,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    assert_eq!(
        kv.range(at(first + 1)).await.unwrap().into_inner().kvs[0].value,
        "2"
    );
    let again = kv.compact(compaction).await.unwrap_err();
    assert_status(
        &again,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    let beyond = kv
        .compact(CompactionRequest {
            revision: first + 9,
            physical: false,
        })
        .await
        .unwrap_err();
    assert_status(
        &beyond,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}

#[tokio::test]
async fn a_delete_counts_and_returns_what_it_removed() {
    let server = Server::start().await;
    let mut kv = server.kv();
    kv.put(put("a1", "1")).await.unwrap();
    kv.put(put("a2", "2")).await.unwrap();
    let before = server.revision().await;

    let request = DeleteRangeRequest {
        prev_kv: true,
        ..delete("a", "b")
    };
    let response = kv.delete_range(request.clone()).await.unwrap().into_inner();
    assert_eq!((response.deleted, response.prev_kvs.len()), (2, 2));
    assert_eq!(response.header.unwrap().revision, before + 1);

    let nothing = kv.delete_range(request).await.unwrap().into_inner();
    assert_eq!(
        (nothing.deleted, nothing.header.unwrap().revision),
        (0, before + 1)
    );
}

#[tokio::test]
async fn wrong_requests_are_refused_in_etcds_words() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let no_key = "etcdserver: key is not provided";
    assert_status(
        &kv.put(put("", "1")).await.unwrap_err(),
        Code::InvalidArgument,
        no_key,
    );
    assert_status(
        &kv.range(range("", "z")).await.unwrap_err(),
        Code::InvalidArgument,
        no_key,
    );
    assert_status(
        &kv.delete_range(delete("", "z")).await.unwrap_err(),
        Code::InvalidArgument,
        no_key,
    );

    let keep_value = PutRequest {
        ignore_value: true,
        ..put("missing", "")
    };
    assert_status(
        &kv.put(keep_value).await.unwrap_err(),
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    let both = PutRequest {
        ignore_value: true,
        ..put("a", "1")
    };
    assert_status(
        &kv.put(both).await.unwrap_err(),
        Code::InvalidArgument,
        "etcdserver: value is provided",
    );
}

#[tokio::test]
async fn a_put_with_a_lease_is_refused_and_not_stored() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let leased = PutRequest {
        lease: 77,
        ..put("leased", "1")
    };
    assert_status(
        &kv.put(leased.clone()).await.unwrap_err(),
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let operation = RequestOp {
        request: Some(request_op::Request::RequestPut(leased)),
    };
    let txn = TxnRequest {
        success: vec![operation],
        ..Default::default()
    };
    assert_status(
        &kv.txn(txn).await.unwrap_err(),
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    assert_eq!(
        kv.range(range("leased", ""))
            .await
            .unwrap()
            .into_inner()
            .count,
        0
    );
}

#[tokio::test]
async fn a_txn_compares_and_takes_one_branch_at_one_revision() {
    let server = Server::start().await;
    let mut kv = server.kv();
    let base = kv
        .put(put("a", "1"))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap()
        .revision;

    let is_one = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: "a".into(),
        target_union: Some(TargetUnion::Value("1".into())),
        ..Default::default()
    };
    let nested = TxnRequest {
        success: vec![put_op("c", "3")],
        ..Default::default()
    };
    let nested = RequestOp {
        request: Some(request_op::Request::RequestTxn(nested)),
    };
    let txn = TxnRequest {
        compare: vec![is_one],
        success: vec![put_op("a", "2"), range_op("a"), nested],
        failure: vec![range_op("a")],
    };

    let first = kv.txn(txn.clone()).await.unwrap().into_inner();
    assert!(first.succeeded);
    assert_eq!(first.header.unwrap().revision, base + 1);
    assert!(matches!(
        first.responses[0].response,
        Some(response_op::Response::ResponsePut(_))
    ));
    let Some(response_op::Response::ResponseRange(seen)) = &first.responses[1].response else {
        panic!("a range")
    };
    assert_eq!(
        (seen.kvs[0].value.as_ref(), seen.kvs[0].mod_revision),
        (&b"2"[..], base + 1)
    );
    let Some(response_op::Response::ResponseTxn(inner)) = &first.responses[2].response else {
        panic!("a txn")
    };
    assert!(inner.succeeded);

    let second = kv.txn(txn).await.unwrap().into_inner();
    assert!(!second.succeeded);
    assert_eq!(
        (second.responses.len(), second.header.unwrap().revision),
        (1, base + 1)
    );
}

#[tokio::test]
async fn a_txn_that_only_reads_changes_nothing() {
    let server = Server::start().await;
    let mut kv = server.kv();
    kv.put(put("a", "1")).await.unwrap();
    let before = server.revision().await;
    let txn = TxnRequest {
        success: vec![range_op("a")],
        ..Default::default()
    };
    let response = kv.txn(txn).await.unwrap().into_inner();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, before);
    let empty = kv.txn(TxnRequest::default()).await.unwrap().into_inner();
    assert!(empty.succeeded && empty.responses.is_empty());
}

#[tokio::test]
async fn a_txn_cannot_put_one_key_twice() {
    let server = Server::start().await;
    let txn = TxnRequest {
        success: vec![put_op("a", "1"), put_op("a", "2")],
        ..Default::default()
    };
    let refused = server.kv().txn(txn).await.unwrap_err();
    assert_status(
        &refused,
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
    );
}

#[tokio::test]
async fn streams_of_ranges_say_that_they_are_missing() {
    let server = Server::start().await;
    let refused = server.kv().range_stream(range("a", "z")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
