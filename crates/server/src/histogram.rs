//! A latency histogram that keeps every sample's order of magnitude and 7 bits below it.
//!
//! Log-linear: each power of two is cut into 128 equal buckets, so a reported quantile is at most 0.8 % above the true one and never
//! below it. Recording is an increment; nothing is sampled or left out.

use std::time::Duration;

/// Bits kept below the leading one.
const SUB_BITS: u32 = 7;
const SUB_BUCKETS: usize = 1 << SUB_BITS;
/// Values below `SUB_BUCKETS` have a bucket each; then one group of buckets for each possible leading bit above.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB_BUCKETS;

/// Counts of durations in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Histogram {
    /// An empty histogram (about 58 KiB).
    pub fn new() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }

    /// Counts one duration; what is above 584 years counts as 584 years.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// How many are longer than `bound`, to within its bucket.
    pub fn above(&self, bound: Duration) -> u64 {
        let ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns) + 1..].iter().sum()
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The mean, exactly; zero when nothing was recorded.
    pub fn mean(&self) -> Duration {
        let mean_ns = self.sum_ns.checked_div(u128::from(self.total)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX))
    }

    /// The smallest recorded duration (rounded up to its bucket) that at least `per_mille` thousandths of all do not exceed; zero when
    /// nothing was recorded.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let wanted = (self.total * per_mille.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(highest_in(bucket).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS as u64 {
        return ns as usize;
    }
    let shift = 63 - SUB_BITS - ns.leading_zeros();
    let sub_bucket = (ns >> shift) as usize - SUB_BUCKETS;
    (shift as usize + 1) * SUB_BUCKETS + sub_bucket
}

fn highest_in(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let lowest = ((SUB_BUCKETS + bucket % SUB_BUCKETS) as u64) << shift;
    lowest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_touch() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(highest_in(BUCKETS - 1), u64::MAX);
        for bucket in 0..BUCKETS - 1 {
            let highest = highest_in(bucket);
            assert_eq!(bucket_of(highest), bucket);
            assert_eq!(bucket_of(highest + 1), bucket + 1);
        }
    }

    #[test]
    fn quantiles_are_never_below_the_true_ones_and_at_most_one_128th_above() {
        let mut random = StdRng::seed_from_u64(7);
        let mut histogram = Histogram::new();
        let mut values: Vec<u64> = (0..10_000)
            .map(|_| random.random::<u64>() >> random.random_range(20..60))
            .collect();
        for value in &values {
            histogram.record(Duration::from_nanos(*value));
        }
        values.sort_unstable();
        for per_mille in [1, 10, 500, 990, 999, 1000] {
            let truth = values[(values.len() * per_mille).div_ceil(1000) - 1];
            let told = histogram.quantile(per_mille as u64).as_nanos() as u64;
            assert!(
                told >= truth && told <= truth + truth / 128,
                "{per_mille}: told {told}, truth {truth}"
            );
        }
        assert_eq!(
            histogram.max(),
            Duration::from_nanos(*values.last().unwrap())
        );
        assert_eq!(histogram.count(), 10_000);
        // What shares a bucket with the bound is not counted.
        let above = histogram.above(histogram.quantile(500));
        assert!((4_900..=5_000).contains(&above), "{above}");
        assert_eq!(histogram.above(histogram.max()), 0);
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        let histogram = Histogram::new();
        assert_eq!(
            (histogram.quantile(500), histogram.mean(), histogram.max()),
            Default::default()
        );
    }
}
