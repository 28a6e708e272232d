//! The admin service, `eaves.v1.Admin`: what the command line asks a node beyond the etcd v3 API.

/// Messages, client and server, generated from `proto/admin.proto`.
pub mod proto {
    #![allow(missing_docs)]
    tonic::include_proto!("eaves.v1");
}
