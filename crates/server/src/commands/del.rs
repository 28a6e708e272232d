//! `eaves del KEY [RANGE_END]`.

use crate::client::{Client, MAX_ANSWER_BYTES};
use crate::endpoints::EndpointArgs;
use crate::failure::Outcome;
use crate::key_range::RangeArgs;
use crate::print::{Output, header_json, insert_pairs};
use clap::Args;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use serde_json::{Map, Value};

/// Deletes a key or a range of keys and prints how many there were.
#[derive(Args, Debug)]
pub struct DelArgs {
    #[command(flatten)]
    pub range: RangeArgs,

    /// Print the deleted pairs, too
    #[arg(long)]
    pub prev_kv: bool,

    /// Print the answer as JSON, with etcdctl's fields
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `del`.
pub async fn run(args: DelArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    let range = args.range.range()?;
    let request = DeleteRangeRequest {
        key: range.key.into(),
        range_end: range.range_end.into(),
        prev_kv: args.prev_kv,
    };
    let call = async |channel| {
        KvClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .delete_range(request.clone())
            .await
    };
    let answer = client
        .write(&format!("delete {:?}", args.range.key), call)
        .await?
        .into_inner();

    let mut output = Output::new();
    if args.json {
        output.json(&json(&answer))?;
    } else {
        output.line(&answer.deleted.to_string())?;
        for pair in &answer.prev_kvs {
            output.key_value(pair, false)?;
        }
    }
    output.flush()
}

fn json(answer: &DeleteRangeResponse) -> Value {
    let mut object = Map::new();
    object.insert("header".into(), header_json(answer.header.as_ref()));
    if answer.deleted != 0 {
        object.insert("deleted".into(), answer.deleted.into());
    }
    insert_pairs(&mut object, "prev_kvs", &answer.prev_kvs);
    Value::Object(object)
}
