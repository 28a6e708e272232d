//! The two halves of one side of a connection, as tokio reads and writes them.

use super::state::{HELD, Net, Readable, Writable};
use crate::engine::Micros;
use crate::system::clock::Clock;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};

/// Which side of which connection, and the clock on that side.
#[derive(Clone)]
pub(super) struct Side {
    pub net: Arc<Net>,
    pub conn: u64,
    pub side: usize,
    pub clock: Clock,
}

/// Waits for a time that may change.
#[derive(Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once it is `at`; never, if that is [`HELD`].
    pub fn poll(&mut self, at: Micros, clock: Clock, context: &mut Context<'_>) -> Poll<()> {
        if at == HELD {
            return Poll::Pending;
        }
        let instant = clock.instant(at);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(instant)));
        if sleep.deadline() != instant {
            sleep.as_mut().reset(instant);
        }
        sleep.as_mut().poll(context)
    }
}

/// The reading half.
pub(super) struct Reader {
    pub side: Side,
    pub alarm: Alarm,
}

/// The writing half.
pub(super) struct Writer {
    pub side: Side,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = &mut *self;
        let Side {
            net,
            conn,
            side,
            clock,
        } = &reader.side;
        loop {
            let found = {
                let unfilled = buffer.initialize_unfilled();
                net.lock()
                    .read(*conn, *side, clock.now(), unfilled, context.waker())
            };
            match found {
                Readable::Bytes(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Readable::End => return Poll::Ready(Ok(())),
                Readable::Reset => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Readable::Nothing(next) => {
                    std::task::ready!(reader.alarm.poll(next.unwrap_or(HELD), *clock, context))
                }
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Side {
            net,
            conn,
            side,
            clock,
        } = &self.side;
        let written = net
            .lock()
            .write(*conn, *side, clock.now(), bytes, context.waker());
        match written {
            Writable::Taken(count) => Poll::Ready(Ok(count)),
            Writable::Broken => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Writable::Full => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Side {
            net,
            conn,
            side,
            clock,
        } = &self.side;
        net.lock().end_writing(*conn, *side, clock.now());
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.side.let_go(false);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.side.let_go(true);
    }
}

impl Side {
    /// A runtime that is gone has no time any more, and its connections have ended before it.
    fn let_go(&self, is_writer: bool) {
        let inside = tokio::runtime::Handle::try_current().is_ok();
        let mut state = self.net.lock();
        let now = if inside { self.clock.now() } else { state.now };
        state.let_go(self.conn, self.side, is_writer, now);
    }
}
