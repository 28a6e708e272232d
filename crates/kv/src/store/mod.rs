//! The multi-version key-value state machine.

pub mod command;
pub mod error;
mod watch_api;

pub use command::{KvCommand, decode_answer, encode_answer};
pub use error::KvError;
pub use watch_api::{WatchItem, WatchRefusal, WatchSpec};
