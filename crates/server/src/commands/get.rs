//! `eaves get KEY [RANGE_END]`.

use crate::client::{Client, MAX_ANSWER_BYTES};
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::key_range::RangeArgs;
use crate::print::{Output, header_json, insert_pairs};
use clap::{Args, ValueEnum};
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use eaves_kv::proto::etcdserverpb::{RangeRequest, RangeResponse};
use serde_json::{Map, Value};
use tonic::{Request, Response};

/// Reads a key or a range of keys.
#[derive(Args, Debug)]
pub struct GetArgs {
    #[command(flatten)]
    pub range: RangeArgs,

    /// At most so many pairs; 0 means all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: u32,

    /// The state as of this revision; 0 means now
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    pub rev: u64,

    /// Sort the pairs this way
    #[arg(long, value_name = "ORDER")]
    pub order: Option<Order>,

    /// Sort the pairs by this
    #[arg(long, value_name = "WHAT")]
    pub sort_by: Option<SortBy>,

    /// Print the keys, and an empty line for each value
    #[arg(long)]
    pub keys_only: bool,

    /// Print only how many pairs there are
    #[arg(long)]
    pub count_only: bool,

    /// Print only the values
    #[arg(long)]
    pub print_value_only: bool,

    /// Read the state of the node asked, which may lag behind the group
    #[arg(long)]
    pub serializable: bool,

    /// Take a state that lags behind the group, but by no more than so many milliseconds; without it the read sees every
    /// write acknowledged before
    #[arg(long, value_name = "MS")]
    pub max_staleness: Option<u64>,

    /// Wait until the node asked has this revision, the one a write was answered with for instance
    #[arg(long, value_name = "REVISION")]
    pub min_revision: Option<u64>,

    /// Print the answer as JSON, with etcdctl's fields; with --max-staleness also staleness_ms, how old the state was at most
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// `--order`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first
    #[value(alias = "ASCEND")]
    Ascend,
    /// Greatest first
    #[value(alias = "DESCEND")]
    Descend,
}

/// `--sort-by`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key
    #[value(alias = "KEY")]
    Key,
    /// How often the key was written since it was created
    #[value(alias = "VERSION")]
    Version,
    /// The revision that created the key
    #[value(alias = "CREATE")]
    Create,
    /// The revision that wrote the key last
    #[value(alias = "MODIFY")]
    Modify,
    /// The value
    #[value(alias = "VALUE")]
    Value,
}

/// Runs `get`.
pub async fn run(args: GetArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    let request = request(&args)?;
    let call = async |channel| {
        KvClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .range(demanding(&args, request.clone()))
            .await
    };
    let answer = client
        .read(&format!("get {:?}", args.range.key), call)
        .await?;
    print(&args, staleness_ms(&answer), answer.get_ref())
}

/// How old the state was at most, if the node says so: it does when the read limits it.
fn staleness_ms(answer: &Response<RangeResponse>) -> Option<u64> {
    let told = answer.metadata().get("eaves-staleness-ms")?;
    told.to_str().ok()?.parse().ok()
}

/// Puts what the read demands of the node's state into the call's metadata.
fn demanding(args: &GetArgs, message: RangeRequest) -> Request<RangeRequest> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if let Some(milliseconds) = args.max_staleness {
        metadata.insert("eaves-max-staleness-ms", milliseconds.into());
    }
    if let Some(revision) = args.min_revision {
        metadata.insert("eaves-min-revision", revision.into());
    }
    request
}

