//! The output for a person at the terminal: steps with their duration, and installed tools.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) use ambit_e2e::long::seconds;
use anyhow::Result;

/// Reports the steps of one command on standard error; its result goes to standard output.
pub(crate) struct Progress {
    start: Instant,
    /// Steps in progress: they nest.
    depth: AtomicUsize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            depth: AtomicUsize::new(0),
        }
    }

    /// Runs one step and reports its name, its start and its duration.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.line("▸", name);
        let start = Instant::now();
        self.depth.fetch_add(1, Ordering::Relaxed);
        let result = work();
        self.depth.fetch_sub(1, Ordering::Relaxed);
        let took = seconds(start.elapsed());
        match &result {
            Ok(_) => self.line("✓", &format!("{name} ({took})")),
            Err(_) => self.line("✗", &format!("{name} (failed after {took})")),
        }
        result
    }

    /// One line about the progress within a step.
    pub(crate) fn note(&self, text: &str) {
        for line in text.lines() {
            self.line("·", line);
        }
    }

    /// The end of a failed command: the error, then each cause.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.line("✗", &format!("{error:#}"));
    }

    /// Time since the command began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn line(&self, sign: &str, text: &str) {
        let depth = "  ".repeat(self.depth.load(Ordering::Relaxed));
        let at = seconds(self.start.elapsed());
        // A closed terminal is not an error.
        let _ = writeln!(std::io::stderr().lock(), "[{at:>7}] {depth}{sign} {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_hands_its_result_on() {
        let progress = Progress::new();
        assert_eq!(progress.step("seven", || Ok(7)).unwrap(), 7);
        assert!(progress.step::<()>("fails", || anyhow::bail!("no")).is_err());
        assert_eq!(progress.depth.load(Ordering::Relaxed), 0);
    }
}
