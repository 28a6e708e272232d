//! Compiles the admin protocol without a protoc on the machine.

fn main() {
    let files =
        protox::compile(["proto/admin.proto"], ["proto"]).expect("proto/admin.proto compiles");
    tonic_prost_build::configure()
        .compile_fds(files)
        .expect("Rust code is generated from proto/admin.proto");
    println!("cargo:rerun-if-changed=proto/admin.proto");
}
