//! A state being made from a snapshot's chunks while others arrive.

use super::incoming::ChunkFile;
use super::manifest::Chunk;
use super::receive::Broken;
use crate::applier::Applier;
use crate::blocking::Blocking;
use crate::bulk::{Bulk, Spell};
use crate::core::Core;
use crate::state_machine::SnapshotSink;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

/// Gives chunks to the state machine as they arrive, in order, into a place beside the live state.
pub(super) async fn stage(
    core: &Arc<Core>,
    file: ChunkFile,
    mut arrived: UnboundedReceiver<Chunk>,
) -> Result<Box<dyn SnapshotSink>, Broken> {
    let blocking = core.config.blocking;
    let mut bulk = Bulk::new(blocking);
    let mut half = Half {
        sink: None,
        blocking,
    };
    loop {
        let chunk = arrived.recv().await.map(|chunk| (chunk, chunk.room()));
        let is_end = chunk.is_none();
        let (sink, applier, file) = (half.sink.take(), core.applier.clone(), file.clone());
        let staging = bulk.run(move || {
            let spell = Spell::begin(blocking);
            let staged = stage_chunk(&applier, sink, &file, chunk);
            let staged = staged.map_err(|error| file.give_up(error));
            spell.rest();
            staged
        });
        let sink = staging.await.flatten().map_err(Broken::ForGood)?;
        if is_end {
            return Ok(sink);
        }
        half.sink = Some(sink);
    }
}

/// Gives the state machine one chunk, or none when all have come; opens its place before the first. Blocks.
fn stage_chunk(
    applier: &Applier,
    sink: Option<Box<dyn SnapshotSink>>,
    file: &ChunkFile,
    chunk: Option<(Chunk, Vec<u8>)>,
) -> io::Result<Box<dyn SnapshotSink>> {
    let mut sink = match sink {
        Some(sink) => sink,
        None => applier.receive()?,
    };
    if let Some((chunk, room)) = chunk {
        let bytes = file.read(chunk, room)?.ok_or_else(|| {
            // The next try proves the file again, and asks for this one.
            let text = format!(
                "the chunk at {} of a snapshot changed on disk",
                chunk.offset
            );
            io::Error::other(text)
        })?;
        sink.write_chunk(bytes)?;
    }
    Ok(sink)
}

/// A state that is half made. Dropping it removes its file, which takes a while.
struct Half {
    sink: Option<Box<dyn SnapshotSink>>,
    blocking: Blocking,
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            self.blocking.dispose(sink);
        }
    }
}
