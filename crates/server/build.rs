//! Compiles the admin protocol without a protoc on the machine.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/admin.proto"], ["proto"])?;

    // Server reflection answers with these.
    let path = PathBuf::from(env::var("OUT_DIR")?).join("admin_descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;

    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
