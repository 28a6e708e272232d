//! The engine of a discrete-event simulation: virtual time, and a queue of what will happen. Nothing here knows what an event is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A point of virtual time, or a span of it, in microseconds.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLISECOND: Micros = 1_000;

/// What will happen, in order of time; what falls on the same microsecond happens in the order in which it was posted. So a run
/// is a function of what was posted, and of nothing else.
pub struct Queue<E> {
    now: Micros,
    posted: u64,
    /// Keys only, small enough to be sifted quickly; the events lie in `slots`.
    heap: BinaryHeap<Reverse<(Micros, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue {
            now: 0,
            posted: 0,
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<E> Queue<E> {
    /// The time of the event that was popped last.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// How many events were popped so far.
    pub fn popped(&self) -> u64 {
        self.posted - self.heap.len() as u64
    }

    /// Lets something happen at a time that has not passed yet.
    pub fn post_at(&mut self, at: Micros, event: E) {
        assert!(at >= self.now, "an event was posted into the past");
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                (self.slots.len() - 1) as u32
            }
        };
        self.heap.push(Reverse((at, self.posted, slot)));
        self.posted += 1;
    }

    /// Lets something happen after a while.
    pub fn post(&mut self, after: Micros, event: E) {
        self.post_at(self.now + after, event);
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Advances time to the next event and takes it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.now = at;
        self.free.push(slot);
        Some(
            self.slots[slot as usize]
                .take()
                .expect("a slot in the heap is taken"),
        )
    }

    /// Lets time pass without an event.
    pub fn advance_to(&mut self, at: Micros) {
        assert!(
            self.next_at().is_none_or(|next| next >= at),
            "time passed over an event"
        );
        self.now = self.now.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_posting() {
        let mut queue = Queue::default();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.post_at(at, name);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, "abcd");
        assert_eq!(queue.now(), 5);
        queue.post(2, 'e');
        assert_eq!(queue.next_at(), Some(7));
    }
}
