//! What the rounds came to, as tables.

#[cfg(test)]
mod tests;

use std::fmt::{self, Formatter};

use ambit_bench::{Latency, Report, median};

use super::contestant::{Contestant, Group};

/// One load: a column.
pub(super) struct Load {
    /// What the table calls it.
    pub(super) name: &'static str,
    /// Requests at a time.
    streams: usize,
    /// Requests a second; none: as many as there are answers.
    rate: Option<u32>,
}

/// All of them; the last one is the only one with a rate.
pub(super) const LOADS: [Load; 3] = [
    Load {
        name: "16 streams",
        streams: 16,
        rate: None,
    },
    Load {
        name: "64 streams",
        streams: 64,
        rate: None,
    },
    Load {
        name: "1000/s",
        streams: 16,
        rate: Some(1000),
    },
];
/// The index of the load with a rate.
const RATED: usize = 2;

impl Load {
    /// What `ambit-bench-l7 load` receives.
    pub(super) fn arguments(&self, seconds: f64, warmup: f64) -> Vec<String> {
        let mut arguments = vec![
            format!("--streams={}", self.streams),
            format!("--seconds={seconds}"),
            format!("--warmup={warmup}"),
        ];
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
    /// In the order of [`LOADS`].
    pub(super) works: Vec<Measured>,
}

/// One load in one round.
pub(super) struct Measured {
    pub(super) report: Report,
    /// Processor time of the proxy meanwhile, in seconds.
    pub(super) cpu: Option<f64>,
}

impl Measured {
    /// Microseconds of the proxy's processor time for a request.
    fn cost(&self) -> Option<f64> {
        Some(self.cpu? * 1e6 / self.report.total as f64)
    }

    /// The share of a core that the proxy used.
    fn busy(&self) -> Option<f64> {
        Some(self.cost()? * self.report.per_second / 1e6)
    }
}

/// A figure of a round.
type Figure = fn(&Sample) -> Option<f64>;

/// What ours is compared with Envoy's by, in the order of the columns.
const COMPARED: [(&str, Figure); 10] = [
    ("requests/s, 16 streams", |sample| rate(sample, 0)),
    ("64 streams", |sample| rate(sample, 1)),
    ("CPU a request, 16 streams", |sample| sample.works.first()?.cost()),
    ("64 streams", |sample| sample.works.get(1)?.cost()),
    ("at 1000/s", |sample| sample.works.get(RATED)?.cost()),
    ("p50 at 1000/s", |sample| Some(latency(sample)?.p50_us)),
    ("p99", |sample| Some(latency(sample)?.p99_us)),
    ("start", |sample| sample.start_ms),
    ("memory, fresh", |sample| sample.fresh_mib),
    ("peak", |sample| sample.peak_mib),
];

fn rate(sample: &Sample, load: usize) -> Option<f64> {
    Some(sample.works.get(load)?.report.per_second)
}

fn latency(sample: &Sample) -> Option<Latency> {
    sample.works.get(RATED)?.report.latency
}

impl Table {
    /// Requests that failed.
    pub(super) fn failures(&self) -> u64 {
        let works = self.rows.iter().flat_map(|row| &row.samples);
        let works = works.flat_map(|sample| &sample.works);
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

    fn ratios(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let find = |contestant| self.rows.iter().find(|row| row.contestant == contestant);
        let pairs: Vec<(&Row, &Row)> = self
            .rows
            .iter()
            .filter_map(|row| Some((row, find(row.contestant.rival()?)?)))
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
             rounds. Requests are GETs of HTTP/1.1 that keep their streams, answers have 128 bytes. What it means, and what the \
             proxies are told to do: bench/README.md.",
            self.rounds, self.seconds
        )?;
        self.group(out, Group::Hbone, "HBONE in, HBONE out")?;
        self.ratios(out)?;
        self.group(out, Group::Http, "HTTP/1.1 in, HTTP/1.1 out")?;
        if self.failures() > 0 {
            writeln!(out, "\nFailed:\n")?;
        }
        for row in &self.rows {
            for (round, sample) in row.samples.iter().enumerate() {
                for (load, work) in LOADS.iter().zip(&sample.works) {
                    let report = &work.report;
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
        let works = LOADS.iter().zip(&sample.works).map(|(load, work)| {
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
            format!("{}: {figure}{cost}", load.name)
        });
        format!("{group}, {name}: {}", works.collect::<Vec<_>>().join("; "))
    }

    fn cells(&self) -> String {
        let middle = |figure: Figure| median(self.samples.iter().filter_map(figure));
        let [
            rate_16,
            rate_64,
            cost_16,
            cost_64,
            cost_rated,
            p50,
            p99,
            start,
            fresh,
            peak,
        ] = COMPARED.map(|(_, figure)| middle(figure));
        let busy = |load: usize| {
            let busy = self
                .samples
                .iter()
                .filter_map(|sample| sample.works.get(load)?.busy());
            median(busy)
        };
        let cost = |cost: Option<f64>, load| match (cost, busy(load)) {
            (Some(cost), Some(busy)) => format!("{cost:.1} µs ({:.0}%)", busy * 100.0),
            _ => String::new(),
        };
        let start = start.map_or(String::new(), |start| format!("{start:.0} ms"));
        let memory = match (fresh, peak) {
            (Some(fresh), Some(peak)) => format!("{fresh:.0} / {peak:.0} MiB"),
            _ => String::new(),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {start} | {memory} |",
            self.contestant.name(),
            rate_text(rate_16),
            rate_text(rate_64),
            cost(cost_16, 0),
            cost(cost_64, 1),
            cost(cost_rated, RATED),
            quantiles(p50, p99),
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
