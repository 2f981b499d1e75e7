//! A histogram of durations with a bounded relative error, of constant size, that threads fill apart and then merge.

use std::time::Duration;

/// Each power of two is cut into this many buckets, so a value is off by less than 1/128 of itself.
const SUB_BITS: u32 = 7;
const SUB_BUCKETS: usize = 1 << SUB_BITS;
/// Values below 256 have a bucket each; then 128 for every further bit of 64.
const BUCKETS: usize = SUB_BUCKETS * (64 - SUB_BITS as usize + 1);

/// Durations in nanoseconds, counted in logarithmic buckets with linear ones within, as in HdrHistogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let value = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest one, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The least duration that at least the share `quantile` (0 to 1) of all do not exceed; zero if nothing was
    /// counted.
    pub fn quantile(&self, quantile: f64) -> Duration {
        // Counts are far below 2^52, where a float is exact.
        let rank = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a value.
fn index(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(SUB_BITS + 1);
    shift as usize * SUB_BUCKETS + (value >> shift) as usize
}

/// The middle of a bucket's values.
fn middle(index: usize) -> u64 {
    let shift = (index / SUB_BUCKETS).saturating_sub(1);
    let lowest = ((index - shift * SUB_BUCKETS) as u64) << shift;
    lowest + ((1_u64 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(Duration::from_nanos(value));
        }
        histogram
    }

    #[test]
    fn every_value_has_a_bucket_that_is_near_it() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit) / 3, (1 << bit) - 1]) {
            let found = middle(index(value));
            let error = found.abs_diff(value) as f64 / value.max(1) as f64;
            assert!(error < 1.0 / 128.0, "{value} became {found}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_are_in_the_order_of_their_values() {
        assert!((1..BUCKETS).all(|index| middle(index) > middle(index - 1)));
        assert!((0..BUCKETS).all(|bucket| index(middle(bucket)) == bucket));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let histogram = of((1..=100_000).rev());
        for (quantile, expected) in [
            (0.5, 50_000.0),
            (0.99, 99_000.0),
            (0.999, 99_900.0),
            (1.0, 100_000.0),
        ] {
            let found = histogram.quantile(quantile).as_nanos() as f64;
            assert!((found - expected).abs() / expected < 0.01, "{quantile}: {found}");
        }
        assert_eq!(histogram.max(), Duration::from_nanos(100_000));
    }

    #[test]
    fn small_counts_are_exact() {
        let histogram = of([10, 20, 30]);
        assert_eq!(histogram.quantile(0.0), Duration::from_nanos(10));
        assert_eq!(histogram.quantile(0.5), Duration::from_nanos(20));
        assert_eq!(histogram.quantile(0.99), Duration::from_nanos(30));
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn merging_is_counting_together() {
        let mut merged = of(1..=500);
        merged.merge(&of(501..=1000));
        let whole = of(1..=1000);
        assert_eq!((merged.count(), merged.max()), (1000, whole.max()));
        assert_eq!(merged.quantile(0.9), whole.quantile(0.9));
    }
}
