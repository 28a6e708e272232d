//! The requests of a [`history`](crate::history) as calls of etcd's API, and what became of them: used by all who record one.

use crate::history::{Answer, Compare, Found, Freshness, Outcome, Request, Step, WatchEvent};
use eaves_kv::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::{
    Compare as EtcdCompare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, request_op, response_op,
};
use eaves_kv::proto::mvccpb::{Event, KeyValue, event::EventType};
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Code, Status};

/// etcd's words for what certainly was not proposed: nobody was there to give it to.
const NOT_PROPOSED: [&str; 2] = ["etcdserver: no leader", "etcdserver: too many requests"];

/// Metadata by which a read limits the age of what it sees, in milliseconds.
const MAX_STALENESS: &str = "eaves-max-staleness-ms";

/// Metadata by which a read demands a revision.
const MIN_REVISION: &str = "eaves-min-revision";

/// Does `request` at whatever node the client is connected to. Returns what became of it, and what was wrong with the answer if it makes
/// no sense.
pub async fn call<T>(client: &mut KvClient<T>, request: &Request) -> Result<Outcome, String>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let answered = match request {
        Request::One(Step::Put { key, value }) => {
            let put = client.put(put(key, value)).await;
            put.map(|response| one(response.into_inner().header, None))
        }
        Request::One(Step::Delete { key }) => {
            let deleted = client.delete_range(delete(key)).await;
            deleted.map(|response| {
                let response = response.into_inner();
                one(response.header, response.prev_kvs.first())
            })
        }
        Request::One(Step::Get { key }) => {
            let read = client.range(range(key)).await;
            read.map(|response| read_one(&response.into_inner()))
        }
        Request::Read {
            key,
            freshness,
            min_revision,
        } => {
            let read = client
                .range(demanding(range(key), *freshness, *min_revision))
                .await;
            read.map(|response| read_one(&response.into_inner()))
        }
        Request::Txn {
            compares,
            then,
            or_else,
        } => match client.txn(txn(compares, then, or_else)).await {
            Ok(response) => {
                let response = response.into_inner();
                let found = response.responses.iter().map(found_by);
                Ok(Answer {
                    revision: revision(response.header.as_ref()),
                    succeeded: response.succeeded,
                    found: found.collect::<Result<_, _>>()?,
                })
            }
            Err(status) => Err(status),
        },
    };
    Ok(match answered {
        Ok(answer) => Outcome::Ok(answer),
        Err(status) if is_not_done(request, &status) => Outcome::Failed(in_words(&status)),
        Err(status) => Outcome::Unknown(in_words(&status)),
    })
}

/// A change as a watch tells of it.
pub fn watch_event(event: &Event) -> Result<WatchEvent, String> {
    let kv = event.kv.as_ref().ok_or("an event names no key")?;
    let value = match event.r#type() {
        EventType::Put => Some(text(&kv.value)),
        EventType::Delete => None,
    };
    Ok(WatchEvent {
        revision: kv.mod_revision,
        key: text(&kv.key),
        value,
    })
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..PutRequest::default()
    }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        prev_kv: true,
        ..DeleteRangeRequest::default()
    }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        ..RangeRequest::default()
    }
}

fn demanding(
    mut range: RangeRequest,
    freshness: Freshness,
    min_revision: i64,
) -> tonic::Request<RangeRequest> {
    range.serializable = freshness == Freshness::Serializable;
    let mut request = tonic::Request::new(range);
    if let Freshness::WithinNs(age_ns) = freshness {
        let age_ms = age_ns / 1_000_000;
        request.metadata_mut().insert(MAX_STALENESS, age_ms.into());
    }
    if min_revision > 0 {
        request
            .metadata_mut()
            .insert(MIN_REVISION, min_revision.into());
    }
    request
}

fn txn(compares: &[Compare], then: &[Step], or_else: &[Step]) -> TxnRequest {
    TxnRequest {
        compare: compares.iter().map(compare).collect(),
        success: then.iter().map(operation).collect(),
        failure: or_else.iter().map(operation).collect(),
    }
}

fn compare(compare: &Compare) -> EtcdCompare {
    let (target, union) = match &compare.expected {
        Some(value) => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
        // A key that is not there has version 0.
        None => (CompareTarget::Version, TargetUnion::Version(0)),
    };
    EtcdCompare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: bytes(&compare.key),
        target_union: Some(union),
        ..EtcdCompare::default()
    }
}

fn operation(step: &Step) -> RequestOp {
    let request = match step {
        Step::Put { key, value } => request_op::Request::RequestPut(put(key, value)),
        Step::Delete { key } => request_op::Request::RequestDeleteRange(delete(key)),
        Step::Get { key } => request_op::Request::RequestRange(range(key)),
    };
    RequestOp {
        request: Some(request),
    }
}

fn one(header: Option<ResponseHeader>, found: Option<&KeyValue>) -> Answer {
    Answer {
        revision: revision(header.as_ref()),
        succeeded: true,
        found: vec![found.map(found_in)],
    }
}

fn read_one(response: &RangeResponse) -> Answer {
    one(response.header, response.kvs.first())
}

fn found_by(response: &ResponseOp) -> Result<Option<Found>, String> {
    match &response.response {
        Some(response_op::Response::ResponseRange(range)) => Ok(range.kvs.first().map(found_in)),
        Some(response_op::Response::ResponseDeleteRange(deleted)) => {
            Ok(deleted.prev_kvs.first().map(found_in))
        }
        Some(response_op::Response::ResponsePut(_)) => Ok(None),
        Some(response_op::Response::ResponseTxn(_)) | None => {
            Err("a transaction answers what it was not asked".into())
        }
    }
}

fn found_in(kv: &KeyValue) -> Found {
    Found {
        value: text(&kv.value),
        mod_revision: kv.mod_revision,
    }
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// Whether it is certain that nothing was and will be written. A read writes nothing.
fn is_not_done(request: &Request, status: &Status) -> bool {
    let only_reads = matches!(
        request,
        Request::Read { .. } | Request::One(Step::Get { .. })
    );
    only_reads || status.code() == Code::InvalidArgument || NOT_PROPOSED.contains(&status.message())
}

fn in_words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
