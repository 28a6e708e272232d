//! An etcd-compatible key-value state machine and its services.

pub mod proto;
pub mod store;
