//! `eaves put KEY VALUE`.

use crate::client::Client;
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::print::{Output, header_json, key_value_json};
use clap::Args;
use eaves_kv::proto::etcdserverpb::PutRequest;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use serde_json::json;
use std::io::{self, Read};

/// Stores a value under a key.
#[derive(Args, Debug)]
pub struct PutArgs {
    /// The key
    pub key: String,

    /// The value; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    pub value: String,

    /// Print the pair as it was before, too
    #[arg(long)]
    pub prev_kv: bool,

    /// Print the answer as JSON, with etcdctl's fields
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `put`.
pub async fn run(args: PutArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    if args.key.is_empty() {
        return Err(Failure::usage("KEY is empty, and no key may be; give one"));
    }
    let request = PutRequest {
        key: args.key.clone().into(),
        value: value_bytes(&args.value, io::stdin())?.into(),
        prev_kv: args.prev_kv,
        ..Default::default()
    };
    let call = async |channel| KvClient::new(channel).put(request.clone()).await;
    let answer = client
        .write(&format!("put {:?}", args.key), call)
        .await?
        .into_inner();

    let mut output = Output::new();
    if args.json {
        let mut object = json!({ "header": header_json(answer.header.as_ref()) });
        if let Some(pair) = &answer.prev_kv {
            object["prev_kv"] = key_value_json(pair);
        }
        output.json(&object)?;
    } else {
        output.line("OK")?;
        if let Some(pair) = &answer.prev_kv {
            output.key_value(pair, false)?;
        }
    }
    output.flush()
}

fn value_bytes(value: &str, mut input: impl Read) -> Outcome<Vec<u8>> {
    if value != "-" {
        return Ok(value.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| {
        Failure::failed(format!(
            "cannot read the value from standard input: {error}; give it as VALUE"
        ))
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_reads_the_input_to_its_end() {
        assert_eq!(value_bytes("-", b"a\0b\n".as_slice()).unwrap(), b"a\0b\n");
        assert_eq!(value_bytes("-x", b"unused".as_slice()).unwrap(), b"-x");
    }
}
