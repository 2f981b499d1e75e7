//! Runs h2spec, which tries what RFC 9113 and RFC 7541 say of servers.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the program. `cargo xtask test` builds it and sets this.
pub const PROGRAM: &str = "AMBIT_H2SPEC";

/// Seconds that a server has for each step of a case; most take milliseconds.
const PATIENCE: &str = "3";

/// Tries of all cases. Of many it is chance whether the server has ended a stream before h2spec's next frame, which then meets another
/// state than the case is about; and a machine may be busy.
const ROUNDS: usize = 3;

/// There are 145 cases; some are skipped for servers that have no use for them.
const FEWEST: usize = 130;

/// What h2spec found.
struct Report {
    /// Cases that the server passed.
    passed: usize,
    /// Cases that it did not pass, each as `section: what is sent`.
    failed: Vec<String>,
    /// All that h2spec said.
    output: String,
}

/// Tries the server at `address`, in plaintext. Where [`PROGRAM`] is not set it is left at that, which is said.
///
/// # Errors
/// When the program cannot be run, or leaves no report.
///
/// # Panics
/// Where a case was never passed that is none of `exceptions`.
pub async fn assert_passes(address: SocketAddr, exceptions: &'static [&'static str]) -> io::Result<()> {
    let Some(program) = std::env::var_os(PROGRAM).map(PathBuf::from) else {
        eprintln!("skipped: {PROGRAM} does not name h2spec; `cargo xtask test` builds it");
        return Ok(());
    };
    let mut never: Option<Vec<String>> = None;
    let mut said = String::new();
    for _ in 0..ROUNDS {
        let program = program.clone();
        // A thread of its own waits for the program, so that the server under test goes on.
        let ran = tokio::task::spawn_blocking(move || try_all(&program, address));
        let report = ran.await.map_err(io::Error::other)??;
        let count = report.passed + report.failed.len();
        assert!(
            count >= FEWEST,
            "only {count} cases were tried\n{}",
            report.output
        );
        let failed = report.failed.into_iter().filter(|case| {
            !exceptions.contains(&case.as_str()) && never.as_ref().is_none_or(|never| never.contains(case))
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            return Ok(());
        }
        (never, said) = (Some(failed), report.output);
    }
    panic!("not passed: {never:#?}\n{said}");
}

fn try_all(program: &Path, address: SocketAddr) -> io::Result<Report> {
    let file = format!("ambit-h2spec-{}-{}.xml", std::process::id(), address.port());
    let file = std::env::temp_dir().join(file);
    let ran = Command::new(program)
        .args(["--host", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--timeout", PATIENCE])
        .arg("--junit-report")
        .arg(&file)
        .output()?;
    let report = std::fs::read_to_string(&file);
    // The report is read; a file that is left is no error of the server's.
    let _ = std::fs::remove_file(&file);
    let output = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    Ok(read(&report?, output.into_owned()))
}

/// Reads a JUnit report.
fn read(report: &str, output: String) -> Report {
    let (mut passed, mut failed) = (0, Vec::new());
    for case in report.split("<testcase ").skip(1) {
        if case.contains("<failure") || case.contains("<error") {
            let [section, what] = ["package", "classname"].map(|name| attribute(case, name));
            failed.push(format!("{section}: {what}"));
        } else if !case.contains("<skipped") {
            passed += 1;
        }
    }
    Report {
        passed,
        failed,
        output,
    }
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let value = element.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    value.and_then(|rest| rest.split('"').next()).unwrap_or_default()
}
