//! What a node keeps on disk for the tree: the list of upstream servers, learned addresses, what an administrator asked for (S6, B5, B16).
//! While the loop runs it alone decides what is kept, and [`keep`] writes it; before and between two roles [`store`] does.

use crate::config::StartAs;
use crate::core::Core;
use crate::dir::Dir;
use crate::tree_handle::Input;
use crate::tree_wire::{SavedBytes, TreeWireError};
use eaves_tree::{Address, Saved};
use prost::Message;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The file.
pub(crate) const FILE: &str = "upstreams";

/// What a listener knows when it starts.
#[derive(Default)]
pub(crate) struct Kept {
    /// What an earlier run saved.
    pub saved: Saved,
    /// The list of upstream servers it is started with, if that is not the one it has.
    pub new_list: Option<Vec<Address>>,
}

/// Puts a new list of upstream servers on disk, before it is used (S6).
///
/// A listener that is started with the same list as last time keeps the one it has: an administrator may have given it another since
/// (S14), and whatever starts the process does not know of that.
pub(crate) fn keep_upstreams(dir: &Dir, upstreams: &[String]) -> io::Result<Kept> {
    let (saved, started_with) = load(dir)?;
    if upstreams.is_empty() || upstreams == started_with {
        return Ok(Kept {
            saved,
            new_list: None,
        });
    }
    let list: Vec<Address> = upstreams
        .iter()
        .map(|address| Address::from(address.as_str()))
        .collect();
    let new = Saved {
        upstreams: list.clone(),
        ..saved.clone()
    };
    store(dir, &new, upstreams)?;
    let new_list = (list != saved.upstreams).then_some(list);
    Ok(Kept { saved, new_list })
}

/// Writes what is kept for the tree. Not while the loop of a listener runs, which does so itself. `started_with` is the list on the
/// command line, or wherever the listener's configuration comes from.
pub(crate) fn store(dir: &Dir, saved: &Saved, started_with: &[String]) -> io::Result<()> {
    dir.write(FILE, &saved_bytes(saved, started_with))
}

fn saved_bytes(saved: &Saved, started_with: &[String]) -> Vec<u8> {
    let mut bytes = SavedBytes::from(saved);
    bytes.started_with = started_with.to_vec();
    bytes.encode_to_vec()
}

/// What an earlier run kept for the tree (S6, B5, B16), and the list it was started with.
pub(crate) fn load(dir: &Dir) -> io::Result<(Saved, Vec<String>)> {
    let damaged = |what: String| {
        io::Error::other(format!(
            "read {}: {what}; remove the file and give --upstream again",
            dir.path().join(FILE).display()
        ))
    };
    let Some(bytes) = dir.read(FILE)? else {
        return Ok(Default::default());
    };
    let mut bytes = SavedBytes::decode(bytes).map_err(|error| damaged(error.to_string()))?;
    let started_with = std::mem::take(&mut bytes.started_with);
    let saved = bytes
        .try_into()
        .map_err(|error: TreeWireError| damaged(error.to_string()))?;
    Ok((saved, started_with))
}

/// Writes what the protocol wants kept, one version at a time, so that an older one never replaces a newer.
pub(crate) async fn keep(core: Arc<Core>, mut versions: mpsc::UnboundedReceiver<(u64, Saved)>) {
    while let Some((mut version, mut saved)) = versions.recv().await {
        while let Ok(newer) = versions.try_recv() {
            (version, saved) = newer;
        }
        let started_with = match &core.config.start_as {
            StartAs::Listener { upstreams } => &upstreams[..],
            StartAs::Voter { .. } => &[],
        };
        let bytes = saved_bytes(&saved, started_with);
        let _turn = core.save_turn.lock().await;
        if *core.stopping.borrow() {
            return;
        }
        let dir = core.config.dir();
        let written = core.config.blocking.run(move || dir.write(FILE, &bytes));
        let saved = written.await.flatten();
        core.tree.tell(Input::Persisted { version, saved });
    }
}
