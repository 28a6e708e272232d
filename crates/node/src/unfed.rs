//! How long a listener goes without being fed: from the loss of one upstream until the next begins to feed it.
//!
//! The clock starts when the tree's loop hears of the loss, which for a kick is the moment it arrives, and stops when the new upstream
//! says that it feeds from where the log ends here. A move that is made before the old upstream is left has no gap and counts as none.

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The gap that a listener is in, if it is in one.
#[derive(Default)]
pub(crate) struct Unfed(Mutex<Option<Instant>>);

impl Unfed {
    /// The upstream is lost. Losing another one before anybody feeds is part of the same gap.
    pub fn begin(&self) {
        self.0.lock().unwrap().get_or_insert_with(Instant::now);
    }

    /// This node is a voter now, and fed by nobody any more.
    pub fn forget(&self) {
        self.0.lock().unwrap().take();
    }

    /// Somebody feeds. Gives how long nobody did, if there was a gap.
    pub fn end(&self) -> Option<Duration> {
        let began = self.0.lock().unwrap().take();
        began.map(|began| began.elapsed())
    }
}
