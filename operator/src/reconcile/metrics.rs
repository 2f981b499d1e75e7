//! What the writer counts of its own work.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::time::Instant;

use super::ReconcileError;
use super::queue::{Queue, Work};

/// In seconds.
const DURATIONS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

const KINDS: [&str; 3] = ["mesh", "namespace", "classes"];

/// The metrics of reconciliation.
#[derive(Debug)]
pub(super) struct WorkMetrics {
    depth: IntGaugeVec,
    duration: HistogramVec,
    errors: IntCounterVec,
}

impl WorkMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let duration = HistogramOpts::new(
            "ambit_operator_reconcile_duration_seconds",
            "How long one pass took, by what was reconciled: the Mesh, a namespace with its waypoints and policies, or GatewayClasses and XMeshes",
        );
        let metrics = Self {
            depth: IntGaugeVec::new(
                Opts::new(
                    "ambit_operator_queue_depth",
                    "What there is to reconcile: due, running, or waiting after a failure (retry). 0 on a replica that does not lead",
                ),
                &["state"],
            )?,
            duration: HistogramVec::new(duration.buckets(DURATIONS.to_vec()), &["kind"])?,
            errors: IntCounterVec::new(
                Opts::new(
                    "ambit_operator_reconcile_errors_total",
                    "Passes that failed and are tried again, by what was reconciled and why",
                ),
                &["kind", "reason"],
            )?,
        };
        registry.register(Box::new(metrics.depth.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        metrics.depth([0; 3]);
        for kind in KINDS {
            metrics.duration.with_label_values(&[kind]);
            // So that the metric is there before anything fails.
            metrics.errors.with_label_values(&[kind, "api"]);
        }
        Ok(metrics)
    }

    pub(super) fn queue(&self, queue: &Queue, now: Instant) {
        self.depth([queue.due(now), queue.running(), queue.failing()]);
    }

    /// This replica leads no more.
    pub(super) fn idle(&self) {
        self.depth([0; 3]);
    }

    fn depth(&self, [due, running, retry]: [usize; 3]) {
        for (state, depth) in [("due", due), ("running", running), ("retry", retry)] {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.depth.with_label_values(&[state]).set(depth);
        }
    }

    pub(super) fn worked(&self, work: &Work, took: Duration, error: Option<&ReconcileError>) {
        let kind = match work {
            Work::Mesh => KINDS[0],
            Work::Namespace(_) => KINDS[1],
            Work::Classes => KINDS[2],
        };
        self.duration
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.with_label_values(&[kind, error.reason()]).inc();
        }
    }
}
