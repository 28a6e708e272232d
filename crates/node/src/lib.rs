//! Eaves, the library: a replicated log with a tree of listeners.
#![warn(missing_docs)]

mod admission;
mod appender;
mod applier;
mod blocking;
mod bulk;
mod committed;
mod config;
mod core;
mod cpu;
mod describe;
mod differing;
mod dir;
mod edges;
mod error;
mod explain;
mod flusher;
mod former;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod identity;
mod intake;
mod keeper;
mod links;
mod member;
mod message;
mod names;
mod net;
mod node;
mod opening;
mod orders;
mod peer;
mod position;
mod questions;
mod raft;
mod reads;
mod recover;
mod roles;
mod saved;
mod small_state;
mod snapshot;
mod state_machine;
mod status;
mod steer;
mod steps;
mod survey;
mod tree_handle;
mod tree_loop;
mod tree_wire;
mod unfed;
mod what_if;
mod wire;

pub use crate::core::{MAX_COMMAND_BYTES, REQUEST_TIMEOUT};
pub use admission::{
    ALWAYS_BYTES, ALWAYS_COMMANDS, AdmissionCounts, MAX_UNANSWERED_BYTES, MAX_UNANSWERED_COMMANDS,
    MAX_UNFLUSHED_BYTES, MAX_WAIT,
};
pub use blocking::Blocking;
pub use config::{Config, Founder, Group, StartAs};
pub use error::{ReadError, StartError, SteerError, WriteError};
pub use identity::IdentityError;
pub use member::Member;
pub use net::{CONNECT_TIMEOUT, Connection, Listener, Network, Task, TcpNetwork};
pub use node::Node;
pub use raft::RaftTimes;
pub use recover::{Agreement, RecoverError, Source, Stand, Survey, check_whole};
pub use roles::{RoleChange, RoleChangeError};
pub use small_state::{SmallMachine, SmallState};
pub use state_machine::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
pub use status::{
    ByReason, Counters, EdgeLag, Missing, NodeEvent, Positions, Role, SnapshotCounters,
    SnapshotProgress, Status, TreePicture, TreeRow,
};
pub use steer::{Account, Candidate, Drain, LastChoice, Steered, Steering};
pub use steps::{Step, StepObserver};
pub use what_if::{Forecast, GroupForecast, Move, Succession, Target};
