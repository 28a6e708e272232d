//! Compiles `proto/` to Rust with nothing but a Rust toolchain: protox parses, tonic-prost-build generates.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: &[&str] = &[
    "mvccpb/kv.proto",
    "authpb/auth.proto",
    "etcdserverpb/rpc.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    // Server reflection answers with these.
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;

    // `bytes` fields are `Bytes`: a decoded key or value is a slice of the buffer it came in.
    tonic_prost_build::configure()
        .codec_path("crate::codec::ProtobufCodec")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
