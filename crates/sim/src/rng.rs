//! Random numbers from a seed, without floats: the same seed gives the same numbers everywhere.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// A well mixed function of one number: SplitMix64's finaliser.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A stream of its own for each purpose: drawing more for one does not change another.
    pub fn new(seed: u64, purpose: u64) -> Rng {
        Rng(mix(mix(seed) ^ purpose))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a random number below zero was asked for");
        ((u128::from(self.any()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of a range, both ends included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// A number of a range, small ones as often as large ones: each doubling is as likely as any other.
    pub fn scale(&mut self, least: u64, most: u64) -> u64 {
        let mut high = most;
        let mut low = least.max(1);
        while low.saturating_mul(2) <= high && self.below(u64::from((high / low).ilog2()) + 1) > 0 {
            low *= 2;
        }
        high = high.min(low.saturating_mul(2));
        self.between(low, high)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, times: u64) -> bool {
        times > 0 && self.below(1000) < times
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range() {
        let mut rng = Rng::new(7, 1);
        for _ in 0..1000 {
            assert!((3..=9).contains(&rng.between(3, 9)));
            assert!((1..=300).contains(&rng.scale(1, 300)));
        }
        assert!(!rng.permille(0));
        assert!(rng.permille(1000));
    }
}
