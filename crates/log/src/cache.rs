//! The tail of the log in memory: what apply, replication and listeners read, and all that is not yet durable.

use crate::{Chain, Frame};
use std::collections::VecDeque;

/// What an entry costs in memory beyond its bytes: its slot, twice while it is queued, and the allocator's overhead. An estimate.
const SLOT_OVERHEAD_BYTES: usize = 128;

/// An entry and the chain value after it.
#[derive(Clone)]
pub(crate) struct Slot {
    pub frame: Frame,
    pub chain: Chain,
}

impl Slot {
    fn memory_bytes(&self) -> usize {
        self.frame.as_bytes().len() + SLOT_OVERHEAD_BYTES
    }
}

/// The newest entries.
///
/// Invariants: `contiguous`: the slots' indexes are `first`, `first + 1`, and so on to the end of the log. `unflushed-kept`: the log
/// evicts only what is durable, so an entry that is not here can be read from disk.
pub(crate) struct Cache {
    first: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
}

impl Cache {
    /// An empty cache of a log whose next index is `next`.
    pub fn new(next: u64) -> Cache {
        Cache {
            first: next,
            slots: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The first index that is here, or the log's next index.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The memory in use, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry at `index`, if it is here.
    pub fn get(&self, index: u64) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Adds the next entry.
    pub fn push(&mut self, slot: Slot) {
        debug_assert_eq!(
            slot.frame.id().index,
            self.first + self.slots.len() as u64,
            "the cache is contiguous"
        );
        self.bytes += slot.memory_bytes();
        self.slots.push_back(slot);
    }

    /// Entries from `from`, which is here, up to and including `to`, until they have `max_bytes`, but at least one if there is one.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Vec<Frame> {
        let skip = usize::try_from(from - self.first).expect("the cache fits memory");
        let count = usize::try_from((to - from).saturating_add(1)).unwrap_or(usize::MAX);
        let mut frames = Vec::new();
        let mut bytes = 0;
        for slot in self.slots.iter().skip(skip).take(count) {
            frames.push(slot.frame.clone());
            bytes += slot.frame.as_bytes().len();
            if bytes >= max_bytes {
                break;
            }
        }
        frames
    }

    /// The bytes of the entries from `from` up to and including `to` that are here, and how many of them are not.
    ///
    /// Adds up whichever is less, these entries or all others, so that it is quick where it is asked often: near the end.
    pub fn entry_bytes(&self, from: u64, to: u64) -> (u64, u64) {
        let end = self.first + self.slots.len() as u64;
        let (start, stop) = (from.max(self.first), to.saturating_add(1).min(end));
        let asked = to.saturating_add(1).saturating_sub(from);
        if start >= stop {
            return (0, asked);
        }
        let (start, stop) = ((start - self.first) as usize, (stop - self.first) as usize);
        let sum = |from: usize, to: usize| -> u64 {
            let slots = self.slots.range(from..to);
            slots.map(|slot| slot.frame.as_bytes().len() as u64).sum()
        };
        let bytes = match stop - start <= self.slots.len() / 2 {
            true => sum(start, stop),
            false => {
                let all = self.bytes - self.slots.len() * SLOT_OVERHEAD_BYTES;
                all as u64 - sum(0, start) - sum(stop, self.slots.len())
            }
        };
        (bytes, asked - (stop - start) as u64)
    }

    /// Forgets the entries from `next` on. If that is before the first here, the cache is empty and continues at `next`.
    pub fn cut(&mut self, next: u64) {
        while self.slots.len() as u64 > next.saturating_sub(self.first) {
            let slot = self.slots.pop_back().expect("there is more than is kept");
            self.bytes -= slot.memory_bytes();
        }
        self.first = self.first.min(next);
    }

    /// Forgets everything; the log's next index is `next`.
    pub fn reset(&mut self, next: u64) {
        *self = Cache::new(next);
    }

    /// Forgets the oldest entries below `below` until `limit_bytes` are kept.
    pub fn evict(&mut self, below: u64, limit_bytes: usize) {
        while self.bytes > limit_bytes && self.first < below {
            let Some(slot) = self.slots.pop_front() else {
                return;
            };
            self.bytes -= slot.memory_bytes();
            self.first += 1;
        }
    }

    /// Forgets entries below `below`, whatever they weigh.
    pub fn forget_before(&mut self, below: u64) {
        self.evict(below, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, LogId};

    #[test]
    fn bytes_of_entries_are_those_of_their_frames() {
        let mut cache = Cache::new(10);
        let mut lengths = Vec::new();
        for index in 10..30u64 {
            let payload = vec![0; index as usize * 7];
            let frame = Frame::encode(LogId::new(1, index), Kind::Normal, &payload);
            lengths.push(frame.as_bytes().len() as u64);
            let chain = Chain::START;
            cache.push(Slot { frame, chain });
        }
        for from in 5..35u64 {
            for to in from..35 {
                let here = (from..=to).filter(|index| (10..30).contains(index));
                let bytes = here.clone().map(|index| lengths[index as usize - 10]).sum();
                let others = to + 1 - from - here.count() as u64;
                assert_eq!(
                    cache.entry_bytes(from, to),
                    (bytes, others),
                    "{from} to {to}"
                );
            }
        }
    }
}
