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

/// The Kubernetes client warns of each response that is no Status: also of those for kinds that the cluster does not
/// have, for which a watch asks again and again. A filter that names the module has the last word.
const QUIET: &str = "kube_client::client=error";

/// Reads a filter.
fn filter(text: &str) -> Result<EnvFilter, LogError> {
    // What an empty one means by itself: behind another directive it would silence all else.
    let given = if text.trim().is_empty() { "error" } else { text };
    EnvFilter::try_new(format!("{QUIET},{given}")).map_err(|error| LogError::Filter(text.to_owned(), error))
}

/// Starts logging with these flags. All lines are written at the latest when the guard is dropped.
///
/// # Errors
/// When the filter of the flags is malformed, or the writer's thread cannot be started.
pub fn start_log(flags: &LogFlags) -> Result<LogGuard, LogError> {
    let given = filter(&flags.filter)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubernetes_client_is_quiet_unless_a_filter_names_it() {
        for (text, expected) in [
            ("info", ["info", "kube_client::client=error"].as_slice()),
            ("", &["error", "kube_client::client=error"]),
            (
                "kube_client::client=debug,warn",
                &["warn", "kube_client::client=debug"],
            ),
        ] {
            let filter = filter(text).unwrap().to_string();
            let mut directives: Vec<&str> = filter.split(',').collect();
            directives.sort_by_key(|directive| directive.len());
            assert_eq!(directives, expected, "{filter}");
        }
        assert!(filter("louder,=").is_err());
    }
}
