//! put, get with every option, delete, transactions, compaction.

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, GetResponse,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};

use crate::checks::{Checks, Outcome, ensure, expect, refused};
use crate::{Target, key};

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const OUT_OF_RANGE: i32 = 11;

pub async fn run(checks: &mut Checks, target: &mut Target) {
    let client = &mut target.client;
    checks.run("put, get", put_get(client)).await;
    checks
        .run("put with prev_key and ignore_value", put_options(client))
        .await;
    checks.run("put refused", put_refused(client)).await;
    checks
        .run("get: limit, more, count", get_limits(client))
        .await;
    checks.run("get: ranges", get_ranges(client)).await;
    checks
        .run("get: sorted by everything", get_sorted(client))
        .await;
    checks
        .run("get: bounds on revisions", get_bounds(client))
        .await;
    checks
        .run(
            "get: keys_only, count_only, serializable",
            get_parts(client),
        )
        .await;
    checks
        .run("get: old and future revisions", get_revisions(client))
        .await;
    checks
        .run("get: more than 4 MiB in one answer", get_large(client))
        .await;
    checks.run("delete", delete(client)).await;
    checks.run("txn", txn(client)).await;
    checks.run("txn in a txn", txn_nested(client)).await;
    checks.run("txn compares", txn_compares(client)).await;
    checks.run("txn refused", txn_refused(client)).await;
}

pub async fn run_compactions(checks: &mut Checks, target: &mut Target) {
    checks.run("compact", compact(&mut target.client)).await;
}

pub async fn revision(client: &mut Client) -> Result<i64, etcd_client::Error> {
    let answer = client.get(key("none"), None).await?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}

/// The last letters of the keys that came, and the values that came.
fn shown(answer: &GetResponse) -> (String, String) {
    let kvs = answer.kvs();
    let last =
        |kv: &etcd_client::KeyValue| kv.key_str().unwrap_or("?").chars().last().unwrap_or('?');
    let value = |kv: &etcd_client::KeyValue| kv.value_str().unwrap_or("?").to_owned();
    (
        kvs.iter().map(last).collect(),
        kvs.iter().map(value).collect(),
    )
}

async fn put_get(client: &mut Client) -> Outcome {
    let before = revision(client).await?;
    client.put(key("a"), "1", None).await?;
    client.put(key("a"), "2", None).await?;
    let answer = client.get(key("a"), None).await?;
    let header = answer.header().ok_or("the answer has no header")?;
    ensure(
        header.cluster_id() > 0 && header.member_id() > 0 && header.raft_term() > 0,
        || format!("the header {header:?} has a zero in it"),
    )?;
    expect(header.revision(), before + 2)?;
    let [kv] = answer.kvs() else {
        return Err(format!("{answer:?} has not one key").into());
    };
    expect((kv.key(), kv.value()), (key("a").as_bytes(), &b"2"[..]))?;
    expect(
        (
            kv.create_revision(),
            kv.mod_revision(),
            kv.version(),
            kv.lease(),
        ),
        (before + 1, before + 2, 2, 0),
    )?;
    expect((answer.count(), answer.more()), (1, false))
}

async fn put_options(client: &mut Client) -> Outcome {
    client.put(key("p"), "old", None).await?;
    let answer = client
        .put(key("p"), "new", Some(PutOptions::new().with_prev_key()))
        .await?;
    expect(
        answer.prev_key().map(|kv| kv.value().to_vec()),
        Some(b"old".to_vec()),
    )?;
    client
        .put(key("p"), "", Some(PutOptions::new().with_ignore_value()))
        .await?;
    expect(
        shown(&client.get(key("p"), None).await?).1,
        "new".to_owned(),
    )
}

async fn put_refused(client: &mut Client) -> Outcome {
    refused(
        client.put("", "x", None).await,
        INVALID_ARGUMENT,
        "etcdserver: key is not provided",
    )?;
    let ignoring = PutOptions::new().with_ignore_value();
    let answer = client.put(key("p"), "x", Some(ignoring.clone())).await;
    refused(answer, INVALID_ARGUMENT, "etcdserver: value is provided")?;
    let answer = client.put(key("never"), "", Some(ignoring)).await;
    refused(answer, INVALID_ARGUMENT, "etcdserver: key not found")?;
    let answer = client
        .put(key("leased"), "x", Some(PutOptions::new().with_lease(1234)))
        .await;
    refused(answer, NOT_FOUND, "etcdserver: requested lease not found")?;
    expect(client.get(key("leased"), None).await?.count(), 0)?;
    let answer = client.put(key("huge"), vec![b'x'; 1_700_000], None).await;
    refused(answer, INVALID_ARGUMENT, "etcdserver: request is too large")
}

