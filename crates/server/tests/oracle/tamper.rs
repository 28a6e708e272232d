//! Changes replies and streams in every way that matters and sees that the comparison notices.

use eaves_kv::proto::etcdserverpb::response_op::Response;
use eaves_kv::proto::etcdserverpb::{ResponseHeader, TxnResponse};
use eaves_kv::proto::mvccpb::event::EventType;
use eaves_kv::proto::mvccpb::{Event, KeyValue};
use tonic::Code;

use crate::replies::Reply;
use crate::watches::StreamLog;

/// Fails if one of the changes goes unnoticed, or if what may differ is noticed.
pub fn assert_all_noticed(replies: &[Reply], streams: &[StreamLog]) {
    let mut changes = 0;
    for reply in replies {
        for changed in changed_replies(reply) {
            assert!(
                changed.clone().normalised() != *reply,
                "not noticed: {changed:?} for {reply:?}"
            );
            changes += 1;
        }
        let mut elsewhere = reply.clone();
        if let Some(header) = elsewhere.header_mut() {
            *header = ResponseHeader {
                cluster_id: 7,
                member_id: 8,
                raft_term: 9,
                ..*header
            };
        }
        assert_eq!(elsewhere.normalised(), *reply, "ids and terms may differ");
    }
    for stream in streams {
        assert_eq!(stream.difference(stream, &[]), None);
        for changed in changed_streams(stream) {
            assert!(
                changed.difference(stream, &[]).is_some(),
                "not noticed: {changed:?} for {stream:?}"
            );
            changes += 1;
        }
    }
    println!(
        "{changes} changes noticed in {} replies and {} streams",
        replies.len(),
        streams.len()
    );
    assert!(
        changes > 1000,
        "the sequence gave only {changes} things to change"
    );
    assert!(
        streams.iter().any(|stream| !stream.watches.is_empty()),
        "the sequence had no watch"
    );
}

fn changed_replies(reply: &Reply) -> Vec<Reply> {
    let mut changed = Vec::new();
    let mut change = |edit: &dyn Fn(&mut Reply)| {
        let mut copy = reply.clone();
        edit(&mut copy);
        changed.push(copy);
    };
    if reply.header().is_some() {
        change(&|reply| reply.header_mut().expect("it has one").revision += 1);
        change(&|_reply| {
            *_reply = Reply::Error {
                code: Code::Unknown,
                message: String::new(),
            }
        });
    }
    match reply {
        Reply::Error { .. } => {
            change(&|reply| {
                if let Reply::Error { code, .. } = reply {
                    *code = Code::Aborted
                }
            });
            change(&|reply| {
                if let Reply::Error { message, .. } = reply {
                    message.push('!')
                }
            });
        }
        Reply::Range(range) => {
            change(&|reply| {
                if let Reply::Range(range) = reply {
                    range.count += 1
                }
            });
            change(&|reply| {
                if let Reply::Range(range) = reply {
                    range.more = !range.more
                }
            });
            change(&|reply| {
                if let Reply::Range(range) = reply {
                    range.header = None
                }
            });
            if range.kvs.len() > 1 {
                change(&|reply| {
                    if let Reply::Range(range) = reply {
                        range.kvs.reverse()
                    }
                });
            }
            for kvs in changed_kvs(&range.kvs) {
                change(&|reply| {
                    if let Reply::Range(range) = reply {
                        range.kvs = kvs.clone()
                    }
                });
            }
        }
        Reply::Put(put) => {
            for kvs in changed_kvs(put.prev_kv.as_slice()) {
                change(&|reply| {
                    if let Reply::Put(put) = reply {
                        put.prev_kv = kvs.first().cloned()
                    }
                });
            }
        }
        Reply::DeleteRange(delete) => {
            change(&|reply| {
                if let Reply::DeleteRange(delete) = reply {
                    delete.deleted += 1
                }
            });
            for kvs in changed_kvs(&delete.prev_kvs) {
                change(&|reply| {
                    if let Reply::DeleteRange(delete) = reply {
                        delete.prev_kvs = kvs.clone()
                    }
                });
            }
        }
        Reply::Txn(txn) => {
            change(&|reply| {
                if let Reply::Txn(txn) = reply {
                    txn.succeeded = !txn.succeeded
                }
            });
            for response in changed_txns(txn) {
                change(&|reply| {
                    if let Reply::Txn(txn) = reply {
                        *txn = response.clone()
                    }
                });
            }
        }
        Reply::Compact(_) => {}
    }
    changed
}

