//! A machine: a simulated disk, and the node that runs on it, or not. It can be made to go down before one operation of its disk.

use crate::{Cut, within};
use eaves::{Config, Node};
use eaves_kv::store::Store;
use eaves_log::Disk;
use eaves_log::sim::{ObservedDisk, SimDisk};
use std::io;
use std::sync::{Arc, Mutex};

/// A node that runs.
#[derive(Clone)]
pub struct Running {
    pub node: Node,
    pub store: Store,
}

pub struct Machine {
    config: Config,
    disk: SimDisk,
    going_down: Arc<Mutex<GoingDown>>,
    running: Option<Running>,
}

/// When the machine goes down.
#[derive(Default)]
struct GoingDown {
    /// So many operations are done yet; `None` for no end.
    left: Option<u64>,
    /// The operation that was not done.
    cut: Option<String>,
}

impl Machine {
    /// A machine that is switched off, for a node of this configuration.
    pub fn new(config: Config) -> Machine {
        Machine {
            config,
            disk: SimDisk::new(),
            going_down: Arc::default(),
            running: None,
        }
    }

    /// Goes down before the operation that comes after `operations` more.
    pub fn go_down_after(&self, operations: u64) {
        self.going_down.lock().unwrap().left = Some(operations);
    }

    /// Its disk.
    pub fn disk(&self) -> SimDisk {
        self.disk.clone()
    }

    /// Puts another disk in, while the node does not run.
    pub fn put_in(&mut self, disk: SimDisk) {
        self.disk = disk;
    }

    /// The operation before which it went down.
    pub fn cut(&self) -> Option<String> {
        self.going_down.lock().unwrap().cut.clone()
    }

    /// The node, which must run.
    pub fn node(&self) -> &Node {
        &self.running.as_ref().expect("it runs").node
    }

    /// The state, whose node must run.
    pub fn store(&self) -> &Store {
        &self.running.as_ref().expect("it runs").store
    }

    /// The index that the log on disk begins with.
    pub fn log_begins_at(&self) -> u64 {
        let names = self.disk.list(&self.config.data_dir.join("log")).unwrap();
        let first = |name: &String| name.strip_suffix(".seg")?.split_once('-')?.0.parse().ok();
        names.iter().filter_map(first).min().unwrap_or(0)
    }

    /// Starts the node; an error is what somebody who starts it reads.
    pub async fn start(&mut self) -> Result<(), String> {
        let disk = self.observed();
        let store = self.open_store(disk.clone())?;
        // No two starts of a node have the same seed.
        self.config.seed += 1 << 32;
        let config = Config {
            disk,
            ..self.config.clone()
        };
        let start = Node::start(config, Arc::new(store.clone()));
        let node = within("a start", start)
            .await
            .map_err(|error| error.to_string())?;
        self.running = Some(Running { node, store });
        Ok(())
    }

    /// What is on disk, while the node does not run; looking at it changes nothing.
    pub fn look(&self) -> Result<Store, String> {
        self.open_store(Arc::new(self.disk.fork()))
    }

    fn open_store(&self, disk: Arc<dyn Disk>) -> Result<Store, String> {
        Store::open_on(disk, &self.config.data_dir).map_err(|error| error.to_string())
    }

    fn observed(&self) -> Arc<dyn Disk> {
        let going_down = self.going_down.clone();
        let observer = move |operation: &str| {
            let mut state = going_down.lock().unwrap();
            match &mut state.left {
                None => Ok(()),
                Some(0) => {
                    state.cut.get_or_insert_with(|| kind(operation));
                    Err(io::Error::other("the machine is down"))
                }
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
            }
        };
        Arc::new(ObservedDisk::new(
            Arc::new(self.disk.clone()),
            Arc::new(observer),
        ))
    }

    /// Stops the node.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            within("a shutdown", running.node.shutdown()).await;
        }
        // Whatever of the node is still about holds on to the old disk.
        self.disk = self.disk.fork();
    }

    /// Goes down as `cut` says, and is switched on again: its disk works, the node does not run. What the node did since the operation
    /// that was not done has not reached the disk.
    pub async fn go_down(&mut self, cut: Cut) {
        self.going_down.lock().unwrap().left = Some(0);
        self.stop().await;
        self.going_down = Arc::default();
        if let Cut::Power(seed) = cut {
            self.disk.crash(seed);
        }
    }
}

/// An operation without the numbers in the file's name.
pub fn kind(operation: &str) -> String {
    let mut kind = String::new();
    for letter in operation.chars() {
        match letter.is_ascii_digit() {
            true if kind.ends_with('#') => {}
            true => kind.push('#'),
            false => kind.push(letter),
        }
    }
    kind
}