/// Four keys, made in the order c, a, b, d; then b is changed twice and c once.
async fn fill(client: &mut Client) -> Result<i64, etcd_client::Error> {
    client
        .delete(key("s/"), Some(DeleteOptions::new().with_prefix()))
        .await?;
    let before = revision(client).await?;
    for (name, value) in [
        ("c", "7"),
        ("a", "9"),
        ("b", "5"),
        ("d", "8"),
        ("b", "5"),
        ("c", "7"),
        ("b", "6"),
    ] {
        client.put(key(&format!("s/{name}")), value, None).await?;
    }
    Ok(before)
}

fn prefix() -> Option<GetOptions> {
    Some(GetOptions::new().with_prefix())
}

async fn get_limits(client: &mut Client) -> Outcome {
    fill(client).await?;
    for (limit, keys, more) in [
        (0, "abcd", false),
        (2, "ab", true),
        (4, "abcd", false),
        (5, "abcd", false),
    ] {
        let answer = client
            .get(key("s/"), prefix().map(|options| options.with_limit(limit)))
            .await?;
        expect(
            (shown(&answer).0.as_str(), answer.more(), answer.count()),
            (keys, more, 4),
        )?;
    }
    Ok(())
}

async fn get_ranges(client: &mut Client) -> Outcome {
    fill(client).await?;
    expect(
        shown(&client.get(key("s/"), prefix()).await?).0.as_str(),
        "abcd",
    )?;
    let range = GetOptions::new().with_range(key("s/c"));
    expect(
        shown(&client.get(key("s/a"), Some(range)).await?)
            .0
            .as_str(),
        "ab",
    )?;
    let from = GetOptions::new().with_from_key().with_limit(2);
    expect(
        shown(&client.get(key("s/c"), Some(from)).await?).0.as_str(),
        "cd",
    )?;
    let all = client
        .get("", Some(GetOptions::new().with_all_keys().with_limit(1)))
        .await?;
    ensure(all.count() >= 4, || format!("all keys are {}", all.count()))?;
    let backwards = GetOptions::new().with_range(key("s/a"));
    expect(client.get(key("s/c"), Some(backwards)).await?.count(), 0)
}

async fn get_sorted(client: &mut Client) -> Outcome {
    fill(client).await?;
    for (sort, ascending, descending) in [
        (SortTarget::Key, "abcd", "dcba"),
        (SortTarget::Create, "cabd", "dbac"),
        (SortTarget::Mod, "adcb", "bcda"),
        (SortTarget::Value, "bcda", "adcb"),
        // The two of version 1 keep the order of their keys.
        (SortTarget::Version, "adcb", "bcad"),
    ] {
        for (order, wanted) in [
            (SortOrder::Ascend, ascending),
            (SortOrder::Descend, descending),
        ] {
            let answer = client
                .get(
                    key("s/"),
                    prefix().map(|options| options.with_sort(sort, order)),
                )
                .await?;
            ensure(shown(&answer).0 == wanted, || {
                format!(
                    "{sort:?} {order:?} gives {}, should give {wanted}",
                    shown(&answer).0
                )
            })?;
        }
    }
    let first = prefix().map(|options| {
        options
            .with_sort(SortTarget::Value, SortOrder::Ascend)
            .with_limit(1)
    });
    let answer = client.get(key("s/"), first).await?;
    expect(
        (shown(&answer).0.as_str(), answer.more(), answer.count()),
        ("b", true, 4),
    )
}

async fn get_bounds(client: &mut Client) -> Outcome {
    // Created at 1, 2, 3, 4 (c, a, b, d) and last changed at 2, 4, 6, 7 (a, d, c, b) after this.
    let base = fill(client).await?;
    let options = GetOptions::new().with_prefix();
    for (options, keys) in [
        (options.clone().with_min_mod_revision(base + 6), "bc"),
        (options.clone().with_max_mod_revision(base + 4), "ad"),
        (options.clone().with_min_create_revision(base + 3), "bd"),
        (options.clone().with_max_create_revision(base + 1), "c"),
        (
            options
                .clone()
                .with_min_mod_revision(base + 3)
                .with_max_create_revision(base + 3),
            "bc",
        ),
    ] {
        let answer = client.get(key("s/"), Some(options)).await?;
        expect((shown(&answer).0.as_str(), answer.count()), (keys, 4))?;
    }
    Ok(())
}

