//! What the rounds came to, as a table.

#[cfg(test)]
mod tests;

use std::fmt;

use ambit_bench::{Latency, Report, Work, median};

use super::load::Load;
use super::process::Memory;

/// The whole result, in Markdown.
pub(super) struct Table {
    /// On what, when and of which sources.
    pub(super) machine: String,
    pub(super) rounds: usize,
    /// Of one measurement.
    pub(super) seconds: f64,
    pub(super) rows: Vec<Row>,
    pub(super) memory: Vec<Footprint>,
}

/// One work, and what was measured of it.
pub(super) struct Row {
    pub(super) load: &'static Load,
    /// Client and server on one node: one ztunnel is source and destination.
    pub(super) same_node: bool,
    pub(super) samples: Vec<Sample>,
}

/// A round of one work: either path, one directly after the other.
pub(super) struct Sample {
    pub(super) direct: Report,
    pub(super) mesh: Report,
    /// Processor time that the ztunnels of source and destination node used during the latter, in seconds.
    pub(super) cpu: [f64; 2],
}

/// The memory of one ztunnel.
pub(super) struct Footprint {
    /// Which.
    pub(super) node: String,
    /// Before the first measurement.
    pub(super) before: Memory,
    /// After the last.
    pub(super) after: Memory,
}

impl Table {
    /// Requests and connections that failed, on both paths.
    pub(super) fn failures(&self) -> u64 {
        self.rows.iter().map(Row::failures).sum()
    }

