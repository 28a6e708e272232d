//! Clients that watch: when events come, and how many.

use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::watch_request::RequestUnion;
use eaves_kv::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use eaves_server::address::Address;
use eaves_server::failure::{Failure, Outcome};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Revisions, and when their events came.
pub type Seen = Arc<Mutex<Vec<(i64, Instant)>>>;

/// Open watches; dropping them ends them.
#[derive(Default)]
pub struct Watchers {
    tasks: JoinSet<()>,
    events: Arc<AtomicU64>,
}

impl Watchers {
    /// Watches one key on a server and notes when its changes are seen.
    pub async fn note(&mut self, server: &Address, key: &str) -> Outcome<Seen> {
        let (sender, mut responses) = open(server, key, "", 1).await?;
        let seen = Seen::default();
        let theirs = seen.clone();
        self.tasks.spawn(async move {
            let _open = sender;
            while let Ok(Some(response)) = responses.message().await {
                let now = Instant::now();
                let revisions = response.events.iter().filter_map(|event| event.kv.as_ref());
                let mut seen = theirs.lock().expect("nobody panics with it");
                seen.extend(revisions.map(|pair| (pair.mod_revision, now)));
            }
        });
        Ok(seen)
    }

    /// Keeps work going that notes events of a server of another kind.
    pub fn keep(&mut self, watching: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(watching);
    }

    /// Opens one stream with `watchers` of a prefix, and counts their events.
    pub async fn count(&mut self, server: &Address, prefix: &str, watchers: usize) -> Outcome {
        let (sender, mut responses) = open(server, prefix, &after(prefix), watchers).await?;
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let _open = sender;
            while let Ok(Some(response)) = responses.message().await {
                events.fetch_add(response.events.len() as u64, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    /// Events counted so far.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

/// The end of the range of all keys with a prefix, whose last character is ASCII.
fn after(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8(bytes).expect("the next ASCII character is one")
}

/// A stream with so many watchers, all of which the server has confirmed.
async fn open(
    server: &Address,
    key: &str,
    range_end: &str,
    watchers: usize,
) -> Outcome<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let failed = |cause: String| Failure::failed(format!("cannot watch on {server}: {cause}"));
    let endpoint =
        Endpoint::from_shared(server.url()).map_err(|error| failed(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let (sender, requests) = mpsc::channel(64);
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..Default::default()
        })),
    };
    let feeding = sender.clone();
    tokio::spawn(async move {
        for _ in 0..watchers {
            if feeding.send(create.clone()).await.is_err() {
                return;
            }
        }
    });
    let mut responses = WatchClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .watch(ReceiverStream::new(requests))
        .await
        .map_err(|status| failed(status.to_string()))?
        .into_inner();
    let mut created = 0;
    while created < watchers {
        match responses.message().await {
            Ok(Some(response)) if response.canceled => return Err(failed(response.cancel_reason)),
            Ok(Some(response)) => created += usize::from(response.created),
            Ok(None) => return Err(failed("the stream ended".into())),
            Err(status) => return Err(failed(status.to_string())),
        }
    }
    Ok((sender, responses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_character() {
        assert_eq!(after("/bench/"), "/bench0");
    }
}
