//! The log, on standard output. Logging never blocks: a separate thread writes. Lines that it cannot take are dropped
//! and counted.

mod error;
mod fields;
mod follow;
mod throttle;
mod writer;

use std::io;

use tracing_subscriber::EnvFilter;

use crate::flags::{LogFlags, LogFormat};
pub use error::LogError;
use fields::PlainFields;
use follow::FilterFile;
pub use throttle::log_permit;
pub(crate) use throttle::suppressed_lines;
use writer::Collector;
pub use writer::LogGuard;
pub(crate) use writer::dropped_lines;

/// Starts logging with these flags. All lines are written at the latest when the guard is dropped.
///
/// # Errors
/// When the filter of the flags is malformed, or the writer's thread cannot be started.
pub fn start_log(flags: &LogFlags) -> Result<LogGuard, LogError> {
    let given =
        EnvFilter::try_new(&flags.filter).map_err(|error| LogError::Filter(flags.filter.clone(), error))?;
    let mut file = flags.filter_file.as_deref().map(FilterFile::new);
    let (filter, mistake) = match file.as_mut().and_then(FilterFile::changed) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (given, Some(error)),
        None => (given, None),
    };
    let (lines, guard) = Collector::start(io::stdout()).map_err(LogError::Thread)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines);
    match flags.format {
        LogFormat::Text => {
            let log = log
                .with_ansi(false)
                .fmt_fields(PlainFields)
                .with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            file.map_or(Ok(()), |file| file.follow(handle))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            file.map_or(Ok(()), |file| file.follow(handle))
        }
    }
    .map_err(LogError::Thread)?;
    if let Some(error) = mistake {
        tracing::warn!(%error, "cannot use the log filter in the file; using the filter of the flags");
    }
    Ok(guard)
}
