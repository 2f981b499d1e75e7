//! `cargo xtask bench l7`: our waypoint beside Envoy as a waypoint, and plain reverse proxies for scale, in the same
//! run.

mod config;
mod contestant;
mod peers;
mod stage;
mod started;
mod table;

use std::fs;
use std::path::Path;

use ambit_bench::Report;
use ambit_bench::l7::{SERVICE_PORT, Verdict, WAYPOINT, spiffe_id};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::machine;
use super::process::Usage;
use crate::images::{self, Profile};
use crate::progress::Progress;
use crate::workspace;
use contestant::{Contestant, Group};
use peers::Peers;
use stage::{Stage, Target};
use table::{LOADS, Load, Measured, Row, Sample, Table};

/// How to run it.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each proxy is started and measured; they take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement lasts, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only these, and the table is printed but not written.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Measure the binaries that are there from an earlier run, whatever they were built from.
    #[arg(long)]
    no_build: bool,
}

/// Before each measurement, in seconds: connections and buffers are there then.
const WARMUP: f64 = 1.0;

/// Runs it, prints the table and writes it to `bench/results/l7.md`, with its picture.
pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    ensure!(
        arguments.rounds > 0,
        "--rounds is 0: there would be nothing to tell"
    );
    let mut machine = machine::line()?;
    let contestants = if arguments.only.is_empty() {
        Contestant::ALL.to_vec()
    } else {
        arguments.only.clone()
    };
    let binaries = if arguments.no_build {
        machine.push_str("; binaries of an earlier build");
        images::folder(Profile::Dist)?
    } else {
        progress.step("build static binaries", || {
            images::binaries(Profile::Dist, &["ambit-bench-l7"], progress)
        })?
    };
    let peers = progress.step("the other proxies", || Peers::ensure(&contestants, progress))?;
    let stage = progress.step("two network namespaces, and the backend", || {
        Stage::set(&binaries)
    })?;
    let mut rows: Vec<Row> = contestants.into_iter().map(Row::new).collect();
    for round in 1..=arguments.rounds {
        progress.step(&format!("round {round} of {}", arguments.rounds), || {
            rows.iter_mut()
                .try_for_each(|row| one(&stage, &peers, arguments.seconds, row, progress))
        })?;
    }
    drop(stage);
    let table = Table {
        machine,
        versions: peers.versions()?,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        rows,
    };
    let text = table.to_string();
    println!("{text}");
    if arguments.only.is_empty() {
        write(&workspace::root().join("bench/results/l7.md"), &text, progress)?;
        super::plots::run(progress)?;
    }
    if table.failures() > 0 {
        bail!(
            "{} requests failed; the lines below the tables say which",
            table.failures()
        );
    }
    Ok(())
}

fn write(path: &Path, text: &str, progress: &Progress) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    progress.note(&format!("written to {}", path.display()));
    Ok(())
}

/// Starts a proxy, makes sure that it does what it is to do, measures each load once, and stops it.
fn one(stage: &Stage, peers: &Peers, seconds: f64, row: &mut Row, progress: &Progress) -> Result<()> {
    let contestant = row.contestant;
    let measure = |load: &Load, usage: &dyn Fn() -> Result<Option<Usage>>| -> Result<Option<Measured>> {
        if !load.suits(contestant) {
            return Ok(None);
        }
        let before = usage()?;
        let report = ask(stage, &stage.target(contestant, load.port()), load, seconds)?;
        let used = usage()?.zip(before).map(|(after, before)| after.since(before));
        Ok(Some(Measured { report, used }))
    };
    let sample = if contestant.is_direct() {
        check(
            contestant,
            &stage.verdict(&stage.target(contestant, SERVICE_PORT))?,
        )?;
        let works = LOADS.iter().map(|load| measure(load, &|| Ok(None)));
        Sample {
            start_ms: None,
            fresh_mib: None,
            peak_mib: None,
            works: works.collect::<Result<_>>()?,
        }
    } else {
        let proxy = stage.start(contestant, peers)?;
        let measured = || -> Result<Sample> {
            check(contestant, &proxy.verdict)?;
            let fresh = proxy.memory()?.now;
            let works = LOADS
                .iter()
                .map(|load| measure(load, &|| proxy.usage().map(Some)));
            Ok(Sample {
                works: works.collect::<Result<_>>()?,
                start_ms: Some(proxy.start.as_secs_f64() * 1000.0),
                fresh_mib: Some(fresh),
                peak_mib: Some(proxy.memory()?.peak),
            })
        };
        let sample = measured().with_context(|| proxy.said())?;
        proxy.stop()?;
        sample
    };
    progress.note(&row.line(&sample));
    row.samples.push(sample);
    Ok(())
}

/// A proxy that does not enforce the policy, or does not speak as itself, does less than it is measured for.
fn check(contestant: Contestant, verdict: &Verdict) -> Result<()> {
    let name = contestant.name();
    let (delete, peer) = match contestant.group() {
        Group::Hbone if contestant.is_direct() => (200, spiffe_id(ambit_bench::l7::CLIENT)),
        Group::Hbone => (403, spiffe_id(WAYPOINT)),
        Group::Http => (200, String::new()),
    };
    ensure!(verdict.get == 200, "{name}: a GET was answered {}", verdict.get);
    ensure!(
        verdict.delete == delete,
        "{name}: a DELETE was answered {}, not {delete}",
        verdict.delete
    );
    ensure!(
        verdict.peer == peer,
        "{name}: the backend saw {:?}, not {peer:?}",
        verdict.peer
    );
    Ok(())
}

fn ask(stage: &Stage, target: &Target, load: &Load, seconds: f64) -> Result<Report> {
    let report = stage.load(target, &load.arguments(seconds, WARMUP))?;
    if report.total == 0 {
        bail!(
            "{}: nothing went through; {}",
            load.name,
            report.first_error.unwrap_or_default()
        );
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unexpected_proxy_is_not_measured() {
        let verdict = |delete, account: &str| Verdict {
            get: 200,
            delete,
            peer: spiffe_id(account),
        };
        assert!(check(Contestant::Ambit, &verdict(403, "waypoint")).is_ok());
        let error = check(Contestant::Ambit, &verdict(200, "waypoint")).unwrap_err();
        assert!(error.to_string().contains("DELETE"), "{error}");
        let error = check(Contestant::Envoy, &verdict(403, "client")).unwrap_err();
        assert!(error.to_string().contains("backend saw"), "{error}");
        assert!(check(Contestant::DirectHbone, &verdict(200, "client")).is_ok());
    }
}
