//! How many connections from peers are open, by what they are for: the leader's are O(roots) (B13, B18).

use crate::message::Purpose;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Counts the open connections by purpose.
#[derive(Default)]
pub(crate) struct Connections(Mutex<BTreeMap<&'static str, u64>>);

impl Connections {
    /// One more, as long as the result lives.
    pub fn open(&self, purpose: Purpose) -> Open<'_> {
        let purpose = purpose.name();
        *self.0.lock().unwrap().entry(purpose).or_default() += 1;
        Open {
            connections: self,
            purpose,
        }
    }

    /// How many are open of each purpose that there ever was one of.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.lock().unwrap();
        counts
            .iter()
            .map(|(purpose, count)| (*purpose, *count))
            .collect()
    }
}

/// An open connection, counted.
pub(crate) struct Open<'a> {
    connections: &'a Connections,
    purpose: &'static str,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock().unwrap();
        *counts.get_mut(self.purpose).expect("it was counted") -= 1;
    }
}
