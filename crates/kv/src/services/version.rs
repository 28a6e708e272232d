//! The versions of etcd that this server claims to speak as.
//!
//! Clients switch features on by them. 3.5.21 is above every floor that is known to matter (Kubernetes asks for 3.5.13 before it reads
//! consistently from its watch cache, clientv3 for 3.4), and below 3.6, whose downgrade API, storage version and stream of ranges are
//! not served here.

/// The server version, as a semantic version that etcd clients compare.
pub const ETCD_SERVER_VERSION: &str = "3.5.21";

/// The lowest API version spoken in the whole cluster.
pub const ETCD_CLUSTER_VERSION: &str = "3.5.0";
