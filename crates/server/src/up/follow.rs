//! Follows the events of all nodes and tells them as lines.

use super::layout::PlannedNode;
use super::news::{Names, describe};
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{Event, EventsRequest, StatusResponse};
use crate::client::Client;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How long to wait before a node that went away is asked again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines and events that may wait for their reader.
const QUEUE: usize = 256;

/// Follows all nodes until the receiver is dropped.
pub fn start(nodes: &[PlannedNode]) -> mpsc::Receiver<String> {
    let (events, received) = mpsc::channel(QUEUE);
    for node in nodes {
        let client = Client::of(vec![node.client.clone()], ANSWER_TIMEOUT);
        tokio::spawn(follow(client, events.clone()));
    }
    let (lines, told) = mpsc::channel(QUEUE);
    tokio::spawn(tell(received, lines));
    told
}

/// Passes on the events of one node, opening the stream again when it breaks.
async fn follow(client: Client, events: mpsc::Sender<Event>) {
    while !events.is_closed() {
        if let Ok((_, channel)) = client.connect().await
            && let Ok(stream) = AdminClient::new(channel).events(EventsRequest {}).await
        {
            let mut stream = stream.into_inner();
            while let Ok(Some(event)) = stream.message().await {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
        sleep(REOPEN_PAUSE).await;
    }
}

async fn tell(mut events: mpsc::Receiver<Event>, lines: mpsc::Sender<String>) {
    let mut names = Names::default();
    let mut last: BTreeMap<u64, StatusResponse> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        let Some(status) = event.status.clone() else {
            continue;
        };
        names.learn(&status);
        // The first status of a node is no news.
        let before = last.insert(status.node_id, status);
        for line in before
            .map(|before| describe(&before, &event, &names))
            .unwrap_or_default()
        {
            if lines.send(line).await.is_err() {
                return;
            }
        }
    }
}
