//! Talking to other nodes: who may connect, and what is asked over connections that carry questions.

pub(crate) mod client;
pub(crate) mod connections;
pub(crate) mod server;
