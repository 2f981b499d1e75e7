//! What a series holds.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter or a histogram.
pub(super) trait Instrument {
    /// Differs when something was counted meanwhile.
    fn version(&self) -> u64;

    /// Moves what was counted to another of the same kind.
    fn move_to(&self, other: &Self);

    /// Appends its lines. `labels` is `a="b",…`.
    fn write(&self, name: &str, labels: &str, out: &mut String);
}

/// A counter's value.
#[derive(Default)]
pub(super) struct Total(AtomicU64);

impl Total {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

impl Instrument for Total {
    fn version(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn move_to(&self, other: &Self) {
        other.add(self.0.swap(0, Ordering::Relaxed));
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name}{{{labels}}} {}", self.version());
    }
}

/// A histogram's values.
pub(super) struct Buckets {
    bounds: &'static [f64],
    /// Not cumulative; the last is past all bounds.
    counts: Box<[AtomicU64]>,
    /// In thousandths.
    sum: AtomicU64,
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Saturates: a negative value counts as zero.
        self.sum.fetch_add((value * 1e3) as u64, Ordering::Relaxed);
    }
}

impl Instrument for Buckets {
    fn version(&self) -> u64 {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    fn move_to(&self, other: &Self) {
        let pairs = self.counts.iter().zip(&other.counts);
        for (from, to) in pairs.chain([(&self.sum, &other.sum)]) {
            to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut cumulative = 0;
        for (count, bound) in self.counts.iter().zip(bounds) {
            cumulative += count.load(Ordering::Relaxed);
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e3;
        let _ = writeln!(
            out,
            "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {cumulative}"
        );
    }
}
