//! The messages and services of the etcd v3 API, generated from `proto/`.
//!
//! All `bytes` fields are [`bytes::Bytes`], so decoding copies no key and no value: they are slices of the received buffer.

#![allow(missing_docs, clippy::all)]

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The services KV, Watch, Lease, Cluster, Maintenance and Auth.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// The service Lock.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The service Election.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The encoded `FileDescriptorSet` of all of the above, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
