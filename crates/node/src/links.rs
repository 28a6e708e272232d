//! What both ends of a feed connection share: the commands of the tree's loop, and how its messages are sent.
//!
//! [`crate::appender`] is the upstream's end, [`crate::intake`] the listener's.

use crate::tree_handle::LinkSender;
use crate::tree_wire::SessionBytes;
use crate::wire::{Kind, Packet, garbage, write_packet};
use eaves_tree::Message;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

/// Bytes sent and not yet acknowledged to one listener (B10). TCP holds them; this bounds how much it must.
pub(crate) const WINDOW_BYTES: u64 = 8 << 20;

/// How long a link that must end may take to send what was to be sent before.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Resolves when the link must end at once: it was told to close, and has had its time (S10, S11: a kick does not wait behind a stuck
/// write).
pub(crate) async fn overdue(end: &Notify) -> io::Result<()> {
    end.notified().await;
    tokio::time::sleep(CLOSE_GRACE).await;
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "told to close while a write was stuck",
    ))
}

/// What the tree's loop tells a link's task.
pub(crate) enum LinkCommand {
    /// Send a message of the protocol.
    Send(Message),
    /// Upstream: push entries to this listener, or stop.
    Feed(bool),
    /// Listener: ask to be fed and take entries from here.
    Follow,
    /// End, after what was sent before.
    Close,
}

/// The two ends of the way to a link's task.
pub(crate) fn channel() -> (LinkSender, mpsc::UnboundedReceiver<LinkCommand>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    (
        LinkSender {
            commands,
            heard: Arc::new(AtomicBool::new(false)),
            end: Arc::new(Notify::new()),
        },
        receiver,
    )
}

/// Carries out a command; false when the link must end.
pub(crate) async fn obey(
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    command: LinkCommand,
    allowed: &mut bool,
) -> io::Result<bool> {
    match command {
        LinkCommand::Send(message) => {
            write_packet(writer, Kind::Session, &SessionBytes::from(&message), &[]).await?
        }
        LinkCommand::Feed(feed) => *allowed = feed,
        LinkCommand::Follow => unreachable!("an upstream's link is never told to follow"),
        LinkCommand::Close => {
            writer.shutdown().await?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// The message of the tree protocol in a packet.
pub(crate) fn session(packet: &Packet) -> io::Result<Message> {
    let bytes: SessionBytes = packet.head()?;
    Message::try_from(bytes).map_err(|error| garbage(error.to_string()))
}
