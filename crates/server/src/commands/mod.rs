//! One file for each command: its flags, what it does, and how it prints.

pub mod del;
pub mod get;
pub mod listen;
pub mod put;
pub mod recover;
pub mod roles;
pub mod serve;
pub mod status;
pub mod steer;
pub mod tree;
pub mod watch;
pub mod what_if;
pub mod why;
