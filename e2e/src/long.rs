//! Commands that take minutes: every 15 seconds a line says what runs, for how long, and how far it is, on a terminal
//! or not.

use std::io::{BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::shell;
use crate::tools::Progress;

const INTERVAL: Duration = Duration::from_secs(15);

/// Lines of a failed command that its error quotes.
const QUOTED: usize = 100;

/// Runs a command to its end and returns its standard output. `far` is called with each line of its standard error, and
/// returns how far the command is (maybe nothing yet) where the line says so; the other lines are quoted if the command
/// fails.
///
/// # Errors
/// When the command cannot be started, or does not succeed.
pub fn run(
    command: &mut Command,
    name: &str,
    far: impl FnMut(&str) -> Option<String>,
    progress: Progress,
) -> Result<String> {
    every(INTERVAL, command, name, far, progress)
}

fn every(
    interval: Duration,
    command: &mut Command,
    name: &str,
    mut far: impl FnMut(&str) -> Option<String>,
    progress: Progress,
) -> Result<String> {
    let words = shell::words(command);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{words}`"))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let output = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        scope.spawn(move || lines(stderr, &sender));
        let (mut seen, mut kept) = (String::new(), Vec::new());
        let mut next = start + interval;
        loop {
            match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => match far(&line) {
                    Some(text) if text.is_empty() => seen.clear(),
                    Some(text) => seen = format!(", {text}"),
                    None => kept.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next {
                progress(&format!("{name}: {}{seen}", seconds(start.elapsed())));
                next += interval;
            }
        }
        let output = output.join().map_err(|_| anyhow!("the reader panicked"))??;
        let output = String::from_utf8_lossy(&output).into_owned();
        let status = child.wait().with_context(|| format!("`{words}` was lost"))?;
        if !status.success() {
            // Some programs print their errors to standard output.
            let said = if kept.is_empty() { output } else { kept.join("\n") };
            bail!("`{words}` ended with {status}:\n{}", shell::tail(&said, QUOTED));
        }
        Ok(output)
    })
}

/// Sends each line; a bar of progress ends its lines with carriage returns.
fn lines(input: impl Read, to: &Sender<String>) {
    let mut line = Vec::new();
    for byte in BufReader::new(input).bytes().map_while(Result::ok) {
        if !matches!(byte, b'\r' | b'\n') {
            line.push(byte);
        } else if !line.is_empty() {
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if to.send(text).is_err() {
                return;
            }
        }
    }
    if !line.is_empty() {
        let _ = to.send(String::from_utf8_lossy(&line).into_owned());
    }
}

/// A duration as people read it: `3.2s`, `2m 05s`.
pub fn seconds(duration: Duration) -> String {
    let tenths = duration.as_millis() / 100;
    if tenths < 600 {
        format!("{}.{}s", tenths / 10, tenths % 10)
    } else {
        format!("{}m {:02}s", tenths / 600, tenths / 10 % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn shell(script: &str, interval: u64) -> (Result<String>, Vec<String>) {
        let noted = RefCell::new(Vec::new());
        let far = |line: &str| Some(format!("{} of 3", line.strip_prefix("step ")?));
        let result = every(
            Duration::from_millis(interval),
            Command::new("sh").args(["-c", script]),
            "count",
            far,
            &|line| noted.borrow_mut().push(line.to_owned()),
        );
        (result, noted.into_inner())
    }

    #[test]
    fn a_silent_command_and_a_talking_one_are_reported() {
        let (result, noted) = shell("printf 'step 1\\rstep 2\\r' >&2; sleep 0.5; echo out", 100);
        assert_eq!(result.unwrap(), "out\n");
        assert!(noted.iter().any(|line| line.ends_with("s, 2 of 3")), "{noted:?}");
        let talking = "i=0; while [ $i -lt 50 ]; do echo step $i >&2; sleep 0.01; i=$((i+1)); done";
        let (result, noted) = shell(talking, 100);
        result.unwrap();
        assert!(noted.len() > 1, "{noted:?}");
    }

    #[test]
    fn a_failure_quotes_what_is_no_progress() {
        let (result, noted) = shell("echo step 1 >&2; echo broken >&2; exit 3", 60_000);
        let error = result.unwrap_err().to_string();
        assert!(error.contains('3') && error.ends_with("\nbroken"), "{error}");
        assert!(noted.is_empty());
        let (result, _) = shell("echo broken; exit 3", 60_000);
        assert!(result.unwrap_err().to_string().ends_with("\nbroken"));
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(3_249)), "3.2s");
        assert_eq!(seconds(Duration::from_millis(59_990)), "59.9s");
        assert_eq!(seconds(Duration::from_secs(65)), "1m 05s");
        assert_eq!(seconds(Duration::from_secs(3_600)), "60m 00s");
    }
}
