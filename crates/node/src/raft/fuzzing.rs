//! Raft's messages as a fuzzer sends them: each becomes what openraft takes, and back, and stays what it is. Built for tests and fuzzers only.

use super::convert;
use crate::message::{AppendHead, AppendedHead, Call, Reply, Request, Response};
use crate::wire::MAX_PACKET_BYTES;
use bytes::Bytes;

/// What concerns Raft in a question.
pub(crate) fn request(request: &Request, tail: Bytes) {
    match &request.call {
        Some(Call::Vote(call) | Call::PreVote(call)) => {
            let once = convert::vote_call(&convert::vote_request(*call));
            assert_eq!(convert::vote_call(&convert::vote_request(once)), once);
        }
        Some(Call::TransferLeader(call)) => {
            let once = convert::transfer_call(&convert::transfer_request(*call));
            assert_eq!(
                convert::transfer_call(&convert::transfer_request(once)),
                once
            );
        }
        Some(Call::Append(head)) => append(*head, tail),
        _ => {}
    }
}

/// What concerns Raft in an answer.
pub(crate) fn response(response: &Response) {
    match &response.reply {
        Some(Reply::Vote(reply)) => {
            let once = convert::vote_reply(&convert::vote_response(*reply));
            assert_eq!(convert::vote_reply(&convert::vote_response(once)), once);
        }
        Some(Reply::Appended(head)) => appended(*head),
        _ => {}
    }
}

/// AppendEntries: the entries follow one another, and travel on as the bytes they came in.
pub(crate) fn append(head: AppendHead, tail: Bytes) {
    let Ok(request) = convert::append_request(head, tail.clone()) else {
        return;
    };
    let (once, pieces) = convert::append_packet(&request);
    assert_eq!(pieces.concat(), tail);
    let again = convert::append_request(once, tail.clone()).expect("what was sent on is read");
    assert_eq!(convert::append_packet(&again).0, once);
    assert!(tail.len() <= MAX_PACKET_BYTES);
}

/// The answer to it.
pub(crate) fn appended(head: AppendedHead) {
    let _ = convert::unary_response(head);
    if let Ok(result) = convert::stream_result(head) {
        let once = convert::stream_outcome(&result);
        let again = convert::stream_result(once).expect("what was sent on is read");
        assert_eq!(convert::stream_outcome(&again), once);
    }
}
