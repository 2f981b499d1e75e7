//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between the first two looks, and the most between any two. A look often costs a program's start, and with many of them what is
/// awaited would be waiting for a CPU.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// Tries `probe` until it succeeds. Past `limit`, the error says `what` was awaited and what was seen last.
///
/// # Errors
/// When `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, probe: impl FnMut() -> Result<T>) -> Result<T> {
    until(what, limit, || "that was the last look".into(), probe)
}

/// Tries `probe` until it succeeds. Past `limit`, the error says `what` was awaited, what was seen last, and `hint`:
/// where to look further.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    hint: impl Fn() -> String,
    probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    until_unless(what, limit, hint, || Ok(()), probe)
}

/// The same, given up at once when `go_on` fails: what is awaited cannot come any more.
pub(crate) fn until_unless<T>(
    what: &str,
    limit: Duration,
    hint: impl Fn() -> String,
    go_on: impl Fn() -> Result<()>,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let [mut pause, longest] = PAUSES;
    loop {
        go_on()?;
        match probe() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= limit => {
                bail!(
                    "waited {} s for {what}; last seen: {seen:#}; {}",
                    limit.as_secs(),
                    hint()
                )
            }
            Err(_) => {
                thread::sleep(pause);
                pause = longest.min(pause * 5 / 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_has_subject_time_and_hint() {
        let error = until::<()>(
            "rain",
            Duration::ZERO,
            || "see /var/log/sky".into(),
            || bail!("sun"),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "waited 0 s for rain; last seen: sun; see /var/log/sky"
        );
    }

    #[test]
    fn hopeless_wait_ends_early() {
        let limit = Duration::from_secs(600);
        let error = until_unless::<()>("rain", limit, String::new, || bail!("no clouds"), || bail!("sun"));
        assert_eq!(error.unwrap_err().to_string(), "no clouds");
    }

    #[test]
    fn it_ends_with_the_first_success() {
        let mut left = 2;
        let probe = || {
            left -= 1;
            if left == 0 { Ok(7) } else { bail!("not yet") }
        };
        assert_eq!(
            until("seven", Duration::from_secs(5), String::new, probe).unwrap(),
            7
        );
    }
}
