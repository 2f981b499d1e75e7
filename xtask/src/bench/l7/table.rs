//! What the rounds came to, as tables.

#[cfg(test)]
mod tests;

use std::fmt::{self, Formatter};

use ambit_bench::l7::{GRPC_PORT, SERVICE_PORT};
use ambit_bench::{Latency, Report, median};

use super::contestant::{Contestant, Group};
use crate::bench::process::Usage;

/// One load: a column.
pub(super) struct Load {
    /// What the table calls it.
    pub(super) name: &'static str,
    /// Requests at a time.
    streams: usize,
    /// Requests a second; none: as many as there are answers.
    rate: Option<u32>,
    shape: Shape,
}

/// What a request is; the names are arguments of `ambit-bench-l7 load`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Get,
    Post,
    Grpc,
}

const fn load(name: &'static str, streams: usize, rate: Option<u32>, shape: Shape) -> Load {
    Load {
        name,
        streams,
        rate,
        shape,
    }
}

/// All of them.
pub(super) const LOADS: [Load; 5] = [
    load("16 streams", 16, None, Shape::Get),
    load("64 streams", 64, None, Shape::Get),
    load("1000/s", 16, Some(1000), Shape::Get),
    load("POST of 16 KiB, 16 streams", 16, None, Shape::Post),
    load("gRPC, 16 calls", 16, None, Shape::Grpc),
];
/// Their indices.
const FEW: usize = 0;
const MANY: usize = 1;
const RATED: usize = 2;
const POST: usize = 3;
const GRPC: usize = 4;

impl Load {
    /// The port of the Service that it is for.
    pub(super) fn port(&self) -> u16 {
        match self.shape {
            Shape::Grpc => GRPC_PORT,
            Shape::Get | Shape::Post => SERVICE_PORT,
        }
    }

    /// Whether the contestant is told how to do it.
    pub(super) fn suits(&self, contestant: Contestant) -> bool {
        self.shape != Shape::Grpc || (contestant.group() == Group::Hbone && contestant.routes() == 0)
    }

    /// What `ambit-bench-l7 load` receives.
    pub(super) fn arguments(&self, seconds: f64, warmup: f64) -> Vec<String> {
        let mut arguments = vec![
            format!("--streams={}", self.streams),
            format!("--seconds={seconds}"),
            format!("--warmup={warmup}"),
        ];
        match self.shape {
            Shape::Get => {}
            Shape::Post => arguments.push("--shape=post".into()),
            Shape::Grpc => arguments.push("--shape=grpc".into()),
        }
        arguments.extend(self.rate.map(|rate| format!("--rate={rate}")));
        arguments
    }
}

/// The whole result, in Markdown.
pub(super) struct Table {
    /// On what, when and of which sources.
    pub(super) machine: String,
    /// The other proxies, one line each.
    pub(super) versions: Vec<String>,
    pub(super) rounds: usize,
    /// Of one measurement.
    pub(super) seconds: f64,
    pub(super) rows: Vec<Row>,
}

/// A proxy, or none, and what was measured of it.
pub(super) struct Row {
    pub(super) contestant: Contestant,
    pub(super) samples: Vec<Sample>,
}

/// A round of one row.
pub(super) struct Sample {
    /// From the proxy's start to its first response.
    pub(super) start_ms: Option<f64>,
    /// Its memory then.
    pub(super) fresh_mib: Option<f64>,
    /// The most that it had, at the end.
    pub(super) peak_mib: Option<f64>,
    /// In the order of [`LOADS`]; none where it does not suit.
    pub(super) works: Vec<Option<Measured>>,
}

impl Sample {
    fn work(&self, load: usize) -> Option<&Measured> {
        self.works.get(load)?.as_ref()
    }

    fn rate(&self, load: usize) -> Option<f64> {
        Some(self.work(load)?.report.per_second)
    }

    fn cost(&self, load: usize) -> Option<f64> {
        self.work(load)?.cost()
    }

    fn latency(&self) -> Option<Latency> {
        self.work(RATED)?.report.latency
    }
}

/// One load in one round.
pub(super) struct Measured {
    pub(super) report: Report,
    /// What the proxy used meanwhile.
    pub(super) used: Option<Usage>,
}

impl Measured {
    /// Microseconds of the proxy's processor time for a request.
    fn cost(&self) -> Option<f64> {
        Some(self.used?.seconds() * 1e6 / self.report.total as f64)
    }

    /// Those of them in kernel mode.
    fn kernel(&self) -> Option<f64> {
        Some(self.used?.kernel * 1e6 / self.report.total as f64)
    }

    /// How often a thread of the proxy waited, for a request.
    fn waits(&self) -> Option<f64> {
        Some(self.used?.waits / self.report.total as f64)
    }

