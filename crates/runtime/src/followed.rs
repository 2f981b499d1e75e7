//! Small files that are followed while the program runs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file is read so often.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// A file is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("longer than {0} bytes")]
pub(crate) struct TooLong(u64);

/// A file and what was read last.
#[derive(Debug)]
pub(crate) struct FollowedFile {
    path: PathBuf,
    longest: u64,
    text: String,
}

impl FollowedFile {
    pub(crate) fn new(path: &Path, longest: u64) -> Self {
        Self {
            path: path.to_owned(),
            longest,
            text: String::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text without the white space around it, where it is another than before. While the file cannot be read, it is as before.
    pub(crate) fn changed(&mut self) -> Option<Result<&str, TooLong>> {
        let mut text = String::new();
        let file = File::open(&self.path).ok()?;
        file.take(self.longest + 1).read_to_string(&mut text).ok()?;
        if text.trim() == self.text {
            return None;
        }
        text.trim().clone_into(&mut self.text);
        if text.len() as u64 > self.longest {
            return Some(Err(TooLong(self.longest)));
        }
        Some(Ok(&self.text))
    }
}
