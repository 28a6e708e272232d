//! `eaves watch KEY [RANGE_END]`: prints changes as they are committed, until it is interrupted.
//!
//! A broken stream is opened again on the next node at the revision after the last one printed, so that nothing is missed and nothing
//! is printed twice; only a revision compacted in the meantime ends it.

use crate::client::{Client, MAX_ANSWER_BYTES, call_failed};
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::key_range::{KeyRange, RangeArgs};
use crate::print::{Output, header_json, key_value_json};
use clap::Args;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use eaves_kv::proto::mvccpb::event::EventType;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// How long to wait before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How often in a row a stream may break without a message before the watch gives up.
const FRUITLESS_STREAMS: usize = 10;

/// Prints changes of a key or a range of keys as they happen.
#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    pub range: RangeArgs,

    /// Begin with the changes of this revision; 0 means from now on
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    pub rev: u64,

    /// Print the pair as it was before each change, too
    #[arg(long)]
    pub prev_kv: bool,

    /// Print each batch of changes as one line of JSON, with etcdctl's fields
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Why one stream ended.
enum End {
    /// It can be opened again.
    Broken(Failure),
    /// There is no use in trying again.
    Final(Failure),
}

/// Runs `watch`.
pub async fn run(args: WatchArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    let range = args.range.range()?;
    let first_revision = i64::try_from(args.rev)
        .map_err(|_| Failure::usage("--rev: there is no such revision; give a smaller one"))?;
    let mut watch = Watch {
        args,
        range,
        next_revision: first_revision,
        output: Output::new(),
        established: false,
        fruitless: 0,
    };
    let mut attempt = 0;
    loop {
        let failure = match watch.follow(&client.starting_at(attempt)).await {
            End::Final(failure) => return Err(failure),
            End::Broken(failure) => failure,
        };
        attempt += 1;
        watch.fruitless += 1;
        let patience = if watch.established {
            FRUITLESS_STREAMS
        } else {
            client.addresses().len()
        };
        if watch.fruitless >= patience {
            return Err(failure);
        }
        tracing::warn!("{failure}; opening the watch again");
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

struct Watch {
    args: WatchArgs,
    range: KeyRange,
    /// The first revision not printed yet; 0 before the server has named one.
    next_revision: i64,
    output: Output,
    /// Whether any stream has ever said anything. Before, a failure is a wrong address rather than a broken watch.
    established: bool,
    /// Streams that broke since one last said anything.
    fruitless: usize,
}

impl Watch {
    async fn follow(&mut self, node: &Client) -> End {
        let (address, channel) = match node.connect().await {
            Ok(connected) => connected,
            Err(failure) if self.established => return End::Broken(failure),
            Err(failure) => return End::Final(failure),
        };
        let what = format!("watch {:?}", self.args.range.key);
        // The sender lives as long as the watch: closing it would end the stream.
        let (requests, receiver) = mpsc::channel(1);
        requests
            .try_send(self.create_request())
            .expect("a new channel has room");
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut answers = match client.watch(ReceiverStream::new(receiver)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return ended(call_failed(&what, &address, &status), &status),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    self.established = true;
                    self.fruitless = 0;
                    if let Err(failure) = self.take(&answer) {
                        return End::Final(failure);
                    }
                }
                Ok(None) => {
                    let failure =
                        format!("{what}: {address}: the stream ended; try another of --endpoints");
                    return End::Broken(Failure::failed(failure));
                }
                Err(status) => return ended(call_failed(&what, &address, &status), &status),
            }
        }
    }

    fn create_request(&self) -> WatchRequest {
        let create = WatchCreateRequest {
            key: self.range.key.clone().into(),
            range_end: self.range.range_end.clone().into(),
            start_revision: self.next_revision,
            prev_kv: self.args.prev_kv,
            ..Default::default()
        };
        WatchRequest {
            request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
        }
    }

    fn take(&mut self, answer: &WatchResponse) -> Outcome {
        if answer.compact_revision != 0 {
            return Err(Failure::failed(format!(
                "watch {:?}: the changes from revision {} on are compacted away; watch from revision {} on",
                self.args.range.key, self.next_revision, answer.compact_revision
            )));
        }
        if answer.canceled {
            return Err(Failure::failed(format!(
                "watch {:?}: the server cancelled it: {}; correct the request",
                self.args.range.key, answer.cancel_reason
            )));
        }
        self.print(answer)?;
        self.next_revision = next_revision(self.next_revision, answer);
        Ok(())
    }

    fn print(&mut self, answer: &WatchResponse) -> Outcome {
        if answer.events.is_empty() {
            return Ok(());
        }
        if self.args.json {
            self.output.json(&watch_json(answer))?;
        } else {
            for event in &answer.events {
                self.output.line(event.r#type().as_str_name())?;
                if let Some(pair) = &event.prev_kv {
                    self.output.key_value(pair, false)?;
                }
                self.output
                    .key_value(event.kv.as_ref().unwrap_or(&Default::default()), false)?;
            }
        }
        self.output.flush()
    }
}

/// Where to go on after `answer`. The header of the answer to the creation names the revision the watch begins after, unless one was
/// asked for.
fn next_revision(before: i64, answer: &WatchResponse) -> i64 {
    let last_event = answer
        .events
        .last()
        .and_then(|event| event.kv.as_ref())
        .map(|pair| pair.mod_revision);
    match (last_event, &answer.header) {
        // A fragment may end within a revision; printing some of it twice beats missing the rest.
        (Some(revision), _) if answer.fragment => revision,
        (Some(revision), _) => revision + 1,
        (None, Some(header)) if answer.created && before == 0 => header.revision + 1,
        (None, _) => before,
    }
}

fn ended(failure: Failure, status: &Status) -> End {
    match status.code() {
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated => End::Final(failure),
        _ => End::Broken(failure),
    }
}

fn watch_json(answer: &WatchResponse) -> Value {
    let events: Vec<Value> = answer
        .events
        .iter()
        .map(|event| {
            let mut object = Map::new();
            // Put is the zero of its enum, so etcdctl leaves it out.
            if event.r#type() == EventType::Delete {
                object.insert("type".into(), (EventType::Delete as i32).into());
            }
            if let Some(pair) = &event.kv {
                object.insert("kv".into(), key_value_json(pair));
            }
            if let Some(pair) = &event.prev_kv {
                object.insert("prev_kv".into(), key_value_json(pair));
            }
            Value::Object(object)
        })
        .collect();
    json!({
        "Header": header_json(answer.header.as_ref()),
        "Events": events,
        "CompactRevision": answer.compact_revision,
        "Canceled": answer.canceled,
        "Created": answer.created,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_kv::proto::etcdserverpb::ResponseHeader;
    use eaves_kv::proto::mvccpb::{Event, KeyValue};

    fn answer(created: bool, header_revision: i64, event_revision: Option<i64>) -> WatchResponse {
        let event = |mod_revision| Event {
            kv: Some(KeyValue {
                mod_revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision: header_revision,
                ..Default::default()
            }),
            created,
            events: event_revision.map(event).into_iter().collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_reopened_watch_goes_on_after_the_last_printed_revision() {
        assert_eq!(next_revision(0, &answer(true, 7, None)), 8);
        assert_eq!(next_revision(3, &answer(true, 7, None)), 3);
        assert_eq!(next_revision(8, &answer(false, 9, Some(8))), 9);
        assert_eq!(next_revision(9, &answer(false, 20, None)), 9);
        let fragment = WatchResponse {
            fragment: true,
            ..answer(false, 9, Some(8))
        };
        assert_eq!(next_revision(8, &fragment), 8);
    }
}
