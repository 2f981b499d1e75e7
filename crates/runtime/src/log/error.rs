//! Errors of the log.

use std::io;

use tracing_subscriber::filter::ParseError;

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be parsed.
    #[error("log filter {0:?}: {1}")]
    Filter(String, #[source] ParseError),
    /// The filter in the file is too long.
    #[error("log filter: longer than 1024 bytes")]
    Length,
    /// The writer's thread did not start.
    #[error("cannot start the thread of the log: {0}")]
    Thread(#[source] io::Error),
}