fn request(args: &GetArgs) -> Outcome<RangeRequest> {
    if args.keys_only && args.count_only {
        return Err(Failure::usage(
            "--keys-only and --count-only exclude each other; give one of them",
        ));
    }
    if args.print_value_only && (args.keys_only || args.count_only) {
        return Err(Failure::usage(
            "--print-value-only: nothing else leaves values out with it; drop --keys-only and --count-only",
        ));
    }
    if args.serializable && args.max_staleness.is_some() {
        return Err(Failure::usage(
            "--serializable and --max-staleness exclude each other: the one takes a state of any age; give one of them",
        ));
    }
    let range = args.range.range()?;
    let (order, target) = sort(args.order, args.sort_by);
    Ok(RangeRequest {
        key: range.key.into(),
        range_end: range.range_end.into(),
        limit: i64::from(args.limit),
        revision: i64::try_from(args.rev)
            .map_err(|_| Failure::usage("--rev: there is no such revision; give a smaller one"))?,
        sort_order: order.into(),
        sort_target: target.into(),
        serializable: args.serializable,
        keys_only: args.keys_only,
        count_only: args.count_only,
        ..Default::default()
    })
}

/// As etcdctl: sorting by something without an order ascends, and an order without a target sorts by key.
fn sort(order: Option<Order>, sort_by: Option<SortBy>) -> (SortOrder, SortTarget) {
    let target = match sort_by {
        None | Some(SortBy::Key) => SortTarget::Key,
        Some(SortBy::Version) => SortTarget::Version,
        Some(SortBy::Create) => SortTarget::Create,
        Some(SortBy::Modify) => SortTarget::Mod,
        Some(SortBy::Value) => SortTarget::Value,
    };
    let order = match (order, sort_by) {
        (Some(Order::Ascend), _) | (None, Some(_)) => SortOrder::Ascend,
        (Some(Order::Descend), _) => SortOrder::Descend,
        (None, None) => SortOrder::None,
    };
    (order, target)
}

fn print(args: &GetArgs, staleness_ms: Option<u64>, answer: &RangeResponse) -> Outcome {
    let mut output = Output::new();
    if args.json {
        output.json(&json(staleness_ms, answer))?;
    } else if args.count_only {
        output.line(&answer.count.to_string())?;
    } else {
        for pair in &answer.kvs {
            output.key_value(pair, args.print_value_only)?;
        }
    }
    output.flush()
}

fn json(staleness_ms: Option<u64>, answer: &RangeResponse) -> Value {
    let mut object = Map::new();
    object.insert("header".into(), header_json(answer.header.as_ref()));
    if let Some(staleness_ms) = staleness_ms {
        object.insert("staleness_ms".into(), staleness_ms.into());
    }
    insert_pairs(&mut object, "kvs", &answer.kvs);
    if answer.more {
        object.insert("more".into(), true.into());
    }
    if answer.count != 0 {
        object.insert("count".into(), answer.count.into());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_defaults_are_those_of_etcdctl() {
        assert_eq!(sort(None, None), (SortOrder::None, SortTarget::Key));
        assert_eq!(
            sort(Some(Order::Descend), None),
            (SortOrder::Descend, SortTarget::Key)
        );
        assert_eq!(
            sort(None, Some(SortBy::Modify)),
            (SortOrder::Ascend, SortTarget::Mod)
        );
        assert_eq!(
            sort(Some(Order::Descend), Some(SortBy::Value)),
            (SortOrder::Descend, SortTarget::Value)
        );
    }

    #[test]
    fn zeroes_are_left_out_of_the_json() {
        let answer = RangeResponse::default();
        let expected = r#"{"header":{"cluster_id":0,"member_id":0,"raft_term":0,"revision":0}}"#;
        assert_eq!(
            json(None, &answer),
            serde_json::from_str::<Value>(expected).unwrap()
        );
    }

    #[test]
    fn the_json_says_how_old_the_state_was_if_the_node_does() {
        let mut answer = Response::new(RangeResponse::default());
        assert_eq!(staleness_ms(&answer), None);
        answer
            .metadata_mut()
            .insert("eaves-staleness-ms", 17.into());
        let json = json(staleness_ms(&answer), answer.get_ref());
        assert_eq!(json["staleness_ms"], 17);
    }
}