/// The pairs with one dropped, one doubled, and each field of the first changed. Nothing if there are none.
fn changed_kvs(kvs: &[KeyValue]) -> Vec<Vec<KeyValue>> {
    let Some(first) = kvs.first() else {
        return Vec::new();
    };
    let edited = [
        KeyValue {
            key: "other".into(),
            ..first.clone()
        },
        KeyValue {
            value: "other".into(),
            ..first.clone()
        },
        KeyValue {
            create_revision: first.create_revision + 1,
            ..first.clone()
        },
        KeyValue {
            mod_revision: first.mod_revision + 1,
            ..first.clone()
        },
        KeyValue {
            version: first.version + 1,
            ..first.clone()
        },
        KeyValue {
            lease: first.lease + 1,
            ..first.clone()
        },
    ];
    let edited = edited.into_iter().map(|kv| [&[kv], &kvs[1..]].concat());
    edited.chain([kvs[1..].to_vec()]).collect()
}

fn changed_txns(txn: &TxnResponse) -> Vec<TxnResponse> {
    let Some(last) = txn.responses.last() else {
        return Vec::new();
    };
    let mut shorter = txn.clone();
    shorter.responses.pop();
    let mut edited = txn.clone();
    match edited
        .responses
        .last_mut()
        .and_then(|op| op.response.as_mut())
    {
        Some(Response::ResponseRange(range)) => range.count += 1,
        Some(Response::ResponsePut(put)) => put.header = None,
        Some(Response::ResponseDeleteRange(delete)) => delete.deleted += 1,
        Some(Response::ResponseTxn(txn)) => txn.succeeded = !txn.succeeded,
        None => panic!("etcd answered an operation with nothing: {last:?}"),
    }
    vec![shorter, edited]
}

fn changed_streams(stream: &StreamLog) -> Vec<StreamLog> {
    let mut changed = Vec::new();
    let mut change = |edit: &dyn Fn(&mut StreamLog)| {
        let mut copy = stream.clone();
        edit(&mut copy);
        changed.push(copy);
    };
    change(&|log| log.ended = Some("gone".to_owned()));
    change(&|log| log.broken.push("a promise".to_owned()));
    change(&|log| log.progress.push(1_000_000));
    if !stream.refused.is_empty() {
        change(&|log| log.refused[0].cancel_reason.push('!'));
        change(&|log| log.refused.truncate(0));
    }
    for (index, watch) in stream.watches.iter().enumerate() {
        change(&|log| log.watches[index].id += 1);
        change(&|log| log.watches[index].created_at += 1);
        if watch.cancelled.is_some() {
            change(&|log| log.watches[index].cancelled = None);
        }
        if watch.events.is_empty() {
            continue;
        }
        change(&|log| drop(log.watches[index].events.pop()));
        change(&|log| log.watches[index].events.push(Event::default()));
        change(&|log| log.watches[index].events.rotate_left(1));
        change(&|log| flip_type(&mut log.watches[index].events[0]));
        change(&|log| flip_previous(&mut log.watches[index].events[0]));
    }
    // Turning around a single event changes nothing.
    changed.retain(|copy| copy != stream);
    changed
}

fn flip_type(event: &mut Event) {
    let other = match event.r#type() {
        EventType::Put => EventType::Delete,
        EventType::Delete => EventType::Put,
    };
    event.set_type(other);
}

fn flip_previous(event: &mut Event) {
    event.prev_kv = match event.prev_kv.take() {
        Some(_) => None,
        None => Some(KeyValue::default()),
    };
}
