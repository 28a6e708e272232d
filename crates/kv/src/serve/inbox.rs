//! What wakes a connection's driver besides its socket: calls that can go on, and bodies of which something was taken.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// One connection's.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Streams whose calls can go on.
    woken: Vec<u32>,
    /// Bytes of request bodies that are no longer held, by stream.
    taken: Vec<(u32, usize)>,
    driver: Option<Waker>,
}

impl Inbox {
    /// Whom to wake.
    pub fn register(&self, driver: &Waker) {
        let mut state = self.lock();
        match &mut state.driver {
            Some(known) => known.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
    }

    /// A waker for the call of a stream.
    pub fn waker(self: &Arc<Self>, stream: u32) -> CallWaker {
        CallWaker(Arc::new(Woken {
            stream,
            is_woken: AtomicBool::new(false),
            inbox: self.clone(),
        }))
    }

    /// Bytes of a request's body are no longer held.
    pub fn take(&self, stream: u32, bytes: usize) {
        let mut state = self.lock();
        state.taken.push((stream, bytes));
        state.wake();
    }

    /// Moves out what has come.
    pub fn move_to(&self, woken: &mut VecDeque<u32>, taken: &mut Vec<(u32, usize)>) {
        let mut state = self.lock();
        woken.extend(state.woken.drain(..));
        taken.append(&mut state.taken);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call panics with it")
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }
}

/// Wakes one call, and the driver with it.
pub(super) struct CallWaker(Arc<Woken>);

struct Woken {
    stream: u32,
    /// The stream is in the inbox already.
    is_woken: AtomicBool,
    inbox: Arc<Inbox>,
}

impl CallWaker {
    /// The waker to poll the call with, which is about to happen: it can be woken again.
    pub fn for_poll(&self) -> Waker {
        // What the call finds from here on, it finds after whoever wakes it again.
        self.0.is_woken.swap(false, Ordering::AcqRel);
        Waker::from(self.0.clone())
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            let mut state = self.inbox.lock();
            state.woken.push(self.stream);
            state.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_woken_once_until_it_is_polled() {
        let inbox = Arc::new(Inbox::default());
        let waker = inbox.waker(7);
        let (first, other) = (waker.for_poll(), inbox.waker(9).for_poll());
        first.wake_by_ref();
        first.wake_by_ref();
        other.wake_by_ref();
        inbox.take(7, 100);
        let (mut woken, mut taken) = (VecDeque::new(), Vec::new());
        inbox.move_to(&mut woken, &mut taken);
        assert_eq!((&woken, &taken[..]), (&[7, 9].into(), &[(7, 100)][..]));
        woken.clear();
        taken.clear();
        first.wake_by_ref();
        inbox.move_to(&mut woken, &mut taken);
        assert!(woken.is_empty(), "not polled since");
        waker.for_poll();
        first.wake_by_ref();
        inbox.move_to(&mut woken, &mut taken);
        assert_eq!(woken, [7]);
    }
}
