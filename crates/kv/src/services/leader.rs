//! The `hasleader` metadata: its client would rather be refused, or cut off, than served by a node that has lost the cluster.

use crate::store::KvError;
use eaves::Status;
use std::time::Duration;
use tokio::sync::watch;
use tonic::codegen::http::HeaderMap;

/// Whether a call's headers ask for a leader.
pub(crate) fn needs_leader(headers: &HeaderMap) -> bool {
    headers
        .get("hasleader")
        .is_some_and(|value| value == "true")
}

/// Resolves once the node has known of no leader for `timeout` without a break, with what a watch is then told.
pub(crate) async fn leaderless(mut status: watch::Receiver<Status>, timeout: Duration) -> KvError {
    loop {
        if status
            .wait_for(|status| status.leader.is_none())
            .await
            .is_err()
        {
            break;
        }
        let found = status.wait_for(|status| status.leader.is_some());
        match tokio::time::timeout(timeout, found).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => break,
            Err(_) => return KvError::NoLeader,
        }
    }
    // The node is gone, and with it whoever published its status.
    KvError::Stopped
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves::Role;

    fn status(leader: Option<u64>) -> Status {
        Status {
            cluster_id: 1,
            node_id: 2,
            name: "a".into(),
            role: Role::Follower,
            term: 1,
            leader,
            upstream: None,
            depth: Some(0),
        }
    }

    #[test]
    fn only_the_word_true_asks_for_a_leader() {
        let mut headers = HeaderMap::new();
        assert!(!needs_leader(&headers));
        headers.insert("hasleader", "false".parse().unwrap());
        assert!(!needs_leader(&headers));
        headers.insert("hasleader", "true".parse().unwrap());
        assert!(needs_leader(&headers));
    }

    #[tokio::test]
    async fn a_watch_without_a_leader_is_cut_off_after_the_timeout() {
        let (_sender, receiver) = watch::channel(status(None));
        assert_eq!(
            leaderless(receiver, Duration::from_millis(1)).await,
            KvError::NoLeader
        );
    }

    #[tokio::test]
    async fn a_leader_found_in_time_saves_the_watch() {
        let (sender, receiver) = watch::channel(status(None));
        let cut_off = tokio::spawn(leaderless(receiver, Duration::from_secs(3600)));
        tokio::task::yield_now().await;
        sender.send_replace(status(Some(2)));
        tokio::task::yield_now().await;
        assert!(!cut_off.is_finished());
        drop(sender);
        assert_eq!(cut_off.await.unwrap(), KvError::Stopped);
    }
}
