//! Raft's messages as peers send them, and back. Bytes from peers are rejected here, never asserted.

use super::types::{Entry, Types, VoteBytes, log_id_bytes, raft_log_id};
use crate::message::{
    AppendHead, Appended, AppendedHead, MaybeLogId, TransferCall, VoteCall, VoteReply,
};
use crate::wire::garbage;
use bytes::Bytes;
use eaves_log::Frame;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use std::io;

pub(super) fn vote_call(request: &VoteRequest<Types>) -> VoteCall {
    VoteCall {
        vote: (&request.vote).into(),
        last_log_id: log_id_bytes(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request(call: VoteCall) -> VoteRequest<Types> {
    let mut request = VoteRequest::new(call.vote.into(), raft_log_id(call.last_log_id));
    request.leadership_transfer = call.leadership_transfer;
    request
}

pub(super) fn vote_reply(response: &VoteResponse<Types>) -> VoteReply {
    VoteReply {
        vote: (&response.vote).into(),
        granted: response.vote_granted,
        last_log_id: log_id_bytes(response.last_log_id.as_ref()),
    }
}

pub(super) fn vote_response(reply: VoteReply) -> VoteResponse<Types> {
    let vote: super::types::RaftVote = reply.vote.into();
    VoteResponse::new(vote, raft_log_id(reply.last_log_id), reply.granted)
}

pub(super) fn transfer_call(request: &TransferLeaderRequest<Types>) -> TransferCall {
    TransferCall {
        from_leader: request.from_leader().into(),
        to: *request.to_node_id(),
        last_log_id: log_id_bytes(request.last_log_id()),
    }
}

pub(super) fn transfer_request(call: TransferCall) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(
        call.from_leader.into(),
        call.to,
        raft_log_id(call.last_log_id),
    )
}

/// An AppendEntries as head and tail; the tail is the log's own bytes.
pub(super) fn append_packet(request: &AppendEntriesRequest<Types>) -> (AppendHead, Vec<Bytes>) {
    let head = AppendHead {
        vote: VoteBytes::from(&request.vote),
        prev_log_id: log_id_bytes(request.prev_log_id.as_ref()),
        leader_commit: log_id_bytes(request.leader_commit.as_ref()),
    };
    (
        head,
        request
            .entries
            .iter()
            .map(|entry| entry.frame().as_bytes().clone())
            .collect(),
    )
}

/// Reads an AppendEntries; every frame's checksum is verified on the way.
pub(super) fn append_request(
    head: AppendHead,
    mut tail: Bytes,
) -> io::Result<AppendEntriesRequest<Types>> {
    let mut entries = Vec::new();
    let mut next = head
        .prev_log_id
        .map_or(Some(0), |id| id.index.checked_add(1));
    while let Some(frame) =
        Frame::split_from_bytes(&mut tail).map_err(|error| garbage(error.to_string()))?
    {
        let index = frame.id().index;
        if next != Some(index) {
            return Err(garbage(format!("entry {index} where {next:?} follows")));
        }
        next = index.checked_add(1);
        entries.push(Entry::from_frame(frame).map_err(|error| garbage(error.to_string()))?);
    }
    if !tail.is_empty() {
        return Err(garbage("half an entry at the end of a packet".into()));
    }
    Ok(AppendEntriesRequest {
        vote: head.vote.into(),
        prev_log_id: raft_log_id(head.prev_log_id),
        entries,
        leader_commit: raft_log_id(head.leader_commit),
    })
}

pub(super) fn stream_outcome(result: &StreamAppendResult<Types>) -> AppendedHead {
    let outcome = match result {
        Ok(id) => Appended::Matching(MaybeLogId {
            id: log_id_bytes(id.as_ref()),
        }),
        Err(StreamAppendError::Conflict(id)) => {
            Appended::Conflict(super::types::from_raft_log_id(id).into())
        }
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote.into()),
    };
    AppendedHead {
        outcome: Some(outcome),
    }
}

pub(super) fn stream_result(head: AppendedHead) -> io::Result<StreamAppendResult<Types>> {
    match head.outcome {
        Some(Appended::Matching(matching)) => Ok(Ok(raft_log_id(matching.id))),
        Some(Appended::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(
            super::types::to_raft_log_id(id.into()),
        ))),
        Some(Appended::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
        None => Err(garbage(
            "an answer to AppendEntries without an outcome".into(),
        )),
    }
}

pub(super) fn unary_outcome(
    request_prev: Option<crate::position::LogIdBytes>,
    response: AppendEntriesResponse<Types>,
) -> AppendedHead {
    let outcome = match response {
        AppendEntriesResponse::Success => Appended::Matching(MaybeLogId { id: None }),
        AppendEntriesResponse::PartialSuccess(id) => Appended::Matching(MaybeLogId {
            id: log_id_bytes(id.as_ref()),
        }),
        AppendEntriesResponse::Conflict => Appended::Conflict(request_prev.unwrap_or_default()),
        AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote((&vote).into()),
    };
    AppendedHead {
        outcome: Some(outcome),
    }
}

pub(super) fn unary_response(head: AppendedHead) -> io::Result<AppendEntriesResponse<Types>> {
    match head.outcome {
        Some(Appended::Matching(MaybeLogId { id: None })) => Ok(AppendEntriesResponse::Success),
        Some(Appended::Matching(MaybeLogId { id })) => {
            Ok(AppendEntriesResponse::PartialSuccess(raft_log_id(id)))
        }
        Some(Appended::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
        Some(Appended::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
        None => Err(garbage(
            "an answer to AppendEntries without an outcome".into(),
        )),
    }
}
