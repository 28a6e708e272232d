//! Unary calls and what came back, in a form in which two systems can be compared.
//!
//! Ids and terms belong to a system and are cleared; all the rest must be equal, to the last byte of an error's text.

use std::time::Duration;

use eaves_kv::proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnResponse,
};
use tonic::{Code, Response, Status};

use crate::processes::Node;
use crate::requests::Call;

/// How long a call may take before it counts as not answered. Far longer than any of them needs.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Error { code: Code, message: String },
}

impl Reply {
    /// The header's revision, if the reply has one.
    pub fn revision(&self) -> Option<i64> {
        self.header().map(|header| header.revision)
    }

    pub fn header(&self) -> Option<&ResponseHeader> {
        match self {
            Reply::Range(response) => response.header.as_ref(),
            Reply::Put(response) => response.header.as_ref(),
            Reply::DeleteRange(response) => response.header.as_ref(),
            Reply::Txn(response) => response.header.as_ref(),
            Reply::Compact(response) => response.header.as_ref(),
            Reply::Error { .. } => None,
        }
    }

    pub fn header_mut(&mut self) -> Option<&mut ResponseHeader> {
        match self {
            Reply::Range(response) => response.header.as_mut(),
            Reply::Put(response) => response.header.as_mut(),
            Reply::DeleteRange(response) => response.header.as_mut(),
            Reply::Txn(response) => response.header.as_mut(),
            Reply::Compact(response) => response.header.as_mut(),
            Reply::Error { .. } => None,
        }
    }

    /// The same reply without what may differ between two systems.
    pub fn normalised(mut self) -> Reply {
        if let Some(header) = self.header_mut() {
            clear_identity(header);
        }
        self
    }

    /// What the coverage report counts it as.
    pub fn kind(&self) -> String {
        match self {
            Reply::Range(_) => "range ok".to_owned(),
            Reply::Put(_) => "put ok".to_owned(),
            Reply::DeleteRange(_) => "delete range ok".to_owned(),
            Reply::Txn(txn) if txn.succeeded => "txn ok, succeeded".to_owned(),
            Reply::Txn(_) => "txn ok, failed".to_owned(),
            Reply::Compact(_) => "compact ok".to_owned(),
            Reply::Error { code, message } => format!("{code:?} {message:?}"),
        }
    }
}

/// Clears which system, which member and which term: they differ, and are not compared.
pub fn clear_identity(header: &mut ResponseHeader) {
    (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
}

/// Sends the call to the node and waits for its answer.
pub async fn send(node: &Node, call: &Call) -> Reply {
    let mut kv = node.kv.clone();
    let answer = async {
        match call.clone() {
            Call::Range(request) => reply(kv.range(request).await, Reply::Range),
            Call::Put(request) => reply(kv.put(request).await, Reply::Put),
            Call::DeleteRange(request) => reply(kv.delete_range(request).await, Reply::DeleteRange),
            Call::Txn(request) => reply(kv.txn(request).await, Reply::Txn),
            Call::Compact(request) => reply(kv.compact(request).await, Reply::Compact),
        }
    };
    match tokio::time::timeout(CALL_LIMIT, answer).await {
        Ok(reply) => reply.normalised(),
        Err(_) => Reply::Error {
            code: Code::Unknown,
            message: format!("no answer within {CALL_LIMIT:?}"),
        },
    }
}

fn reply<T>(answer: Result<Response<T>, Status>, ok: fn(T) -> Reply) -> Reply {
    match answer {
        Ok(response) => ok(response.into_inner()),
        Err(status) => Reply::Error {
            code: status.code(),
            message: status.message().to_owned(),
        },
    }
}

/// Waits until the node has applied all that was committed when this began, so that what it serves from its own state
/// is current: a linearizable read is a barrier.
pub async fn catch_up(node: &Node) -> Result<(), String> {
    let barrier = RangeRequest {
        key: "barrier".into(),
        count_only: true,
        ..Default::default()
    };
    match send(node, &Call::Range(barrier)).await {
        Reply::Range(_) => Ok(()),
        other => Err(format!(
            "{} did not answer a linearizable read: {other:?}",
            node.name
        )),
    }
}
