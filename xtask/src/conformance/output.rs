//! What a Go test program prints, test by test.

use std::fmt;
use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use chrono::DateTime;

/// Before every line about the tests themselves.
const MARK: char = '\u{16}';

/// The test whose parts are the tests of the suite.
const ROOT: &str = "TestConformance";

/// Messages that are kept of a test, from its end.
const KEPT: usize = 3;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// A test of the suite that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) verdict: Verdict,
    /// As Go prints it: `1.20s`.
    pub(super) took: String,
    /// The last messages of a test that has not passed.
    pub(super) said: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Passed => "PASS",
            Verdict::Failed => "FAIL",
            Verdict::Skipped => "SKIP",
        };
        write!(formatter, "{verdict} {} ({})", self.name, self.took)?;
        self.said
            .iter()
            .try_for_each(|line| write!(formatter, "\n     {line}"))
    }
}

/// Reads all output, copies it to `log`, and calls `ended` for each test of the suite as it ends.
pub(super) fn read(
    input: impl BufRead,
    log: &mut impl Write,
    mut ended: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let (mut outcomes, mut said) = (Vec::new(), Vec::new());
    for line in input.split(b'\n') {
        let line = line.context("cannot read the output of the conformance tests")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(log, "{}", line.trim_start_matches(MARK)).context("cannot write the log")?;
        match line.strip_prefix(MARK) {
            None => said.extend(message(&line)),
            Some(mark) => {
                let Some((verdict, name, took)) = end(mark) else {
                    continue;
                };
                let name = match name.split_once('/') {
                    // Parts of a test are reported after the test.
                    Some((ROOT, name)) if !name.contains('/') => name,
                    // The suite itself, where not even its first test was reached.
                    None if verdict == Verdict::Failed && outcomes.is_empty() => name,
                    _ => continue,
                };
                let mut said = std::mem::take(&mut said);
                if verdict == Verdict::Passed {
                    said.clear();
                }
                said.drain(..said.len().saturating_sub(KEPT));
                let outcome = Outcome {
                    name: name.to_owned(),
                    verdict,
                    took: took.to_owned(),
                    said,
                };
                ended(&outcome);
                outcomes.push(outcome);
            }
        }
    }
    Ok(outcomes)
}

/// Reads `    --- PASS: TestConformance/MeshBasic (1.20s)`.
fn end(line: &str) -> Option<(Verdict, &str, &str)> {
    let (verdict, rest) = line.trim_start().strip_prefix("--- ")?.split_once(": ")?;
    let verdict = match verdict {
        "PASS" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "SKIP" => Verdict::Skipped,
        _ => return None,
    };
    let (name, took) = rest.rsplit_once(" (")?;
    Some((verdict, name, took.trim_end_matches(')')))
}

/// The text of `    pod.go:60: 2026-01-02T03:04:05.678Z: text` and of `        Error: text`, unless the text only repeats what a server
/// has returned, or says what is done.
fn message(line: &str) -> Option<String> {
    let line = line.strip_prefix("    ")?.trim_start();
    if let Some(text) = ["Error:", "Messages:"]
        .iter()
        .find_map(|start| line.strip_prefix(start))
    {
        return Some(text.trim().to_owned());
    }
    let (place, text) = line.split_once(": ")?;
    let (file, number) = place.rsplit_once(':')?;
    if !file.ends_with(".go") || number.parse::<u32>().is_err() {
        return None;
    }
    let text = match text.split_once(": ") {
        Some((time, text)) if DateTime::parse_from_rfc3339(time).is_ok() => text,
        _ => text,
    };
    let noise = [
        "Got resp ",
        "Applying ",
        "Creating ",
        "Deleting ",
        "Updating ",
        "Running ",
    ];
    let noise = noise.iter().any(|start| text.starts_with(start));
    (!noise && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\u{16}=== RUN   TestConformance\n    conformance.go:99: Running conformance tests with:\n\
        \u{16}=== RUN   TestConformance/MeshBasic\n\u{16}=== RUN   TestConformance/MeshBasic/0_request\n\
        \u{20}   pod.go:72: 2026-01-02T03:04:05.678Z: Got resp RawContent: x\nX-Header: y\n\
        \u{16}    --- PASS: TestConformance/MeshBasic (1.20s)\n\u{16}        --- PASS: TestConformance/MeshBasic/0_request (1.00s)\n\
        \u{16}=== RUN   TestConformance/MeshPorts\n    pod.go:74: 2026-01-02T03:04:05.678Z: first\n    pod.go:74: second: third\n\
        \u{20}       http.go:9: 2026-01-02T03:04:05.678Z: fourth\n    http.go:10: fifth\n\
        \u{16}    --- FAIL: TestConformance/MeshPorts (31.00s)\n\u{16}    --- SKIP: TestConformance/MeshFrontend (0.00s)\n\
        \u{16}--- FAIL: TestConformance (33.00s)\n";

    #[test]
    fn every_test_has_its_verdict_and_messages() {
        let (mut log, mut seen) = (Vec::new(), Vec::new());
        let outcomes = read(OUTPUT.as_bytes(), &mut log, |outcome| {
            seen.push(outcome.to_string())
        })
        .unwrap();
        assert_eq!(
            seen,
            [
                "PASS MeshBasic (1.20s)",
                "FAIL MeshPorts (31.00s)\n     second: third\n     fourth\n     fifth",
                "SKIP MeshFrontend (0.00s)",
            ]
        );
        assert_eq!(outcomes[1].verdict, Verdict::Failed);
        let log = String::from_utf8(log).unwrap();
        assert!(log.contains("X-Header: y\n    --- PASS"), "{log}");
    }

    #[test]
    fn failed_setup_is_a_failure() {
        let output = "\u{16}=== RUN   TestConformance\n    helpers.go:4: \n        \tError Trace:\tx.go:1\n        \tError:      \tno pods\n\
            \u{16}--- FAIL: TestConformance (300.00s)\n";
        let outcomes = read(output.as_bytes(), &mut Vec::new(), |_| {}).unwrap();
        assert_eq!(outcomes.len(), 1);
        assert_eq!(
            outcomes[0].to_string(),
            "FAIL TestConformance (300.00s)\n     no pods"
        );
    }
}
