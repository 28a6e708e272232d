//! The server's side of HTTP/2 (RFC 9113) for calls that are many and small, without I/O.
//!
//! Why it is here: a node that serves the etcd API spends most of its processor time around gRPC, and most of that in the general
//! machinery of HTTP/2: maps of headers, a task and several allocations for each call, and wake-ups between them. Calls of this API are a
//! head of the same few fields, one small message each way, and trailers of one field. See ARCHITECTURE.md for what was measured.
//!
//! - [`ServerConnection`] is one connection: bytes in, events out; answers in, bytes out.
//! - [`Head`] is a request's head, checked.
//! - [`hpack`] reads header blocks, and writes them without a state.
//! - [`frame`] has the layout of frames, for clients too.

#![forbid(unsafe_code)]

mod connection;
mod error;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hpack;
mod request;

pub use connection::{Event, Limits, OUTPUT_BYTES, ServerConnection};
pub use error::{ConnectionError, ErrorCode};
pub use request::Head;
