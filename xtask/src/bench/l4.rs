//! `cargo xtask bench l4`: the pair of ztunnels against the direct path, in the same run.

use std::{fs, thread};

use ambit_bench::{Report, Work};
use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::mesh;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;

use super::load::{FLOOD, LOADS};
use super::machine;
use super::proxy::Ztunnel;
use super::stage::{Pods, Stage};
use super::table::{Footprint, Row, Sample, Table};
use crate::images::{self, Profile};
use crate::progress::Progress;
use crate::workspace;

/// How to run it.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The cluster: made for the benchmark and removed after it, unless it is there already; the Ambit on it is then
    /// measured as it is.
    #[arg(long, default_value = "ambit-bench")]
    name: String,
    /// Leave the cluster up that was made, with the pods.
    #[arg(long)]
    keep: bool,
    /// How often each work is measured on each path; the paths take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement lasts, in seconds.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Client and server on the same node, too.
    #[arg(long)]
    same_node: bool,
}

/// Before each measurement, in seconds: certificates, connections between the proxies and buffers are there then.
const WARMUP: f64 = 1.0;

/// Runs it, prints the table and writes it to `bench/results/l4.md`.
pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    ensure!(
        arguments.rounds > 0,
        "--rounds is 0: there would be nothing to tell"
    );
    let existing = Cluster::status(&arguments.name)?.healthy();
    let result = measure(arguments, existing, progress);
    if !arguments.keep {
        let cleaned = if existing {
            Cluster::attach(&arguments.name).and_then(|cluster| Stage::strike(&cluster))
        } else {
            progress.step("remove the cluster", || Cluster::down(&arguments.name))
        };
        // What went wrong first is what there is to know.
        if result.is_ok() {
            cleaned?;
        }
    }
    let table = result?;
    let text = table.to_string();
    let path = workspace::root().join("bench/results/l4.md");
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{text}");
    progress.note(&format!("written to {}", path.display()));
    if table.failures() > 0 {
        bail!(
            "{} requests or connections failed; the lines below the table say which",
            table.failures()
        );
    }
    Ok(())
}

fn measure(arguments: &Arguments, existing: bool, progress: &Progress) -> Result<Table> {
    let mut machine = machine::line()?;
    let archives = images::build(Profile::Dist, progress)?;
    let spec = Spec {
        name: arguments.name.clone(),
        nodes: 2,
    };
    let cluster = if existing {
        Cluster::attach(&spec.name)?
    } else {
        let title = format!("cluster {}", spec.name);
        progress.step(&title, || Cluster::up(&spec, &|message| progress.note(message)))?
    };
    images::load(&cluster, &archives, progress)?;
    if existing && cluster.get(&["mesh", "default"]).is_ok() {
        progress.note(&format!("measuring the Ambit that runs on {} already", spec.name));
        mesh::wait_ready(&cluster)?;
        machine.push_str(&format!(
            "; the Ambit found on cluster {}, whatever it was built from",
            spec.name
        ));
    } else {
        progress.step("install Ambit", || {
            mesh::install(&cluster, &|message| progress.note(message))?;
            mesh::apply(&cluster, mesh::MESH)
        })?;
    }
    let stage = Stage::set(&cluster, progress)?;
    let ztunnels = [&stage.source, &stage.destination];
    let before = ztunnels.map(Ztunnel::memory);
    let places: &[bool] = if arguments.same_node {
        &[false, true]
    } else {
        &[false]
    };
    let rows = places
        .iter()
        .flat_map(|same_node| LOADS.iter().map(|load| Row::new(load, *same_node)));
    let mut rows: Vec<Row> = rows.collect();
    for round in 1..=arguments.rounds {
        progress.step(&format!("round {round} of {}", arguments.rounds), || {
            rows.iter_mut()
                .try_for_each(|row| one(&stage, arguments.seconds, row, progress))
        })?;
    }
    let memory = ztunnels.into_iter().zip(before).map(|(ztunnel, before)| {
        Ok(Footprint {
            node: ztunnel.node.clone(),
            before: before?,
            after: ztunnel.memory()?,
        })
    });
    Ok(Table {
        machine,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        rows,
        memory: memory.collect::<Result<_>>()?,
    })
}

/// Measures one work once on either path.
fn one(stage: &Stage, seconds: f64, row: &mut Row, progress: &Progress) -> Result<()> {
    let direct = ask(stage, &stage.direct, row, seconds)?;
    let before = [stage.source.cpu()?, stage.destination.cpu()?];
    let mesh = ask(stage, &stage.mesh, row, seconds)?;
    let cpu = [
        stage.source.cpu()? - before[0],
        stage.destination.cpu()? - before[1],
    ];
    let idle = cpu[0] == 0.0 || (cpu[1] == 0.0 && !row.same_node);
    if row.load.work == Work::Throughput && idle {
        bail!(
            "{}: a ztunnel used no processor time (source {} s, destination {} s): the bytes went round it",
            row.name(),
            cpu[0],
            cpu[1]
        );
    }
    let sample = Sample { direct, mesh, cpu };
    progress.note(&row.line(&sample));
    row.samples.push(sample);
    Ok(())
}

/// Runs a client in one namespace, against a server in the same.
fn ask(stage: &Stage, pods: &Pods, row: &Row, seconds: f64) -> Result<Report> {
    let server = if row.same_node {
        &pods.neighbour
    } else {
        &pods.server
    };
    let what = || format!("{} against {} in {}", row.name(), server.name, server.namespace);
    let command = row.load.command(&server.ip.to_string(), seconds, WARMUP);
    let printed = if row.load.flooded {
        // From before the measurement until after it.
        let flood = FLOOD.command(&server.ip.to_string(), seconds + 2.0 * WARMUP, WARMUP);
        let (printed, flood) = thread::scope(|scope| {
            let flood = scope.spawn(|| stage.flooder(pods, &flood));
            let printed = stage.client(pods, &command);
            (printed, flood.join())
        });
        let flood = flood.map_err(|_| anyhow!("{}: the flood was lost", what()))?;
        let flood: Report = serde_json::from_str(&flood.with_context(what)?)?;
        ensure!(flood.total > 0, "{}: there was no flood", what());
        printed.with_context(what)?
    } else {
        stage.client(pods, &command).with_context(what)?
    };
    let report: Report = serde_json::from_str(&printed)
        .with_context(|| format!("{}: ambit-bench printed {printed}", what()))?;
    if report.total == 0 {
        bail!(
            "{}: nothing went through; {}",
            what(),
            report.first_error.unwrap_or_default()
        );
    }
    Ok(report)
}
