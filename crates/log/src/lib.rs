//! The durable log.

mod cache;
mod chain;
pub mod disk;
mod error;
mod flush;
mod frame;
mod lock;
mod log;
mod record;
mod recovery;
mod segment;
pub mod sim;
mod state_file;
mod writer;

pub use chain::{Base, Chain};
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{Damage, DiskError, OpenError, Poisoned, ReadError, WriteError};
pub use flush::{FlushDone, FlushJob};
pub use frame::{
    FRAME_HEADER_BYTES, Frame, FrameError, Kind, LogId, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES,
};
pub use lock::{DirLock, LockError};
pub use log::{Log, LogStats, Options, Recovered, Ticket};
