//! A node as a process: its state machine, its node, its client port, and its end.

use crate::address::Address;
use crate::admin;
use crate::failure::{Failure, Outcome};
use crate::node_flags::NodeSettings;
use crate::slow_disk::SlowDisk;
use eaves::{Config, Node, NodeEvent, StartAs};
use eaves_kv::store::Store;
use eaves_kv::{Clients, ServiceOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Read;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

/// A watch that asked for a leader lives so many election timeouts without one, as in etcd.
const LEADERLESS_ELECTIONS: u32 = 3;

/// Runs a node until it is told to stop or breaks. `adjust` sets what is particular to a voter.
pub fn run(
    settings: &NodeSettings,
    start_as: StartAs,
    adjust: impl FnOnce(&mut Config),
) -> Outcome {
    let mut config = Config::new(
        &settings.name,
        &settings.data_dir,
        settings.listen_peers.to_string(),
        start_as,
    );
    config.advertise_peer = Some(settings.advertise_peers.to_string());
    config.client_urls = settings
        .advertise_clients
        .iter()
        .map(Address::url)
        .collect();
    config.zone = settings.zone.clone();
    config.capacity = settings.capacity;
    config.log.segment_bytes = settings.log_segment_bytes;
    config.log_retention_bytes = settings.log_retention_bytes;
    config.snapshot_rate = settings.snapshot_rate;
    if let Some(rate) = settings.test_disk_bytes_per_second {
        config.disk = Arc::new(SlowDisk::new(rate.get()));
    }
    adjust(&mut config);
    raise_open_files();
    runtime(settings.runtime_threads)?.block_on(live(settings, config))
}

async fn live(settings: &NodeSettings, config: Config) -> Outcome {
    let mut stopping = stop_signal(settings.stop_with_stdin)?;
    let leaderless_timeout = config.raft.election_timeout * LEADERLESS_ELECTIONS;
    let listeners = listen(&settings.listen_clients).await?;
    let store = open_store(settings, &config)?;
    let started = tokio::select! {
        started = Node::start(config, store.clone()) => started,
        // A listener may wait long for somebody who answers.
        _ = stopping.wait_for(|stop| *stop) => return Ok(()),
    };
    let node = started
        .map_err(|error| Failure::failed(format!("cannot start {}: {error}", settings.name)))?;
    let mut events = node.events();
    let addresses: Vec<String> = settings.listen_clients.iter().map(Address::url).collect();
    tracing::info!(
        "{} serves clients on {}",
        settings.name,
        addresses.join(", ")
    );

    let mut ports = JoinSet::new();
    let clients = Clients::new(settings.client_limits);
    let (close, closing) = watch::channel(false);
    for listener in listeners {
        let options = ServiceOptions {
            extra_routes: tonic::service::Routes::new(admin::service(node.clone())),
            extra_descriptors: vec![admin::DESCRIPTORS],
            leaderless_timeout,
            clients: clients.clone(),
            ..ServiceOptions::default()
        };
        ports.spawn(eaves_kv::serve(
            listener,
            node.clone(),
            store.clone(),
            options,
            told(closing.clone()),
        ));
    }

    let broke = tokio::select! {
        _ = stopping.wait_for(|stop| *stop) => false,
        () = node.stopped() => true,
    };
    tracing::info!("{} is stopping", settings.name);
    close.send_replace(true);
    while ports.join_next().await.is_some() {}
    node.shutdown().await;
    match broke {
        false => Ok(()),
        true => Err(Failure::failed(format!(
            "{} broke: {}; its log says more",
            settings.name,
            cause(&mut events)
        ))),
    }
}

/// Why a node stopped by itself, as its events say.
fn cause(events: &mut broadcast::Receiver<NodeEvent>) -> String {
    loop {
        match events.try_recv() {
            Ok(NodeEvent::Failed(cause)) => return cause,
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => {
                return "it did not say why".to_string();
            }
        }
    }
}

/// Every connection is an open file, and systems allow a thousand unless asked for more; Go's runtime asks for etcd. A refusal shows when
/// connections are accepted.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

fn runtime(threads: usize) -> Outcome<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build().map_err(|error| {
        Failure::failed(format!(
            "cannot start the runtime: {error}; are too many files open?"
        ))
    })
}

async fn listen(addresses: &[Address]) -> Outcome<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address.to_string()).await.map_err(|error| {
            Failure::failed(format!(
                "cannot listen for clients on {address}: {error}; stop what uses it, or give other --listen-client-urls"
            ))
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn open_store(settings: &NodeSettings, config: &Config) -> Outcome<Arc<Store>> {
    let cannot = |cause: String| {
        Failure::failed(format!(
            "cannot open {}: {cause}",
            settings.data_dir.display()
        ))
    };
    std::fs::create_dir_all(&settings.data_dir)
        .map_err(|error| cannot(format!("{error}; give another --data-dir")))?;
    eaves::check_whole(&settings.data_dir)
        .map_err(|error| Failure::failed(format!("cannot start {}: {error}", settings.name)))?;
    let store = Store::open_on(config.disk.clone(), &settings.data_dir)
        .map_err(|error| cannot(error.to_string()))?;
    Ok(Arc::new(store))
}

/// Turns true on SIGINT, on SIGTERM, and, if so wanted, at the end of standard input.
fn stop_signal(with_stdin: bool) -> Outcome<watch::Receiver<bool>> {
    let (stop, stopping) = watch::channel(false);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).map_err(|error| {
            Failure::failed(format!(
                "cannot listen for signals: {error}; are too many files open?"
            ))
        })?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                stop.send_replace(true);
            }
        });
    }
    if with_stdin {
        // A thread of its own: the runtime must not wait for a read that may never end.
        std::thread::spawn(move || {
            let mut byte = [0];
            let mut stdin = std::io::stdin();
            while matches!(stdin.read(&mut byte), Ok(1)) {}
            stop.send_replace(true);
        });
    }
    Ok(stopping)
}

async fn told(mut signal: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = signal.wait_for(|told| *told).await;
}