async fn get_parts(client: &mut Client) -> Outcome {
    fill(client).await?;
    let answer = client
        .get(key("s/"), prefix().map(|options| options.with_keys_only()))
        .await?;
    expect(shown(&answer), ("abcd".to_owned(), String::new()))?;
    let answer = client
        .get(key("s/"), prefix().map(|options| options.with_count_only()))
        .await?;
    expect(
        (answer.count(), answer.kvs().len(), answer.more()),
        (4, 0, false),
    )?;
    let answer = client
        .get(
            key("s/"),
            prefix().map(|options| options.with_serializable()),
        )
        .await?;
    expect(shown(&answer), ("abcd".to_owned(), "9678".to_owned()))
}

async fn get_revisions(client: &mut Client) -> Outcome {
    let base = fill(client).await?;
    for (revision, keys, values) in [
        (base, "", ""),
        (base + 3, "abc", "957"),
        (base + 7, "abcd", "9678"),
    ] {
        let answer = client
            .get(
                key("s/"),
                prefix().map(|options| options.with_revision(revision)),
            )
            .await?;
        expect(shown(&answer), (keys.to_owned(), values.to_owned()))?;
        expect(
            answer.header().map(|header| header.revision()),
            Some(base + 7),
        )?;
    }
    let future = client
        .get(
            key("s/"),
            prefix().map(|options| options.with_revision(base + 100)),
        )
        .await;
    refused(
        future,
        OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )
}

async fn get_large(client: &mut Client) -> Outcome {
    for number in 0..6 {
        client
            .put(key(&format!("large/{number}")), vec![b'x'; 1_000_000], None)
            .await?;
    }
    // The client refuses what is larger than 4 MiB unless told otherwise.
    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
    let answer = kv.get(key("large/"), prefix()).await?;
    let lengths: Vec<usize> = answer.kvs().iter().map(|kv| kv.value().len()).collect();
    client
        .delete(key("large/"), Some(DeleteOptions::new().with_prefix()))
        .await?;
    expect(lengths, vec![1_000_000; 6])
}

async fn delete(client: &mut Client) -> Outcome {
    for name in ["a", "b", "c"] {
        client.put(key(&format!("d/{name}")), name, None).await?;
    }
    let before = revision(client).await?;
    let answer = client
        .delete(key("d/a"), Some(DeleteOptions::new().with_prev_key()))
        .await?;
    expect(
        (answer.deleted(), answer.prev_kvs()[0].value()),
        (1, &b"a"[..]),
    )?;
    let answer = client.delete(key("d/a"), None).await?;
    expect(
        (
            answer.deleted(),
            answer.header().map(|header| header.revision()),
        ),
        (0, Some(before + 1)),
    )?;
    let answer = client
        .delete(key("d/"), Some(DeleteOptions::new().with_prefix()))
        .await?;
    expect(
        (
            answer.deleted(),
            answer.header().map(|header| header.revision()),
        ),
        (2, Some(before + 2)),
    )?;
    refused(
        client.delete("", None).await,
        INVALID_ARGUMENT,
        "etcdserver: key is not provided",
    )
}

async fn txn(client: &mut Client) -> Outcome {
    client.put(key("t"), "1", None).await?;
    let before = revision(client).await?;
    let txn = || {
        Txn::new()
            .when([Compare::value(key("t"), CompareOp::Equal, "1")])
            .and_then([
                TxnOp::put(key("t"), "2", None),
                TxnOp::get(key("t"), None),
                TxnOp::put(key("t/other"), "3", None),
            ])
            .or_else([TxnOp::get(key("t"), None), TxnOp::delete(key("t"), None)])
    };
    let answer = client.txn(txn()).await?;
    ensure(answer.succeeded(), || {
        "the first txn did not succeed".to_owned()
    })?;
    expect(
        answer.header().map(|header| header.revision()),
        Some(before + 1),
    )?;
    let [
        TxnOpResponse::Put(_),
        TxnOpResponse::Get(get),
        TxnOpResponse::Put(_),
    ] = &answer.op_responses()[..]
    else {
        return Err(format!("the responses are {:?}", answer.op_responses()).into());
    };
    expect(shown(get).1.as_str(), "2")?;

    let answer = client.txn(txn()).await?;
    ensure(!answer.succeeded(), || {
        "the second txn succeeded".to_owned()
    })?;
    let [TxnOpResponse::Get(get), TxnOpResponse::Delete(deleted)] = &answer.op_responses()[..]
    else {
        return Err(format!("the responses are {:?}", answer.op_responses()).into());
    };
    expect((shown(get).1.as_str(), deleted.deleted()), ("2", 1))
}

