//! The compatibility table tells the truth: what it calls "not yet" answers `Unimplemented`, and nothing else does.

use crate::server::Server;
use eaves_kv::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::BTreeMap;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

const TABLE: &str = include_str!("../../../../docs/etcd-compatibility.md");

#[tokio::test]
async fn the_compatibility_table_is_true_for_every_method() {
    let rows = rows();
    let server = Server::start().await;
    for (service, method) in methods() {
        let short = service.rsplit('.').next().unwrap();
        let row = rows
            .get(&format!("{short}.{method}"))
            .or_else(|| rows.get(&format!("{short}.*")));
        let row = row.unwrap_or_else(|| panic!("the table has no row for {short}.{method}"));
        let refusal = call(&server, &format!("/{service}/{method}")).await.err();
        let missing = refusal.filter(|status| status.code() == Code::Unimplemented);
        assert_eq!(
            row == "not yet",
            missing.is_some(),
            "{short}.{method} is {row:?} in the table"
        );
        if let Some(status) = missing {
            assert!(
                status.message().starts_with("eaves: "),
                "{short}.{method} does not say what is missing"
            );
        }
    }
}

/// Call or `Service.*` -> "yes", "differs" or "not yet", of the first table.
fn rows() -> BTreeMap<String, String> {
    let table = TABLE
        .split("\n## ")
        .find(|section| section.starts_with("Calls"))
        .expect("a section on calls");
    let mut rows = BTreeMap::new();
    for line in table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .skip(1)
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        for name in cells[1].split(", ") {
            assert!(["yes", "differs", "not yet"].contains(&cells[2]), "{line}");
            rows.insert(name.to_owned(), cells[2].to_owned());
        }
    }
    rows
}

/// Every method of every service in the protocol files.
fn methods() -> Vec<(String, String)> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            methods.extend(
                service
                    .method
                    .iter()
                    .map(|method| (service_name.clone(), method.name().to_owned())),
            );
        }
    }
    assert!(methods.len() > 40, "the protocol files lost their services");
    methods
}

/// Calls a method with one empty message, which is a valid request of any kind, and waits for the answer to begin.
async fn call(server: &Server, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(server.channel());
    grpc.ready().await.unwrap();
    let request = Request::new(tokio_stream::iter([()]));
    grpc.streaming(request, path.parse().unwrap(), EmptyCodec)
        .await
        .map(|_| ())
}

/// Sends empty messages and takes any for one.
struct EmptyCodec;

impl Codec for EmptyCodec {
    type Encode = ();
    type Decode = ();
    type Encoder = EmptyCodec;
    type Decoder = EmptyCodec;

    fn encoder(&mut self) -> EmptyCodec {
        EmptyCodec
    }

    fn decoder(&mut self) -> EmptyCodec {
        EmptyCodec
    }
}

impl Encoder for EmptyCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, _: (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for EmptyCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}
