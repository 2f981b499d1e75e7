//! What one run of `ambit-bench-control` came to: the control plane's benchmark. The run itself is the package
//! `ambit-bench-control`.

use serde::{Deserialize, Serialize};

/// A size of cluster, and what the control plane needed for it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Pods.
    pub pods: usize,
    /// Services.
    pub services: usize,
    /// Nodes.
    pub nodes: usize,
    /// Nodes whose ztunnel and agent have a stream open.
    pub clients: usize,
    /// Streams of waypoints.
    pub waypoints: usize,
    /// Resources that each ztunnel has.
    pub resources: usize,
    /// From the first object to the last one read.
    pub read: Phase,
    /// The first flush of the index.
    pub flush: Phase,
    /// Until all clients, which hold what they are to have, are in sync.
    pub sync: Phase,
    /// The same for one ztunnel that holds nothing.
    pub cold: Phase,
    /// What such a ztunnel is sent, in MiB.
    pub cold_mib: f64,
    /// Resident memory.
    pub memory: Memory,
    /// Changes a second.
    pub rate: f64,
    /// Seconds of changes.
    pub seconds: f64,
    /// Processor time during the changes, in seconds.
    pub changes_cpu: f64,
    /// Responses to all clients meanwhile.
    pub responses: u64,
    /// Change to acknowledgement.
    pub acknowledged: Spread,
    /// Time in the index, by kind of change.
    pub index: Vec<(String, Spread)>,
    /// Endpoints of the largest Service.
    pub endpoints: usize,
    /// Time in the index for an event of one of its EndpointSlices.
    pub slice: Spread,
}

impl Outcome {
    /// From the first object read to all clients in sync.
    pub fn restart(&self) -> Phase {
        let phases = [self.read, self.flush, self.sync];
        Phase {
            seconds: phases.iter().map(|p| p.seconds).sum(),
            cpu: phases.iter().map(|p| p.cpu).sum(),
        }
    }
}

/// Wall-clock and processor time, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Phase {
    /// Wall clock.
    pub seconds: f64,
    /// User and kernel time of the process.
    pub cpu: f64,
}

/// Resident memory in MiB.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Before the first object.
    pub start: f64,
    /// After the first flush.
    pub flushed: f64,
    /// With all clients in sync.
    pub synced: f64,
    /// After the changes.
    pub changed: f64,
    /// The most until then.
    pub peak: f64,
}

/// Quantiles of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Half are no longer.
    pub p50: f64,
    /// Of a hundred, 99 are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl From<&crate::Histogram> for Spread {
    fn from(of: &crate::Histogram) -> Self {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        Self {
            count: of.count(),
            p50: ms(of.quantile(0.5)),
            p99: ms(of.quantile(0.99)),
            max: ms(of.max()),
        }
    }
}
