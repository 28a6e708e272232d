//! The network between machines: ordered streams of bytes, as TCP gives them, over links that are slow, stall, and break.
//!
//! TCP turns every fault of the network into one of three: bytes come later, they do not come for now, or the connection ends. So those
//! are the faults here. Bytes are never lost within a connection, repeated or changed: checksums of TCP and the frames' own are tested
//! elsewhere. A connection that ends may have delivered any part of what was under way, half a message included.
//!
//! A link goes from one machine to another; both directions of a pair are links of their own, so that one alone can be cut. What is
//! written into a cut link waits, and is sent again when the link is mended; a connection that has waited for
//! [`DEAD_PEER_TIMEOUT`] ends on both sides, as the socket options of the real network have it.
//!
//! Nothing arrives sooner than [`Shape::window`] after it was sent. [`super::world`] says what that is good for.
//!
//! Times are stamped by the sender: a stream knows when its bytes arrive, and the reader waits for that on its own clock.

mod end;
mod handle;
mod state;

pub use handle::{ClientPort, Handle, Stream};
pub use state::{Cut, HostId, Net, Shape};

use crate::engine::{Micros, SECOND};

/// How long a connection waits for a silent or unreachable peer: the user timeout of `eaves`' own sockets.
pub const DEAD_PEER_TIMEOUT: Micros = 10 * SECOND;

/// Bytes under way in one direction of a connection, at most: a writer waits beyond that.
const UNDER_WAY_BYTES: usize = 256 << 10;