    /// The share of a core that the proxy used.
    fn busy(&self) -> Option<f64> {
        Some(self.cost()? * self.report.per_second / 1e6)
    }
}

/// A figure of a round.
type Figure = fn(&Sample) -> Option<f64>;

/// What ours is compared with Envoy's by, in the order of the columns.
const COMPARED: [(&str, Figure); 12] = [
    ("requests/s, 16 streams", |sample| sample.rate(FEW)),
    ("64 streams", |sample| sample.rate(MANY)),
    ("CPU a request, 16 streams", |sample| sample.cost(FEW)),
    ("64 streams", |sample| sample.cost(MANY)),
    ("at 1000/s", |sample| sample.cost(RATED)),
    ("POST", |sample| sample.cost(POST)),
    ("gRPC", |sample| sample.cost(GRPC)),
    ("p50 at 1000/s", |sample| Some(sample.latency()?.p50_us)),
    ("p99", |sample| Some(sample.latency()?.p99_us)),
    ("start", |sample| sample.start_ms),
    ("memory, fresh", |sample| sample.fresh_mib),
    ("peak", |sample| sample.peak_mib),
];

impl Table {
    /// Requests that failed.
    pub(super) fn failures(&self) -> u64 {
        let works = self.rows.iter().flat_map(|row| &row.samples);
        let works = works.flat_map(|sample| sample.works.iter().flatten());
        works.map(|work| work.report.errors).sum()
    }

