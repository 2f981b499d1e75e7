//! What Ambit's programs share: common flags, the log, signals, workers, accept loops, places by holder, the small HTTP
//! server (readiness, metrics and dumps, by path), socket options, and limits of the process.

mod accept;
mod flags;
mod followed;
mod http;
mod log;
mod memory;
mod metrics;
mod process;
mod program;
mod shares;
mod socket;
mod workers;

pub use accept::AcceptLoop;
pub use flags::{ControlPlaneFlags, HttpFlags, LogFlags, LogFormat, PodFlags, seconds};
pub use http::{Answer, listen, serve};
pub use log::{LogError, LogGuard, log_permit, start_log};
pub use memory::memory_limit;
pub use metrics::{
    Counter, Counters, Expose, FamilyOptions, Histogram, Histograms, MetricsSettings, WeakCounter,
    WeakHistogram, is_metrics_path, render_metrics,
};
pub use program::{Signals, run_control, run_program, sharing_threads};
pub use shares::{Held, Holder, Share, Shares};
pub use socket::{prepare_socket, raise_descriptor_limit};
pub use workers::{Given, Shards, Workers};
