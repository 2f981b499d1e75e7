//! `cargo xtask fuzz`: random input by libFuzzer for the parsers of untrusted data.
//!
//! The targets in `fuzz/` have the layout of cargo-fuzz, and `cargo fuzz run` works there. This command does not use
//! cargo-fuzz, which needs the nightly toolchain for sanitizers (these find little in code without `unsafe`) and
//! rebuilds for each run. The instrumentation is LLVM's own pass, which stable rustc has, too. So all targets are built
//! at once with the toolchain of the workspace, and libFuzzer is compiled into them from its crate.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ambit_e2e::tools::{self, Package};
use anyhow::{Context, Result, bail, ensure};

use crate::progress::Progress;
use crate::workspace::{self, cargo};

/// The targets in `fuzz/targets`.
const TARGETS: &[&str] = &["baggage", "broker", "csr", "hbone", "hello", "http1", "xds"];

/// Seconds for each target.
const SECONDS: u32 = 60;

/// The flags of cargo-fuzz, without sanitizers.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// libFuzzer is C++.
const COMPILER: Package = Package {
    name: "g++",
    program: "c++",
    why: "libFuzzer, which the fuzz targets are linked with",
};

/// Longest input; longer ones find little that shorter ones do not.
const LONGEST: &str = "-max_len=4096";
/// Maximum of printed bytes of a failing input.
const PRINTED: usize = 4096;

/// Targets and time.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One target (a file in fuzz/targets, without its extension); all if absent.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS.iter().copied()))]
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
    /// Run this input alone, for instance one that has failed.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let programs = build(progress)?;
    let chosen = arguments.target.as_deref();
    if let (Some(target), Some(input)) = (chosen, &arguments.input) {
        return workspace::run(Command::new(programs.join(target)).arg(input));
    }
    let targets = TARGETS
        .iter()
        .filter(|target| chosen.is_none_or(|chosen| chosen == **target));
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    progress.step(
        &format!("fuzz for {}s each, {at_once} at a time", arguments.seconds),
        || {
            at_a_time(at_once, targets.copied().collect(), |target| {
                fuzz(&programs, target, arguments.seconds, progress)
            })
        },
    )
}

/// All targets, a minute each.
pub(crate) fn run_all(progress: &Progress) -> Result<()> {
    let arguments = Arguments {
        target: None,
        seconds: SECONDS,
        input: None,
    };
    run(&arguments, progress)
}

/// Compiles the targets; returns their folder.
fn build(progress: &Progress) -> Result<PathBuf> {
    tools::ensure(&[COMPILER], &|message| progress.note(message))?;
    let rustc = workspace::output(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not name its host")?;
    let folder = workspace::target().join("fuzz");
    progress.step("build the fuzz targets", || {
        let mut build = cargo(&[
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
        ]);
        // With a target, build scripts and macros are left as they are.
        build.args(["--target", host]).env("CARGO_TARGET_DIR", &folder);
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        workspace::run(build.env("RUSTFLAGS", format!("{flags} {INSTRUMENTATION}")))
    })?;
    Ok(folder.join(host).join("release"))
}

/// Does `work` on each of `targets`, this many at once; on all of them, even if one fails.
fn at_a_time(
    at_once: usize,
    targets: VecDeque<&'static str>,
    work: impl Fn(&'static str) -> Result<()> + Sync,
) -> Result<()> {
    let (queue, errors) = (Mutex::new(targets), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(target) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
                    else {
                        return;
                    };
                    if let Err(error) = work(target) {
                        errors
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

fn fuzz(programs: &Path, target: &str, seconds: u32, progress: &Progress) -> Result<()> {
    let seeds = workspace::root().join("fuzz/corpus").join(target);
    let cache = tools::cache_dir()?.join("fuzz");
    // Inputs of earlier runs, and new ones; failing inputs; libFuzzer's output.
    let (corpus, failed, log) = (
        cache.join(target),
        cache.join("failed").join(target),
        cache.join(format!("{target}.log")),
    );
    for folder in [&corpus, &failed] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let status = Command::new(programs.join(target))
        .arg(&corpus)
        .arg(&seeds)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", failed.display()))
        .args([
            LONGEST,
            "-timeout=30",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start the fuzz target {target}"))?;
    let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        let inputs = statistic(&said, "number_of_executed_units").unwrap_or("no count of");
        let rate = statistic(&said, "average_exec_per_sec").unwrap_or("?");
        progress.note(&format!(
            "{target}: {inputs} inputs, {rate} a second; none failed"
        ));
        return Ok(());
    }
    bail!(
        "fuzz target {target} ended with {status}\n{}",
        failure(target, &said, &log)
    )
}

/// A number that libFuzzer prints at its end.
fn statistic<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim)
}

/// The failure, its input, and how to reproduce it.
fn failure(target: &str, said: &str, log: &Path) -> String {
    // The program's own message precedes libFuzzer's.
    let words = said
        .lines()
        .skip_while(|line| !line.contains("panicked at") && !line.starts_with("=="))
        .take(20);
    let words = words.collect::<Vec<_>>().join("\n");
    let input = said
        .lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path.trim());
    let Some(input) = input else {
        return format!("{words}\nits whole output is in {}", log.display());
    };
    let bytes = fs::read(input).unwrap_or_default();
    let shown = bytes[..bytes.len().min(PRINTED)].escape_ascii();
    format!(
        "{words}\ninput, {} bytes: \"{shown}\"\nagain: cargo xtask fuzz {target} --input {input}",
        bytes.len()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_target_is_run_and_has_seeds() {
        let fuzz = workspace::root().join("fuzz");
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(fuzz.join(folder)).unwrap();
            let names = entries.map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            });
            names.collect()
        };
        let targets: BTreeSet<String> = TARGETS.iter().map(|target| (*target).to_owned()).collect();
        assert_eq!(names("targets"), targets);
        assert_eq!(names("corpus"), targets);
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for target in targets {
            assert!(
                manifest.contains(&format!("path = \"targets/{target}.rs\"")),
                "{target}"
            );
        }
    }

    #[test]
    fn failing_target_stops_no_other() {
        let done = AtomicUsize::new(0);
        let error = at_a_time(2, ["a", "b", "c"].into(), |target| {
            done.fetch_add(1, Ordering::Relaxed);
            ensure!(target != "a", "{target} failed");
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "a failed");
        assert_eq!(done.into_inner(), 3);
    }

    #[test]
    fn failure_has_message_input_and_command() {
        let input = std::env::temp_dir().join(format!("ambit-fuzz-{}", std::process::id()));
        fs::write(&input, b"GET \xff").unwrap();
        let said = format!(
            "INFO: seed\nthread '<unnamed>' panicked at x.rs:1\nsurprise\nartifact_prefix='/'; Test unit written to {}\n",
            input.display()
        );
        let text = failure("http1", &said, Path::new("/log"));
        fs::remove_file(&input).unwrap();
        assert!(text.contains("surprise") && !text.contains("INFO"), "{text}");
        assert!(text.contains("input, 5 bytes: \"GET \\xff\""), "{text}");
        assert!(
            text.contains(&format!("cargo xtask fuzz http1 --input {}", input.display())),
            "{text}"
        );
        assert_eq!(
            statistic("stat::average_exec_per_sec:     17\n", "average_exec_per_sec"),
            Some("17")
        );
    }
}
