//! The etcd v3 services over one node and its store.
//!
//! Each service translates: a request is checked, turned into a command or a read, and the answer into a response whose header names
//! this node. Nothing here keeps state but a watch stream, and that only about its own client.

mod auth;
mod cluster;
pub(crate) mod errors;
pub(crate) mod freshness;
pub(crate) mod kv;
pub(crate) mod leader;
mod maintenance;
pub(crate) mod partial;
mod reflection;
pub(crate) mod replica;
pub mod validate;
pub mod version;
mod watch;
mod watch_session;

use crate::clients::Clients;
use crate::proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, maintenance_server::MaintenanceServer,
    watch_server::WatchServer,
};
use replica::Replica;
use std::time::Duration;
use tokio::sync::watch as watch_channel;
use tonic::service::Routes;
use validate::MAX_MESSAGE_BYTES;

/// Settings of the client port.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// How often a watcher created with `progress_notify` hears that nothing happened (etcd's
    /// `--experimental-watch-progress-notify-interval`), lengthened by up to a tenth so that streams do not beat together. At least
    /// [`MIN_PROGRESS_INTERVAL`]; Kubernetes wants about 5 s.
    pub progress_interval: Duration,
    /// How long a watch that asked for a leader (`hasleader` metadata) lives without one: three election timeouts in etcd.
    pub leaderless_timeout: Duration,
    /// What clients may take. All ports of one node are given the same.
    pub clients: Clients,
    /// gRPC services of the caller's own, served on the same port.
    pub extra_routes: Routes,
    /// Their encoded `FileDescriptorSet`s, for server reflection.
    pub extra_descriptors: Vec<&'static [u8]>,
}

/// The shortest progress interval; a shorter one is lengthened to it.
pub const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            leaderless_timeout: Duration::from_secs(3),
            clients: Clients::default(),
            extra_routes: Routes::default(),
            extra_descriptors: Vec::new(),
        }
    }
}

/// Every service but KV, which is called without tonic. `stopped` turns true when open streams should end.
pub(crate) fn routes(
    replica: &Replica,
    options: ServiceOptions,
    stopped: watch_channel::Receiver<bool>,
) -> Routes {
    let watch = watch::WatchService::new(replica.clone(), &options, stopped);
    let watch = WatchServer::new(watch)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(usize::MAX);
    // A health reporter answers for the service "" with SERVING from the start, as etcd does.
    let (_, health) = tonic_health::server::health_reporter();
    let routes = options
        .extra_routes
        .add_service(watch)
        .add_service(ClusterServer::new(cluster::ClusterService(replica.clone())))
        .add_service(MaintenanceServer::new(maintenance::MaintenanceService(
            replica.clone(),
        )))
        .add_service(AuthServer::new(auth::AuthService(replica.clone())))
        .add_service(health);
    reflection::add(routes, &options.extra_descriptors).prepare()
}
