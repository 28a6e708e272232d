//! Watches: from now, from the past, filtered, several on a stream, cancel, progress, compacted.

use etcd_client::{Client, EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};

use crate::checks::{Checks, Outcome, ensure, expect};
use crate::keys::revision;
use crate::{Target, key};

pub async fn run(checks: &mut Checks, target: &mut Target) {
    let client = &mut target.client;
    checks.run("watch", live(client)).await;
    checks.run("watch from a past revision", past(client)).await;
    checks
        .run("watch from a future revision", future(client))
        .await;
    checks.run("watch with prev_key", previous(client)).await;
    checks.run("watch with filters", filtered(client)).await;
    checks
        .run(
            "watch: a transaction's events come together",
            together(client),
        )
        .await;
    checks
        .run("watch: several on a stream, cancel of one", several(client))
        .await;
    checks
        .run(
            "watch: an id of the client's choice, and the same again",
            chosen_id(client),
        )
        .await;
    checks
        .run("watch: progress on request", progress(client))
        .await;
}

pub async fn run_compacted(checks: &mut Checks, target: &mut Target) {
    checks
        .run(
            "watch from a compacted revision",
            compacted(&mut target.client),
        )
        .await;
}

/// Opens a stream with one watch and takes the response that says that it was created.
async fn watch(
    client: &mut Client,
    name: &str,
    options: WatchOptions,
) -> Result<WatchStream, Box<dyn std::error::Error>> {
    let mut stream = client.watch(key(name), Some(options)).await?;
    let created = next(&mut stream).await?;
    ensure(
        created.created() && !created.canceled() && created.events().is_empty(),
        || format!("the first response is {created:?}"),
    )?;
    Ok(stream)
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Box<dyn std::error::Error>> {
    Ok(stream.message().await?.ok_or("the stream ended")?)
}

/// The next `count` events as `+key=value` and `-key`, with the previous value behind a `<` where there is one.
async fn events(
    stream: &mut WatchStream,
    count: usize,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut shown = Vec::new();
    while shown.len() < count {
        let response = next(stream).await?;
        ensure(!response.canceled(), || {
            format!("the watch was cancelled: {response:?}")
        })?;
        for event in response.events() {
            let kv = event.kv().ok_or("an event has no key")?;
            let name = kv.key_str()?.trim_start_matches(crate::PREFIX);
            let change = match event.event_type() {
                EventType::Put => format!("+{name}={}", kv.value_str()?),
                EventType::Delete => format!("-{name}"),
            };
            let previous = event
                .prev_kv()
                .map(|kv| format!("<{}", kv.value_str().unwrap_or("?")));
            shown.push(change + &previous.unwrap_or_default());
        }
    }
    Ok(shown)
}

fn strings(wanted: &[&str]) -> Vec<String> {
    wanted.iter().map(|text| (*text).to_owned()).collect()
}

async fn live(client: &mut Client) -> Outcome {
    let mut stream = watch(client, "w", WatchOptions::new()).await?;
    client.put(key("w"), "1", None).await?;
    client.put(key("w/not"), "2", None).await?;
    client.delete(key("w"), None).await?;
    expect(events(&mut stream, 2).await?, strings(&["+w=1", "-w"]))
}

async fn past(client: &mut Client) -> Outcome {
    let before = revision(client).await?;
    for value in ["1", "2", "3"] {
        client.put(key("w/past"), value, None).await?;
    }
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(before + 2);
    let mut stream = watch(client, "w/pa", options).await?;
    client.put(key("w/past"), "4", None).await?;
    expect(
        events(&mut stream, 3).await?,
        strings(&["+w/past=2", "+w/past=3", "+w/past=4"]),
    )
}

async fn future(client: &mut Client) -> Outcome {
    let before = revision(client).await?;
    let mut stream = watch(
        client,
        "w/f",
        WatchOptions::new().with_start_revision(before + 3),
    )
    .await?;
    for value in ["1", "2", "3", "4"] {
        client.put(key("w/f"), value, None).await?;
    }
    expect(
        events(&mut stream, 2).await?,
        strings(&["+w/f=3", "+w/f=4"]),
    )
}

async fn previous(client: &mut Client) -> Outcome {
    client.delete(key("w/p"), None).await?;
    let mut stream = watch(client, "w/p", WatchOptions::new().with_prev_key()).await?;
    client.put(key("w/p"), "1", None).await?;
    client.put(key("w/p"), "2", None).await?;
    client.delete(key("w/p"), None).await?;
    expect(
        events(&mut stream, 3).await?,
        strings(&["+w/p=1", "+w/p=2<1", "-w/p<2"]),
    )
}

async fn filtered(client: &mut Client) -> Outcome {
    let no_put = WatchOptions::new().with_filters([WatchFilterType::NoPut]);
    let no_delete = WatchOptions::new().with_filters([WatchFilterType::NoDelete]);
    let mut deletes = watch(client, "w/filter", no_put).await?;
    let mut puts = watch(client, "w/filter", no_delete).await?;
    for value in ["1", "2"] {
        client.put(key("w/filter"), value, None).await?;
        client.delete(key("w/filter"), None).await?;
    }
    expect(
        events(&mut deletes, 2).await?,
        strings(&["-w/filter", "-w/filter"]),
    )?;
    expect(
        events(&mut puts, 2).await?,
        strings(&["+w/filter=1", "+w/filter=2"]),
    )
}

async fn together(client: &mut Client) -> Outcome {
    use etcd_client::{Txn, TxnOp};
    let mut stream = watch(client, "w/t", WatchOptions::new().with_prefix()).await?;
    let puts = [
        TxnOp::put(key("w/t2"), "x", None),
        TxnOp::put(key("w/t1"), "y", None),
    ];
    client.txn(Txn::new().and_then(puts)).await?;
    let response = next(&mut stream).await?;
    let revisions: Vec<_> = response
        .events()
        .iter()
        .filter_map(|event| event.kv())
        .map(|kv| kv.mod_revision())
        .collect();
    let header = response.header().map_or(0, |header| header.revision());
    expect(revisions, vec![header; 2])
}

async fn several(client: &mut Client) -> Outcome {
    let mut stream = watch(client, "w/a", WatchOptions::new()).await?;
    stream.watch(key("w/b"), None).await?;
    let second = next(&mut stream).await?;
    expect((second.created(), second.watch_id()), (true, 1))?;
    client.put(key("w/a"), "1", None).await?;
    client.put(key("w/b"), "2", None).await?;
    let mut both = events(&mut stream, 2).await?;
    both.sort();
    expect(both, strings(&["+w/a=1", "+w/b=2"]))?;
    stream.cancel(0).await?;
    let cancelled = next(&mut stream).await?;
    expect((cancelled.canceled(), cancelled.watch_id()), (true, 0))?;
    client.put(key("w/a"), "3", None).await?;
    client.put(key("w/b"), "4", None).await?;
    expect(events(&mut stream, 1).await?, strings(&["+w/b=4"]))
}

async fn chosen_id(client: &mut Client) -> Outcome {
    let mut stream = client
        .watch(key("w/id"), Some(WatchOptions::new().with_watch_id(7)))
        .await?;
    let created = next(&mut stream).await?;
    expect((created.created(), created.watch_id()), (true, 7))?;
    stream
        .watch(key("w/id"), Some(WatchOptions::new().with_watch_id(7)))
        .await?;
    let refused = next(&mut stream).await?;
    expect(
        (refused.created(), refused.canceled(), refused.watch_id()),
        (true, true, -1),
    )?;
    expect(
        refused.cancel_reason(),
        "mvcc: duplicate watch ID provided on the WatchStream",
    )
}

async fn progress(client: &mut Client) -> Outcome {
    let mut stream = watch(client, "w/progress", WatchOptions::new()).await?;
    client.put(key("w/progress"), "1", None).await?;
    expect(events(&mut stream, 1).await?, strings(&["+w/progress=1"]))?;
    client.put(key("elsewhere"), "1", None).await?;
    let now = revision(client).await?;
    // Each answer names a revision up to which all events have come; sooner or later that is the newest.
    loop {
        stream.request_progress().await?;
        let response = next(&mut stream).await?;
        expect((response.watch_id(), response.events().len()), (-1, 0))?;
        if response.header().map_or(0, |header| header.revision()) == now {
            return Ok(());
        }
    }
}

async fn compacted(client: &mut Client) -> Outcome {
    client.put(key("w/c"), "1", None).await?;
    let now = revision(client).await?;
    client.compact(now, None).await?;
    let mut stream = watch(
        client,
        "w/c",
        WatchOptions::new().with_start_revision(now - 1),
    )
    .await?;
    let ended = next(&mut stream).await?;
    expect(
        (
            ended.canceled(),
            ended.compact_revision(),
            ended.cancel_reason(),
        ),
        (true, now, ""),
    )
}
