//! Metrics as text, and families of series that forget: labels that name workloads and identities come and go, and
//! neither memory nor `/metrics` may grow with them for ever.

mod family;
mod instrument;
mod settings;

use std::fmt::Write;

use prometheus::{Registry, TextEncoder};

use crate::log::{dropped_lines, suppressed_lines};
use crate::process::process_metrics;
pub use family::FamilyOptions;
use family::{Family, Series};
use instrument::{Buckets, Total};
pub use settings::MetricsSettings;

const BUILD: &str = "istio_build";

/// Writes itself in Prometheus' text format.
pub trait Expose {
    /// Appends all series to `out`, and removes those that have expired.
    fn expose(&self, out: &mut String);

    /// From now on it has none of these labels. Series that differed in them alone are one, which has their sum.
    fn set_dropped(&self, labels: &[&str]);

    /// Its name.
    fn name(&self) -> &'static str;

    /// How many series it has, and how many it may have.
    fn bound(&self) -> (usize, usize);

    /// How often something was counted in a series that is not its own.
    fn overflow(&self) -> u64;
}

/// Whether metrics are served at this path: the usual one of Prometheus, and the one that scrapers of Istio's proxies use.
pub fn is_metrics_path(path: &str) -> bool {
    matches!(path, "/metrics" | "/stats/prometheus")
}

/// All metrics of a program in Prometheus' text format: its version, the resources of its process, those of the registry,
/// these families, and what the log has dropped. `component` is the program's name in `istio_build`.
///
/// # Errors
/// When the registry's metrics cannot be written as text.
pub fn render_metrics(
    component: &str,
    registry: &Registry,
    families: &[&dyn Expose],
) -> Result<String, prometheus::Error> {
    let mut text = TextEncoder::new().encode_to_string(&registry.gather())?;
    for family in families {
        family.expose(&mut text);
    }
    // Writing to a string does not fail.
    let mut line = |line: std::fmt::Arguments<'_>| _ = text.write_fmt(format_args!("{line}\n"));
    let version = env!("CARGO_PKG_VERSION");
    line(format_args!(
        "# HELP {BUILD} The program and its version\n# TYPE {BUILD} gauge"
    ));
    line(format_args!(
        "{BUILD}{{component=\"{component}\",tag=\"{version}\"}} 1"
    ));
    type Value = fn(&dyn Expose) -> u64;
    let of_families: [(&str, &str, &str, Value); 3] = [
        (
            "ambit_metrics_series",
            "Series of a metric whose series expire",
            "gauge",
            |family| family.bound().0 as u64,
        ),
        (
            "ambit_metrics_series_limit",
            "Maximum of such series, without those with unknown labels",
            "gauge",
            |family| family.bound().1 as u64,
        ),
        (
            "ambit_metrics_overflow_total",
            "How often such a metric was counted with unknown labels because it had its maximum of series",
            "counter",
            |family| family.overflow(),
        ),
    ];
    for (name, help, kind, value) in of_families.iter().filter(|_| !families.is_empty()) {
        line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        for family in families {
            let metric = family.name();
            line(format_args!("{name}{{metric=\"{metric}\"}} {}", value(*family)));
        }
    }
    let of_the_log = [
        (
            "ambit_log_dropped_total",
            "Log lines that were dropped because the log was not read fast enough",
            "counter",
            dropped_lines() as f64,
        ),
        (
            "ambit_log_suppressed_total",
            "Log lines about refused peers that were suppressed because one peer caused many",
            "counter",
            suppressed_lines() as f64,
        ),
    ];
    for (name, help, kind, value) in of_the_log.into_iter().chain(process_metrics()) {
        line(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        ));
    }
    Ok(text)
}

/// Counters with labels. A series that has not changed for 15 minutes, and that nobody holds, is removed; where there
/// are too many, after two minutes.
pub struct Counters(Family<Total>);

/// One series of [`Counters`], which is not removed while this lives.
#[derive(Clone)]
pub struct Counter {
    series: std::sync::Arc<Series<Total>>,
    own: bool,
}

/// A [`Counter`] that may have been removed.
#[derive(Debug, Clone)]
pub struct WeakCounter(std::sync::Weak<Series<Total>>);

/// Histograms with labels, as [`Counters`].
pub struct Histograms(Family<Buckets>);

/// One series of [`Histograms`], which is not removed while this lives.
#[derive(Clone)]
pub struct Histogram {
    series: std::sync::Arc<Series<Buckets>>,
    own: bool,
}

/// A [`Histogram`] that may have been removed.
#[derive(Debug, Clone)]
pub struct WeakHistogram(std::sync::Weak<Series<Buckets>>);

impl Counters {
    /// An empty family.
    pub fn new(options: FamilyOptions) -> Self {
        Self(Family::new(options, "counter", Total::default))
    }

    /// The series with these values of the labels, in their order.
    pub fn with(&self, values: &[&str]) -> Counter {
        let (series, own) = self.0.with(values);
        Counter { series, own }
    }
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `n`.
    pub fn inc_by(&self, n: u64) {
        self.series.value.add(n);
    }

    /// For a cache that does not keep it alive.
    /// None of a series that is not its labels' own: they may have one later.
    pub fn downgrade(&self) -> Option<WeakCounter> {
        self.own
            .then(|| WeakCounter(std::sync::Arc::downgrade(&self.series)))
    }
}

impl WeakCounter {
    /// The series, if it has not been removed.
    pub fn upgrade(&self) -> Option<Counter> {
        let series = self.0.upgrade()?;
        Some(Counter { series, own: true })
    }
}

impl Histograms {
    /// An empty family with these upper bounds, in ascending order.
    pub fn new(options: FamilyOptions, bounds: &'static [f64]) -> Self {
        Self(Family::new(options, "histogram", move || Buckets::new(bounds)))
    }

    /// The series with these values of the labels, in their order.
    pub fn with(&self, values: &[&str]) -> Histogram {
        let (series, own) = self.0.with(values);
        Histogram { series, own }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn observe(&self, value: f64) {
        self.series.value.observe(value);
    }

    /// For a cache that does not keep it alive.
    /// None of a series that is not its labels' own: they may have one later.
    pub fn downgrade(&self) -> Option<WeakHistogram> {
        self.own
            .then(|| WeakHistogram(std::sync::Arc::downgrade(&self.series)))
    }
}

impl WeakHistogram {
    /// The series, if it has not been removed.
    pub fn upgrade(&self) -> Option<Histogram> {
        let series = self.0.upgrade()?;
        Some(Histogram { series, own: true })
    }
}

/// A family with instruments of its own exposes the family in it.
macro_rules! expose_the_family {
    ($($family:ty),*) => {$(
        impl Expose for $family {
            fn expose(&self, out: &mut String) {
                self.0.expose(out);
            }

            fn set_dropped(&self, labels: &[&str]) {
                self.0.set_dropped(labels);
            }

            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn bound(&self) -> (usize, usize) {
                self.0.bound()
            }

            fn overflow(&self) -> u64 {
                self.0.overflow()
            }
        }
    )*};
}

expose_the_family!(Counters, Histograms);
