//! One process: a node, its store and its client port on a runtime of its own, as in production.
//!
//! A process is driven in turns: [`Process::run_until`] lets it run up to a time, and it stands still in between. So it can be stopped as
//! SIGSTOP stops one, by giving it no turn, and killed as SIGKILL does, by dropping the runtime with all that runs on it.

use super::clock::Clock;
use super::invariants::applied::{Ledger, Witness};
use super::network::{ClientPort, Handle};
use super::trace;
use crate::engine::Micros;
use eaves::{Config, Node, NodeEvent};
use eaves_kv::ServiceOptions;
use eaves_kv::store::Store;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, watch};

/// A process of a machine.
pub struct Process {
    name: &'static str,
    runtime: Runtime,
    clock: Clock,
    ran_until: Micros,
    phase: Arc<Mutex<Phase>>,
    stop: watch::Sender<bool>,
}

/// How far a process is.
#[derive(Clone)]
pub enum Phase {
    /// The node is starting.
    Starting,
    /// It runs.
    Up(Up),
    /// It has ended by itself, or because it was told to.
    Ended(Ending),
}

/// A running node.
#[derive(Clone)]
pub struct Up {
    /// The node.
    pub node: Node,
    /// Its state.
    pub store: Arc<Store>,
}

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It did not start: why.
    Refused(String),
    /// It broke: why.
    Broke(String),
    /// It was told to.
    Told,
}

/// A runtime that stands at `now`, and its clock.
pub fn runtime_at(now: Micros) -> (Runtime, Clock) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_start(|| {
            panic!("a thread was started: not all work goes through Config.blocking")
        })
        .build()
        .expect("a runtime without I/O needs nothing that could be missing");
    let clock = runtime.block_on(async { Clock::started_at(now) });
    (runtime, clock)
}

impl Process {
    /// Starts a node at `now`; `configure` gives its configuration, on the network that it is given.
    pub fn start(
        name: &'static str,
        now: Micros,
        handle: impl FnOnce(Clock) -> Handle,
        configure: impl FnOnce(&Handle) -> Config,
        ledger: Arc<Mutex<Ledger>>,
        run: u32,
    ) -> Process {
        let (runtime, clock) = runtime_at(now);
        let handle = handle(clock);
        let config = configure(&handle);
        let phase = Arc::new(Mutex::new(Phase::Starting));
        let (stop, told) = watch::channel(false);
        let by = format!("{name} run {run}");
        runtime.spawn(live(name, config, handle, ledger, by, phase.clone(), told));
        Process {
            name,
            runtime,
            clock,
            ran_until: now,
            phase,
            stop,
        }
    }

    /// Lets it run until `to`. Time that has passed without it passes at once, as for a process that was stopped.
    pub fn run_until(&mut self, to: Micros, window: Micros) {
        trace::turn(self.name, Some(self.clock), to);
        let missed = (to - self.ran_until).saturating_sub(window);
        let clock = self.clock;
        self.runtime.block_on(async move {
            if missed > 0 {
                tokio::time::advance(Duration::from_micros(missed)).await;
            }
            tokio::time::sleep_until(clock.instant(to)).await;
        });
        self.ran_until = to;
        trace::turn("", None, to);
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase.lock().unwrap().clone()
    }

    /// The node, if it runs.
    pub fn up(&self) -> Option<Up> {
        match &*self.phase.lock().unwrap() {
            Phase::Up(up) => Some(up.clone()),
            _ => None,
        }
    }

    /// Tells it to stop in order.
    pub fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Runs something on it, beside the node.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }
}

/// From start to end. What is said at the end stays in `phase`.
async fn live(
    name: &'static str,
    config: Config,
    handle: Handle,
    ledger: Arc<Mutex<Ledger>>,
    by: String,
    phase: Arc<Mutex<Phase>>,
    mut told: watch::Receiver<bool>,
) {
    let ending = match start(config, ledger, by).await {
        Err(why) => Ending::Refused(why),
        Ok(up) => {
            *phase.lock().unwrap() = Phase::Up(up.clone());
            trace::note("serves");
            serve(name, up, handle, &mut told).await
        }
    };
    trace::note(format_args!("ends: {ending:?}"));
    *phase.lock().unwrap() = Phase::Ended(ending);
}

async fn start(config: Config, ledger: Arc<Mutex<Ledger>>, by: String) -> Result<Up, String> {
    let dir = config.data_dir.clone();
    let disk = config.disk.clone();
    disk.create_dir_all(&dir)
        .map_err(|error| format!("make {}: {error}", dir.display()))?;
    let store = Store::open_on(disk, &dir).map_err(|error| error.to_string())?;
    let store = Arc::new(store);
    let witness = Witness::new(store.clone(), by, ledger);
    let node = Node::start(config, Arc::new(witness)).await;
    let node = node.map_err(|error| error.to_string())?;
    Ok(Up { node, store })
}

async fn serve(name: &str, up: Up, handle: Handle, told: &mut watch::Receiver<bool>) -> Ending {
    let mut events = up.node.events();
    let port = match handle.bind(&client_address(name)) {
        Ok(port) => ClientPort(port),
        Err(error) => return Ending::Refused(format!("listen for clients: {error}")),
    };
    let mut broke = true;
    let over = async {
        tokio::select! {
            biased;
            () = up.node.stopped() => {}
            _ = told.wait_for(|stop| *stop) => broke = false,
        }
    };
    let options = ServiceOptions {
        progress_interval: Duration::from_secs(1),
        ..ServiceOptions::default()
    };
    eaves_kv::serve(port, up.node.clone(), up.store.clone(), options, over).await;
    up.node.shutdown().await;
    match broke {
        true => Ending::Broke(cause(&mut events)),
        false => Ending::Told,
    }
}

/// Why a node stopped by itself, as its events say.
fn cause(events: &mut broadcast::Receiver<NodeEvent>) -> String {
    loop {
        match events.try_recv() {
            Ok(NodeEvent::Failed(cause)) => return cause,
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return "it did not say why".to_string(),
        }
    }
}

/// Where a machine's node serves clients.
pub fn client_address(name: &str) -> String {
    format!("{name}:2379")
}

/// Where a machine's node serves peers.
pub fn peer_address(name: &str) -> String {
    format!("{name}:2380")
}