    /// The rows beside a flood, and the same work alone.
    fn flooded(&self) -> impl Iterator<Item = (&Row, &Row)> {
        let flooded = self.rows.iter().filter(|row| row.load.flooded);
        flooded.filter_map(|row| {
            let alone = self.rows.iter().find(|other| other.is_alone(row))?;
            Some((row, alone))
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "# L4: through a pair of ztunnels, and directly\n")?;
        writeln!(out, "{}\n", self.machine)?;
        writeln!(
            out,
            "{} rounds of {} s on each path, in turns. Client, server, both proxies and the whole cluster share the cores. Medians; of the mesh \
             the worst round first. Ratio: mesh / direct of the same round, median (least–most). What it means: bench/README.md.\n",
            self.rounds, self.seconds
        )?;
        writeln!(
            out,
            "| work | direct | mesh (worst / median) | ratio | CPU, source ztunnel | destination ztunnel |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let [source, destination] = row.cpu_cells();
            writeln!(
                out,
                "| {} | {} | {} | {} | {source} | {destination} |",
                row.name(),
                row.direct_cell(),
                row.mesh_cell(),
                row.ratio_cell()
            )?;
        }
        for (row, alone) in self.flooded() {
            writeln!(
                out,
                "\n{}: p99 × {}, mesh; × {}, direct (beside the flood / alone).",
                row.name(),
                row.growth(alone, |sample| &sample.mesh),
                row.growth(alone, |sample| &sample.direct)
            )?;
        }
        writeln!(
            out,
            "\n| ztunnel of | memory before | after | peak |\n|---|---|---|---|"
        )?;
        for Footprint { node, before, after } in &self.memory {
            writeln!(
                out,
                "| {node} | {:.0} MiB | {:.0} MiB | {:.0} MiB |",
                before.now, after.now, after.peak
            )?;
        }
        if self.failures() > 0 {
            writeln!(out, "\nFailed:\n")?;
        }
        for row in &self.rows {
            for (round, sample) in row.samples.iter().enumerate() {
                for (path, report) in [("direct", &sample.direct), ("mesh", &sample.mesh)] {
                    if report.errors > 0 {
                        let first = report.first_error.as_deref().unwrap_or("unknown");
                        let name = row.name();
                        let (count, round) = (report.errors, round + 1);
                        writeln!(
                            out,
                            "- {name}, {path}, round {round}: {count} times; the first: {first}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Row {
    pub(super) fn new(load: &'static Load, same_node: bool) -> Self {
        Self {
            load,
            same_node,
            samples: Vec::new(),
        }
    }

    /// What the table calls it.
    pub(super) fn name(&self) -> String {
        let place = if self.same_node { ", same node" } else { "" };
        format!("{}{place}", self.load.name)
    }

    /// Whether it is the same work without the flood.
    fn is_alone(&self, flooded: &Self) -> bool {
        let alone = Load {
            name: self.load.name,
            flooded: false,
            ..*flooded.load
        };
        *self.load == alone && self.same_node == flooded.same_node
    }

    /// How much longer one path's slowest requests take than `alone` in the same round: the median, the least and the
    /// most.
    fn growth(&self, alone: &Self, path: impl Fn(&Sample) -> &Report) -> String {
        let p99 = |sample| Some(path(sample).latency?.p99_us);
        let rounds = self.samples.iter().zip(&alone.samples);
        spread(
            "",
            rounds.filter_map(|(beside, alone)| Some(p99(beside)? / p99(alone)?)),
        )
    }

    /// One sample, for whoever watches.
    pub(super) fn line(&self, sample: &Sample) -> String {
        let figure = |report: &Report| match self.load.rate {
            Some(_) => latency_text(report.latency),
            None => rate_text(self.load.work, report.per_second),
        };
        format!(
            "{}: direct {}, mesh {}",
            self.name(),
            figure(&sample.direct),
            figure(&sample.mesh)
        )
    }

    fn failures(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| sample.direct.errors + sample.mesh.errors)
            .sum()
    }

    fn middle(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(figure))
    }

    fn direct_cell(&self) -> String {
        let latencies = self.latencies(|sample| &sample.direct);
        let rate = self.middle(|sample| Some(sample.direct.per_second));
        match (self.load.rate, rate) {
            (Some(_), _) => latencies,
            (None, rate) => join(rate.map(|rate| rate_text(self.load.work, rate)), latencies),
        }
    }

    fn mesh_cell(&self) -> String {
        let latencies = self.latencies(|sample| &sample.mesh);
        if self.load.rate.is_some() {
            let worst = self.samples.iter().filter_map(|sample| sample.mesh.latency);
            let worst = worst.max_by(|one, other| one.p99_us.total_cmp(&other.p99_us));
            return format!("{} / {latencies}", latency_text(worst));
        }
        let worst = self
            .samples
            .iter()
            .map(|sample| sample.mesh.per_second)
            .min_by(f64::total_cmp);
        let middle = self.middle(|sample| Some(sample.mesh.per_second));
        let both = worst.zip(middle).map(|(worst, middle)| {
            format!(
                "{} / {}",
                rate_text(self.load.work, worst),
                rate_text(self.load.work, middle)
            )
        });
        join(both, latencies)
    }

    /// Medians of the quantiles of one path; empty for throughput.
    fn latencies(&self, path: impl Fn(&Sample) -> &Report) -> String {
        let middle = |quantile: fn(Latency) -> f64| self.middle(|sample| path(sample).latency.map(quantile));
        let quantiles = middle(|latency| latency.p50_us).zip(middle(|latency| latency.p99_us));
        let text = quantiles.map(|(p50, p99)| format!("p50 {}, p99 {}", time_text(p50), time_text(p99)));
        text.unwrap_or_default()
    }

    fn ratio_cell(&self) -> String {
        if self.load.rate.is_none() {
            return self.ratio("", |report| Some(report.per_second));
        }
        let p50 = self.ratio("p50 × ", |report| report.latency.map(|latency| latency.p50_us));
        let p99 = self.ratio("p99 × ", |report| report.latency.map(|latency| latency.p99_us));
        format!("{p50}, {p99}")
    }

    /// The two paths of a round were measured one directly after the other: what changes slowly on the machine cancels
    /// out.
    fn ratio(&self, name: &str, figure: impl Fn(&Report) -> Option<f64>) -> String {
        let ratio = |sample: &Sample| Some(figure(&sample.mesh)? / figure(&sample.direct)?);
        spread(name, self.samples.iter().filter_map(ratio))
    }

    fn cpu_cells(&self) -> [String; 2] {
        let text = |index: usize| {
            let cost = self.middle(|sample| Some(self.unit_cost(sample.cpu[index], sample.mesh.total)));
            let cost = cost.unwrap_or_default();
            match self.load.work {
                Work::Throughput => format!("{cost:.3} core·s/Gbit"),
                Work::Request => format!("{cost:.0} µs/request"),
                Work::Connect => format!("{cost:.0} µs/connection"),
            }
        };
        match self.same_node {
            true => [text(0), "the same".into()],
            false => [text(0), text(1)],
        }
    }

    /// Processor seconds a gigabit, or microseconds a request or connection.
    fn unit_cost(&self, seconds: f64, total: u64) -> f64 {
        match self.load.work {
            Work::Throughput => seconds / (total as f64 * 8.0 / 1e9),
            Work::Request | Work::Connect => seconds * 1e6 / total as f64,
        }
    }
}

/// The median of ratios, and in parentheses the least and the most.
fn spread(name: &str, ratios: impl Iterator<Item = f64>) -> String {
    let ratios: Vec<f64> = ratios.collect();
    let least = ratios.iter().copied().min_by(f64::total_cmp);
    let most = ratios.iter().copied().max_by(f64::total_cmp);
    match (median(ratios), least, most) {
        (Some(middle), Some(least), Some(most)) => format!("{name}{middle:.2} ({least:.2}–{most:.2})"),
        _ => "–".into(),
    }
}

fn join(first: Option<String>, second: String) -> String {
    let parts: Vec<String> = first
        .into_iter()
        .chain([second])
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("; ")
}

fn rate_text(work: Work, per_second: f64) -> String {
    match work {
        Work::Throughput => format!("{:.2} Gb/s", per_second * 8.0 / 1e9),
        Work::Request | Work::Connect if per_second >= 10_000.0 => format!("{:.1}k/s", per_second / 1000.0),
        Work::Request | Work::Connect => format!("{per_second:.0}/s"),
    }
}

fn latency_text(latency: Option<Latency>) -> String {
    let text = |latency: Latency| {
        format!(
            "p50 {}, p99 {}",
            time_text(latency.p50_us),
            time_text(latency.p99_us)
        )
    };
    latency.map(text).unwrap_or_default()
}

fn time_text(micros: f64) -> String {
    if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else {
        format!("{:.2} ms", micros / 1000.0)
    }
}
