//! The log, to standard output.

mod fields;
mod writer;

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Config, LogFormat};
use fields::PlainFields;
use writer::Collector;
pub use writer::LogGuard;

/// Begins to log as `config` says. What was logged is written, at the latest, when the guard is dropped.
///
/// # Errors
/// When the filter is none, or there is no thread to write.
pub fn log_to_stdout(config: &Config) -> Result<LogGuard, LogError> {
    let filter =
        EnvFilter::try_new(&config.log).map_err(|error| LogError::Filter(config.log.clone(), error))?;
    let (lines, guard) = Collector::start(io::stdout()).map_err(LogError::Thread)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines);
    match config.log_format {
        LogFormat::Text => log.with_ansi(false).fmt_fields(PlainFields).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What is to be logged cannot be told.
    #[error("log filter {0:?}: {1}")]
    Filter(String, #[source] ParseError),
    /// The writer's thread did not start.
    #[error("the log's thread: {0}")]
    Thread(#[source] io::Error),
}
