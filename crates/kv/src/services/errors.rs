//! What a client is told when the node could not do what a call needed.
//!
//! The words are etcd's (see [`KvError`]), because clients match them. "Not leader" is never among them: clients take that for final,
//! and here every node passes a write on to the leader by itself.

use crate::store::KvError;
use eaves::{ReadError, WriteError};
use tonic::{Code, Status};

/// For a write that gave no answer.
pub(crate) fn write_failed(error: WriteError) -> KvError {
    match error {
        WriteError::NoLeader(_) => KvError::NoLeader,
        // etcd says the same when it does not know what became of a proposal, and clients do not repeat the write by themselves.
        WriteError::Unknown(_) => KvError::TimedOut,
        WriteError::TooLarge(_) => KvError::RequestTooLarge,
        WriteError::Busy => KvError::TooManyRequests,
        WriteError::Stopped(_) => KvError::Stopped,
    }
}

/// For a linearizable read that could not be ordered; all of it may be tried again.
pub(crate) fn read_failed(error: ReadError) -> KvError {
    match error {
        ReadError::NoLeader(_) => KvError::NoLeader,
        ReadError::LeaderChanged => KvError::LeaderChanged,
        ReadError::Timeout(_) => KvError::TimedOut,
        ReadError::Stopped(_) => KvError::Stopped,
    }
}

/// Gives a message above the receive limit the status that Go's gRPC gives it; tonic's own is `OutOfRange`, which in this API means
/// something else (a revision that is compacted or not there yet). Any other status is returned as it is.
pub(crate) fn name_oversized(status: Status, limit_bytes: usize) -> Status {
    if status.code() == Code::OutOfRange && status.message().contains("message length too large") {
        return message_too_large(limit_bytes);
    }
    status
}

/// For a message above the receive limit, as Go's gRPC says it.
pub(crate) fn message_too_large(limit_bytes: usize) -> Status {
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({limit_bytes} bytes)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_node_have_the_words_that_clients_match() {
        let words = |error: KvError| Status::from(error).message().to_owned();
        assert_eq!(
            words(write_failed(WriteError::NoLeader("no quorum".into()))),
            "etcdserver: no leader"
        );
        assert_eq!(
            words(write_failed(WriteError::Unknown("link cut".into()))),
            "etcdserver: request timed out"
        );
        assert_eq!(
            words(write_failed(WriteError::Busy)),
            "etcdserver: too many requests"
        );
        assert_eq!(
            words(read_failed(ReadError::LeaderChanged)),
            "etcdserver: leader changed"
        );
        assert_eq!(
            words(read_failed(ReadError::Stopped("told to".into()))),
            "etcdserver: server stopped"
        );
    }

    #[test]
    fn only_oversized_messages_change_their_status() {
        let tonics = "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes";
        let named = name_oversized(Status::out_of_range(tonics), 2 << 20);
        assert_eq!(named.code(), Code::ResourceExhausted);
        let compacted = name_oversized(KvError::Compacted.into(), 2 << 20);
        assert_eq!(compacted.code(), Code::OutOfRange);
    }
}
