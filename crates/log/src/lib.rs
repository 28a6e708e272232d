//! The durable log.

mod chain;
pub mod disk;
mod error;
mod frame;
mod lock;
mod log;
pub mod sim;

pub use chain::{Base, Chain};
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{Damage, OpenError, Poisoned, ReadError, WriteError};
pub use frame::{
    FRAME_HEADER_BYTES, Frame, FrameError, Kind, LogId, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES,
};
pub use lock::{DirLock, LockError};
pub use log::{FlushDone, FlushJob, Log, LogStats, Options, Recovered, Ticket};