    fn group(&self, out: &mut Formatter<'_>, group: Group, title: &str) -> fmt::Result {
        let mut rows = self
            .rows
            .iter()
            .filter(|row| row.contestant.group() == group)
            .peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        writeln!(
            out,
            "\n| {title} | requests/s, 16 streams | 64 streams | CPU a request (of a core), 16 streams | 64 streams | at 1000/s \
             | p50 / p99 at 1000/s | start | memory, fresh / peak |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        rows.try_for_each(|row| writeln!(out, "{}", row.cells()))
    }

    /// Where the time goes, and other requests.
    fn more(&self, out: &mut Formatter<'_>, group: Group, title: &str) -> fmt::Result {
        let rows = self.rows.iter().filter(|row| row.contestant.group() == group);
        let mut rows = rows.filter(|row| !row.contestant.is_direct()).peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        writeln!(
            out,
            "\n| {title} | of the CPU a request in the kernel, 16 streams | at 1000/s | waits of a thread a request, 16 streams \
             | at 1000/s | POST/s | CPU | gRPC calls/s | CPU |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        rows.try_for_each(|row| writeln!(out, "{}", row.more()))
    }

    fn ratios(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let find = |contestant| self.rows.iter().find(|row| row.contestant == contestant);
        let pairs: Vec<(&Row, &Row)> = self
            .rows
            .iter()
            .flat_map(|row| row.contestant.rivals().iter().map(move |rival| (row, *rival)))
            .filter_map(|(row, rival)| Some((row, find(rival)?)))
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let columns = COMPARED.map(|(name, _)| name).join(" | ");
        writeln!(
            out,
            "\nRatio of the same round, median (least–most): more is better for requests/s, less for all else.\n"
        )?;
        writeln!(out, "| | {columns} |\n|---{}|", "|---".repeat(COMPARED.len()))?;
        for (ours, theirs) in pairs {
            let cells = COMPARED
                .map(|(_, figure)| ratio(ours, theirs, figure))
                .join(" | ");
            let (one, other) = (ours.contestant.name(), theirs.contestant.name());
            writeln!(out, "| {one} / {other} | {cells} |")?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "# L7: waypoints, and plain reverse proxies for scale\n")?;
        writeln!(out, "{}\n", self.machine)?;
        if !self.versions.is_empty() {
            writeln!(out, "{}\n", self.versions.join("; "))?;
        }
        writeln!(
            out,
            "`cargo xtask bench l7 --rounds {} --seconds {}`: each proxy alone on one core, load and backend on the other; medians of the \
             rounds. Requests are GETs of HTTP/1.1 that keep their streams, where nothing else is said; answers have 128 bytes. What \
             it means, and what the proxies are told to do: bench/README.md.",
            self.rounds, self.seconds
        )?;
        self.group(out, Group::Hbone, "HBONE in, HBONE out")?;
        self.ratios(out)?;
        self.more(out, Group::Hbone, "HBONE in, HBONE out")?;
        self.group(out, Group::Http, "HTTP/1.1 in, HTTP/1.1 out")?;
        self.more(out, Group::Http, "HTTP/1.1 in, HTTP/1.1 out")?;
        if self.failures() > 0 {
            writeln!(out, "\nFailed:\n")?;
        }
        for row in &self.rows {
            for (round, sample) in row.samples.iter().enumerate() {
                for (load, work) in LOADS.iter().zip(&sample.works) {
                    let Some(Measured { report, .. }) = work else {
                        continue;
                    };
                    if report.errors > 0 {
                        let first = report.first_error.as_deref().unwrap_or("unknown");
                        let (name, load, count, round) =
                            (row.contestant.name(), load.name, report.errors, round + 1);
                        writeln!(
                            out,
                            "- {name}, {load}, round {round}: {count} times; the first: {first}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Row {
    pub(super) fn new(contestant: Contestant) -> Self {
        Self {
            contestant,
            samples: Vec::new(),
        }
    }

    /// One sample, for whoever watches.
    pub(super) fn line(&self, sample: &Sample) -> String {
        let group = match self.contestant.group() {
            Group::Hbone => "HBONE",
            Group::Http => "HTTP/1.1",
        };
        let name = self.contestant.name();
        let works = LOADS.iter().zip(&sample.works).filter_map(|(load, work)| {
            let work = work.as_ref()?;
            let figure = match load.rate {
                Some(_) => quantiles(
                    work.report.latency.map(|l| l.p50_us),
                    work.report.latency.map(|l| l.p99_us),
                ),
                None => rate_text(Some(work.report.per_second)),
            };
            let cost = work
                .cost()
                .map_or(String::new(), |cost| format!(", {cost:.1} µs"));
            Some(format!("{}: {figure}{cost}", load.name))
        });
        format!("{group}, {name}: {}", works.collect::<Vec<_>>().join("; "))
    }

    /// The median over the rounds.
    fn middle(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(figure))
    }

    fn cells(&self) -> String {
        let cost = |load: usize| {
            let busy = self.middle(|sample| sample.work(load)?.busy());
            match (self.middle(|sample| sample.cost(load)), busy) {
                (Some(cost), Some(busy)) => format!("{cost:.1} µs ({:.0}%)", busy * 100.0),
                _ => String::new(),
            }
        };
        let start = self.middle(|sample| sample.start_ms);
        let start = start.map_or(String::new(), |start| format!("{start:.0} ms"));
        let memory = (
            self.middle(|sample| sample.fresh_mib),
            self.middle(|sample| sample.peak_mib),
        );
        let memory = match memory {
            (Some(fresh), Some(peak)) => format!("{fresh:.0} / {peak:.0} MiB"),
            _ => String::new(),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {start} | {memory} |",
            self.contestant.name(),
            rate_text(self.middle(|sample| sample.rate(FEW))),
            rate_text(self.middle(|sample| sample.rate(MANY))),
            cost(FEW),
            cost(MANY),
            cost(RATED),
            quantiles(
                self.middle(|sample| Some(sample.latency()?.p50_us)),
                self.middle(|sample| Some(sample.latency()?.p99_us)),
            ),
        )
    }

    fn more(&self) -> String {
        let micros = |figure: &dyn Fn(&Sample) -> Option<f64>| {
            self.middle(figure)
                .map_or(String::new(), |figure| format!("{figure:.1} µs"))
        };
        let kernel = |load: usize| micros(&|sample| sample.work(load)?.kernel());
        let cost = |load: usize| micros(&|sample| sample.cost(load));
        let waits = |load: usize| {
            self.middle(|sample| sample.work(load)?.waits())
                .map_or(String::new(), |waits| format!("{waits:.2}"))
        };
        let rate = |load: usize| rate_text(self.middle(|sample| sample.rate(load)));
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.contestant.name(),
            kernel(FEW),
            kernel(RATED),
            waits(FEW),
            waits(RATED),
            rate(POST),
            cost(POST),
            rate(GRPC),
            cost(GRPC),
        )
    }
}

/// The two were measured soon after each other: what changes slowly on the machine cancels out.
fn ratio(ours: &Row, theirs: &Row, figure: Figure) -> String {
    let rounds = ours.samples.iter().zip(&theirs.samples);
    let mut ratios: Vec<f64> = rounds
        .filter_map(|(ours, theirs)| Some(figure(ours)? / figure(theirs)?))
        .collect();
    ratios.sort_by(f64::total_cmp);
    match (median(ratios.iter().copied()), ratios.first(), ratios.last()) {
        (Some(middle), Some(least), Some(most)) => format!("{middle:.2} ({least:.2}–{most:.2})"),
        _ => "–".into(),
    }
}

fn rate_text(per_second: Option<f64>) -> String {
    match per_second {
        Some(rate) if rate >= 1000.0 => format!("{:.1}k", rate / 1000.0),
        Some(rate) => format!("{rate:.0}"),
        None => String::new(),
    }
}

fn quantiles(p50: Option<f64>, p99: Option<f64>) -> String {
    match (p50, p99) {
        (Some(p50), Some(p99)) => format!("{p50:.0} / {p99:.0} µs"),
        _ => String::new(),
    }
}
