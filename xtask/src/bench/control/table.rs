//! What the sizes came to, as a table.

use std::fmt;

use ambit_bench::control::{Outcome, Phase, Spread};

/// The whole result, in Markdown.
pub(super) struct Table {
    /// On what, when and of which sources.
    pub(super) machine: String,
    pub(super) measured: Vec<Measured>,
}

/// One size.
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    /// Load average of the machine before it.
    pub(super) load: String,
}

/// Processor time of an object until all is published, with two sizes of cluster.
pub(super) struct Growth {
    pods: [usize; 2],
    microseconds: [f64; 2],
}

impl Growth {
    fn ratio(&self) -> f64 {
        self.microseconds[1] / self.microseconds[0]
    }

    /// Whether the cost of an object is closer to that of a quadratic curve than to that of a straight line.
    pub(super) fn is_quadratic(&self) -> bool {
        let quadratic = self.pods[1] as f64 / self.pods[0] as f64;
        self.ratio() > quadratic.sqrt()
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([few, many], [before, after]) = (self.pods, self.microseconds);
        let ratio = self.ratio();
        write!(
            out,
            "{before:.1} µs of processor time a pod with {few} pods, {after:.1} µs with {many}: × {ratio:.2}"
        )
    }
}

/// What the table says, row by row.
type Cell = fn(&Outcome) -> String;

const ROWS: [(&str, &str, Cell); 16] = [
    ("Services / nodes", "", |o| {
        format!("{} / {}", o.services, o.nodes)
    }),
    ("ztunnels and agents / waypoints with a stream", "", |o| {
        format!("{} / {}", o.clients, o.waypoints)
    }),
    ("resources of a ztunnel", "", |o| o.resources.to_string()),
    ("objects read into the index", "", |o| phase(o.read)),
    ("first flush", "", |o| phase(o.flush)),
    ("clients that hold everything: in sync", "", |o| phase(o.sync)),
    ("**restart to all in sync** (sum)", "≤ 30 s", |o| {
        phase(o.restart())
    }),
    ("a ztunnel that holds nothing: in sync", "", |o| {
        format!("{}, {:.0} MiB", phase(o.cold), o.cold_mib)
    }),
    ("memory after the flush / in sync / after the changes", "", |o| {
        let m = &o.memory;
        format!("{:.0} / {:.0} / {:.0} MiB", m.flushed, m.synced, m.changed)
    }),
    ("**memory, peak**", "≤ 1536 MiB", |o| {
        format!("{:.0} MiB", o.memory.peak)
    }),
    ("memory of a pod", "", |o| {
        let bytes = (o.memory.flushed - o.memory.start) * f64::from(1 << 20);
        format!("{:.0} bytes", bytes / o.pods as f64)
    }),
    (
        "**change → acknowledged**, p50 / p99 / max",
        "p99 ≤ 30 ms",
        |o| spread(&o.acknowledged),
    ),
    ("processor time meanwhile", "", |o| {
        let response = o.changes_cpu / o.responses.max(1) as f64 * 1e6;
        format!(
            "{:.0}% of a core, {response:.1} µs a response",
            o.changes_cpu / o.seconds * 100.0
        )
    }),
    ("endpoints of the largest Service", "", |o| {
        o.endpoints.to_string()
    }),
    (
        "**an event of its EndpointSlices**, p50 / p99 / max",
        "p50 ≤ 1 ms",
        |o| spread(&o.slice),
    ),
    ("changes", "", |o| format!("{:.0} s, {:.0}/s", o.seconds, o.rate)),
];

impl Table {
    /// The cost of an object with the largest cluster, against that with 10,000 pods.
    pub(super) fn growth(&self) -> Option<Growth> {
        let cost = |o: &Outcome| (o.read.cpu + o.flush.cpu) / o.pods as f64 * 1e6;
        let few = self
            .measured
            .iter()
            .map(|m| &m.outcome)
            .find(|o| o.pods == 10_000)?;
        let many = &self.measured.last()?.outcome;
        (many.pods > few.pods).then(|| Growth {
            pods: [few.pods, many.pods],
            microseconds: [cost(few), cost(many)],
        })
    }

    fn line(&self, out: &mut fmt::Formatter<'_>, name: &str, bar: &str, cell: Cell) -> fmt::Result {
        let cells = self.measured.iter().map(|m| cell(&m.outcome));
        let cells: Vec<String> = cells.collect();
        writeln!(out, "| {name} | {bar} | {} |", cells.join(" | "))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "# Control plane: index and streams\n\n{}\n", self.machine)?;
        let loads: Vec<&str> = self.measured.iter().map(|m| m.load.as_str()).collect();
        writeln!(
            out,
            "Load average of the machine before each size: {}. What it means: bench/README.md.\n",
            loads.join(", ")
        )?;
        self.line(out, "pods", "bar", |o| o.pods.to_string())?;
        writeln!(out, "|---|---|{}", "---|".repeat(self.measured.len()))?;
        for (name, bar, cell) in ROWS {
            self.line(out, name, bar, cell)?;
        }
        writeln!(out, "\nTime in the index for one change, p50 / p99 / max:\n")?;
        self.line(out, "pods", "", |o| o.pods.to_string())?;
        writeln!(out, "|---|---|{}", "---|".repeat(self.measured.len()))?;
        let kinds = self.measured.iter().max_by_key(|m| m.outcome.index.len());
        for (kind, _) in kinds.into_iter().flat_map(|m| &m.outcome.index) {
            let cells = self.measured.iter().map(|m| {
                let found = m.outcome.index.iter().find(|(name, _)| name == kind);
                found.map_or_else(String::new, |(_, of)| spread(of))
            });
            let cells: Vec<String> = cells.collect();
            writeln!(out, "| {kind} | | {} |", cells.join(" | "))?;
        }
        match self.growth() {
            Some(growth) => writeln!(out, "\n{growth}."),
            None => Ok(()),
        }
    }
}

fn phase(of: Phase) -> String {
    format!("{:.2} s (CPU {:.2} s)", of.seconds, of.cpu)
}

fn spread(of: &Spread) -> String {
    format!("{:.2} / {:.2} / {:.2} ms", of.p50, of.p99, of.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cpu: f64) -> Table {
        let measured = [(10_000, 1.0), (200_000, cpu)].map(|(pods, cpu)| Measured {
            outcome: Outcome {
                pods,
                flush: Phase { seconds: 1.0, cpu },
                index: vec![("a policy".to_owned(), Spread::default())],
                ..Outcome::default()
            },
            load: "0.50".to_owned(),
        });
        Table {
            machine: "2 cores".to_owned(),
            measured: measured.into(),
        }
    }

    #[test]
    fn quadratic_cost_is_found() {
        assert!(!table(20.0).growth().unwrap().is_quadratic());
        assert!(!table(60.0).growth().unwrap().is_quadratic());
        assert!(table(400.0).growth().unwrap().is_quadratic());
    }

    #[test]
    fn every_size_has_a_column() {
        let text = table(20.0).to_string();
        assert!(text.contains("| pods | bar | 10000 | 200000 |"), "{text}");
        assert!(text.contains("| a policy | | 0.00"), "{text}");
        assert!(text.contains("× 1.00"), "{text}");
        let columns = |line: &str| line.matches('|').count();
        assert!(
            text.lines()
                .filter(|l| l.starts_with('|'))
                .all(|l| columns(l) == 5),
            "{text}"
        );
    }
}
