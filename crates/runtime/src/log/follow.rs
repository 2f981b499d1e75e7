//! A log filter in a file. The program follows changes of the file, so a changed level needs no restart.

use std::io;
use std::path::Path;
use std::thread;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::{self, Handle};

use super::error::LogError;
use crate::followed::{FollowedFile, LOOK};

/// Longest filter, in bytes.
const LONGEST: u64 = 1024;

/// The file.
pub(super) struct FilterFile(FollowedFile);

impl FilterFile {
    pub(super) fn new(path: &Path) -> Self {
        Self(FollowedFile::new(path, LONGEST))
    }

    /// The filter in the file if it has changed. While the file cannot be read, it counts as unchanged.
    pub(super) fn changed(&mut self) -> Option<Result<EnvFilter, LogError>> {
        Some(match self.0.changed()? {
            Ok(text) => super::filter(text),
            Err(_) => Err(LogError::Length),
        })
    }

    /// Reads the file once. A filter that cannot be parsed changes nothing, and is reported once.
    fn look<S>(&mut self, handle: &Handle<EnvFilter, S>) -> Result<(), reload::Error> {
        match self.changed() {
            None => Ok(()),
            Some(Ok(filter)) => {
                let text = filter.to_string();
                handle.reload(filter)?;
                tracing::info!(filter = text, "the log filter has changed");
                Ok(())
            }
            Some(Err(error)) => {
                tracing::warn!(%error, path = %self.0.path().display(), "cannot use the log filter in the file; keeping the current filter");
                Ok(())
            }
        }
    }

    /// Follows the file as long as the log exists.
    pub(super) fn follow<S: 'static>(mut self, handle: Handle<EnvFilter, S>) -> io::Result<()> {
        let thread = thread::Builder::new().name("log-filter".to_owned());
        thread.spawn(move || {
            while self.look(&handle).is_ok() {
                thread::sleep(LOOK);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_changed_level_holds_without_a_restart() {
        let path = std::env::temp_dir().join(format!("ambit-log-filter-{}", std::process::id()));
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info"))
            .with_writer(move || writer.clone())
            .with_filter_reloading();
        let handle = log.reload_handle();
        let logged = |text: &str| String::from_utf8_lossy(&lines.0.lock().unwrap()).contains(text);
        let mut file = FilterFile::new(&path);
        tracing::subscriber::with_default(log.finish(), || {
            file.look(&handle).unwrap();
            tracing::debug!("before");
            std::fs::write(&path, "debug\n").unwrap();
            file.look(&handle).unwrap();
            tracing::debug!("during");
            std::fs::write(&path, "louder,=").unwrap();
            file.look(&handle).unwrap();
            tracing::debug!("malformed");
            std::fs::write(&path, "x".repeat(2000)).unwrap();
            file.look(&handle).unwrap();
            tracing::debug!("long");
            std::fs::write(&path, "warn").unwrap();
            file.look(&handle).unwrap();
            tracing::info!("after");
        });
        std::fs::remove_file(&path).unwrap();
        assert!(
            !logged("before"),
            "without a file, the filter of the flags is in force"
        );
        assert!(logged("during"));
        assert!(
            logged("malformed") && logged("keeping the current filter"),
            "a filter that cannot be parsed changes nothing"
        );
        assert!(logged("long"));
        assert!(!logged("after"));
    }
}
