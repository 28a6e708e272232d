//! What a simulated file holds, synced and not, and what a crash leaves of it.

use std::collections::BTreeMap;

/// What is written or lost as one piece.
const SECTOR_BYTES: usize = 512;

/// The content of a file, and what it may be after a crash.
#[derive(Clone, Default)]
pub(super) struct Content {
    /// What was written; reads as zero from its end to `len`.
    pub(super) bytes: Vec<u8>,
    pub(super) len: u64,
    /// What sectors had in them since the last sync, oldest first; no entry for an untouched sector.
    sectors_before: BTreeMap<usize, Vec<Vec<u8>>>,
    lens_before: Vec<u64>,
    /// Sectors that a failed sync has left for synced.
    given_up: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Open handles, which keep a file whose name is gone.
    pub(super) handles: usize,
}

impl Content {
    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        let end = offset + buf.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.remember(offset, end);
        self.bytes[offset..end].copy_from_slice(buf);
        if self.len < end as u64 {
            self.lens_before.push(self.len);
            self.len = end as u64;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let keep = usize::try_from(len).unwrap_or(usize::MAX);
        if keep < self.bytes.len() {
            self.remember(keep, self.bytes.len());
            self.bytes.truncate(keep);
        }
        self.lens_before.push(self.len);
        self.len = len;
    }

    /// Keeps what the sectors from `start` to `end` have in them now.
    fn remember(&mut self, start: usize, end: usize) {
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let old = self.sector(sector);
            if let Some(before) = self.given_up.remove(&sector) {
                self.sectors_before.insert(sector, before);
            }
            self.sectors_before.entry(sector).or_default().push(old);
        }
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let from = (sector * SECTOR_BYTES).min(self.bytes.len());
        let to = (from + SECTOR_BYTES).min(self.bytes.len());
        self.bytes[from..to].to_vec()
    }

    pub(super) fn sync(&mut self) {
        self.sectors_before.clear();
        self.lens_before.clear();
    }

    pub(super) fn fail_sync(&mut self) {
        self.given_up.append(&mut self.sectors_before);
    }

    pub(super) fn crash(&mut self, chance: &mut Chance) {
        self.sectors_before.append(&mut self.given_up);
        let luck = chance.below(4);
        for (sector, before) in std::mem::take(&mut self.sectors_before) {
            let now = self.sector(sector);
            let survivor = match luck {
                0 => before
                    .into_iter()
                    .next()
                    .expect("there is a version before"),
                1 => now,
                _ => chance.version(before, now),
            };
            let from = sector * SECTOR_BYTES;
            if self.bytes.len() < from + SECTOR_BYTES {
                self.bytes.resize(from + SECTOR_BYTES, 0);
            }
            self.bytes[from..from + survivor.len()].copy_from_slice(&survivor);
            self.bytes[from + survivor.len()..from + SECTOR_BYTES].fill(0);
        }
        let before = std::mem::take(&mut self.lens_before);
        self.len = chance.version(before, self.len);
        self.bytes
            .truncate(usize::try_from(self.len).unwrap_or(usize::MAX));
    }
}

/// SplitMix64: all the randomness of a crash comes from its seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    /// One of the versions before, or the one now.
    pub(super) fn version<T>(&mut self, mut before: Vec<T>, now: T) -> T {
        before.push(now);
        let index = self.below(before.len() as u64) as usize;
        before.swap_remove(index)
    }
}
