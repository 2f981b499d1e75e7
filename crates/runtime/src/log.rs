//! The log, to standard output. Logging never blocks: a thread of its own writes, and what it cannot take is dropped and counted.

mod fields;
mod throttle;
mod writer;

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::flags::{LogFlags, LogFormat};
use fields::PlainFields;
pub use throttle::log_permit;
pub(crate) use throttle::suppressed_lines;
use writer::Collector;
pub use writer::LogGuard;
pub(crate) use writer::dropped_lines;

/// Begins to log as `flags` say. What was logged is written, at the latest, when the guard is dropped.
///
/// # Errors
/// When the filter is malformed, or there is no thread to write.
pub fn start_log(flags: &LogFlags) -> Result<LogGuard, LogError> {
    let filter =
        EnvFilter::try_new(&flags.filter).map_err(|error| LogError::Filter(flags.filter.clone(), error))?;
    let (lines, guard) = Collector::start(io::stdout()).map_err(LogError::Thread)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines);
    match flags.format {
        LogFormat::Text => log.with_ansi(false).fmt_fields(PlainFields).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be parsed.
    #[error("log filter {0:?}: {1}")]
    Filter(String, #[source] ParseError),
    /// The writer's thread did not start.
    #[error("the log's thread: {0}")]
    Thread(#[source] io::Error),
}