async fn txn_nested(client: &mut Client) -> Outcome {
    client.put(key("n"), "1", None).await?;
    let inner = Txn::new()
        .when([Compare::value(key("n"), CompareOp::Equal, "1")])
        .and_then([TxnOp::put(key("n/inner"), "yes", None)])
        .or_else([TxnOp::put(key("n/inner"), "no", None)]);
    // The inner compare looks at what was there before the outer put.
    let outer = Txn::new().and_then([TxnOp::put(key("n"), "2", None), TxnOp::txn(inner)]);
    let answer = client.txn(outer).await?;
    let [TxnOpResponse::Put(_), TxnOpResponse::Txn(inner)] = &answer.op_responses()[..] else {
        return Err(format!("the responses are {:?}", answer.op_responses()).into());
    };
    ensure(inner.succeeded(), || {
        "the inner txn did not succeed".to_owned()
    })?;
    expect(
        shown(&client.get(key("n/inner"), None).await?).1.as_str(),
        "yes",
    )
}

async fn txn_compares(client: &mut Client) -> Outcome {
    client.delete(key("c"), None).await?;
    client.put(key("c"), "m", None).await?;
    let now = revision(client).await?;
    for (compare, holds) in [
        (Compare::mod_revision(key("c"), CompareOp::Equal, now), true),
        (
            Compare::mod_revision(key("c"), CompareOp::Greater, now),
            false,
        ),
        (
            Compare::create_revision(key("c"), CompareOp::Less, now + 1),
            true,
        ),
        (
            Compare::create_revision(key("absent"), CompareOp::Equal, 0),
            true,
        ),
        (Compare::version(key("c"), CompareOp::NotEqual, 1), false),
        (Compare::value(key("absent"), CompareOp::Equal, ""), false),
        (Compare::value(key("c"), CompareOp::Greater, "a"), true),
        (Compare::lease(key("c"), CompareOp::Equal, 0), true),
        (
            Compare::version(key("c"), CompareOp::Greater, 0).with_prefix(),
            true,
        ),
    ] {
        let answer = client.txn(Txn::new().when([compare.clone()])).await?;
        ensure(answer.succeeded() == holds, || {
            format!("{compare:?} is {}", answer.succeeded())
        })?;
    }
    expect(revision(client).await?, now)
}

async fn txn_refused(client: &mut Client) -> Outcome {
    let twice = Txn::new().and_then([
        TxnOp::put(key("t"), "1", None),
        TxnOp::put(key("t"), "2", None),
    ]);
    let answer = client.txn(twice).await;
    refused(
        answer,
        INVALID_ARGUMENT,
        "etcdserver: duplicate key given in txn request",
    )?;
    let many = |count: usize| -> Vec<TxnOp> {
        (0..count)
            .map(|number| TxnOp::put(key(&format!("many/{number}")), "x", None))
            .collect()
    };
    let answer = client.txn(Txn::new().and_then(many(129))).await;
    refused(
        answer,
        INVALID_ARGUMENT,
        "etcdserver: too many operations in txn request",
    )?;
    expect(
        client
            .txn(Txn::new().and_then(many(128)))
            .await?
            .op_responses()
            .len(),
        128,
    )
}

async fn compact(client: &mut Client) -> Outcome {
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let base = fill(client).await?;
    let physical = CompactionOptions::new().with_physical();
    client.compact(base + 4, Some(physical)).await?;
    let at = |revision| prefix().map(|options: GetOptions| options.with_revision(revision));
    expect(
        shown(&client.get(key("s/"), at(base + 4)).await?)
            .1
            .as_str(),
        "9578",
    )?;
    refused(
        client.get(key("s/"), at(base + 3)).await,
        OUT_OF_RANGE,
        compacted,
    )?;
    refused(
        client.compact(base + 4, None).await,
        OUT_OF_RANGE,
        compacted,
    )?;
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(client.compact(base + 100, None).await, OUT_OF_RANGE, future)
}
