//! A way for the fuzzer to receive a snapshot without a node. Built for tests and fuzzers only.

pub(crate) use super::manifest::{Manifest, to_sums};
pub(crate) use super::send::numbers;

use super::incoming::Incoming;
use crate::blocking::Interrupt;
use crate::dir::Dir;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The turn of the one who receives.
pub(crate) struct Receiving(Arc<Mutex<Instant>>);

impl Default for Receiving {
    fn default() -> Receiving {
        Receiving(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Receiving {
    /// The file of a snapshot being received, with what an earlier one left in it.
    pub fn open(&mut self, dir: &Dir, manifest: &Manifest) -> Incoming {
        let turn = self
            .0
            .clone()
            .try_lock_owned()
            .expect("the one before is done");
        let opened = Incoming::open(turn, dir.clone(), manifest.at.clone());
        let mut incoming = opened.expect("the disk works");
        let told = incoming.learn(to_sums(manifest.chunks()), &Interrupt::default());
        told.and_then(|()| incoming.end())
            .expect("our own sums are read");
        incoming
    }
}
