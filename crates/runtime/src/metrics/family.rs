//! Series by the values of their labels, of which the idle ones are removed.

use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indexmap::{Equivalent, IndexMap};
use parking_lot::{Mutex, RwLock};

use super::instrument::Instrument;

/// A series that has not changed for so long is removed. Whoever scrapes has seen its last value several times.
const IDLE: Duration = Duration::from_secs(900);
/// The same, where there are as many series as there may be.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(120);
/// Between two searches for idle series, where there are as many series as there may be.
const SEARCH: Duration = Duration::from_secs(10);

/// Series, at most, of what has no room for one of its own; what more there would be has none but unknown labels.
const MAX_UNKNOWN: usize = 64;

const UNKNOWN: &str = "unknown";

/// The values of a series' labels. A slice's hash tells where each ends.
type Values = Box<[Box<str>]>;

/// What a family is called, and how many series it may have.
#[derive(Debug, Clone, Copy)]
pub struct FamilyOptions {
    /// The metric's name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Series, at most. What comes then is counted in series whose labels are `unknown`, but for those in `kept`.
    pub most: usize,
    /// Labels that even those series have. Of each there are few values.
    pub kept: &'static [&'static str],
}

/// All series of one metric.
pub(super) struct Family<M> {
    options: FamilyOptions,
    kind: &'static str,
    make: Box<dyn Fn() -> M + Send + Sync>,
    series: RwLock<IndexMap<Values, Arc<Series<M>>>>,
    /// Those that count towards the bound; changed under the lock.
    bounded: AtomicUsize,
    overflow: AtomicU64,
    searched: Mutex<Option<Instant>>,
}

/// One series.
pub(super) struct Series<M> {
    pub(super) value: M,
    /// As its lines have the labels.
    labels: Box<str>,
    /// Counts towards the bound: not one of those that take what is past it.
    bounded: bool,
    seen: Mutex<Seen>,
}

/// The version that was there at the last search, and since when.
struct Seen {
    version: u64,
    since: Instant,
}

/// Values that are looked for.
struct Wanted<'a>(&'a [&'a str]);

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<Values> for Wanted<'_> {
    fn equivalent(&self, values: &Values) -> bool {
        self.0.len() == values.len() && self.0.iter().zip(values).all(|(one, other)| **one == **other)
    }
}

impl<M: Instrument> Family<M> {
    pub(super) fn new(
        options: FamilyOptions,
        kind: &'static str,
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Self {
        Self {
            options,
            kind,
            make: Box::new(make),
            series: RwLock::default(),
            bounded: AtomicUsize::new(0),
            overflow: AtomicU64::new(0),
            searched: Mutex::new(None),
        }
    }

    /// The series of these values, and whether it is their own.
    pub(super) fn with(&self, values: &[&str]) -> (Arc<Series<M>>, bool) {
        self.with_at(values, Instant::now())
    }

    /// How often something was counted in a series that is not its own.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    pub(super) fn name(&self) -> &'static str {
        self.options.name
    }

    fn with_at(&self, values: &[&str], now: Instant) -> (Arc<Series<M>>, bool) {
        if let Some(series) = self.get(values) {
            return (series, true);
        }
        if self.is_full() {
            self.search(now);
        }
        if !self.is_full() {
            let mut all = self.series.write();
            if let Some(series) = all.get(&Wanted(values)) {
                return (Arc::clone(series), true);
            }
            // Another may have taken the last place meanwhile.
            if !self.is_full() {
                self.bounded.fetch_add(1, Ordering::Relaxed);
                return (self.insert(&mut all, values, true, now), true);
            }
        }
        self.overflow.fetch_add(1, Ordering::Relaxed);
        (self.unknown(values, now), false)
    }

    fn get(&self, values: &[&str]) -> Option<Arc<Series<M>>> {
        self.series.read().get(&Wanted(values)).cloned()
    }

    /// The series that takes these values, of which there is no room for one of their own.
    fn unknown(&self, values: &[&str], now: Instant) -> Arc<Series<M>> {
        let kept = |(value, label): (&&'_ str, &&'static str)| match self.options.kept.contains(label) {
            true => (*value).to_owned(),
            false => UNKNOWN.to_owned(),
        };
        let kept: Vec<String> = values.iter().zip(self.options.labels).map(kept).collect();
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        if let Some(series) = self.get(&kept) {
            return series;
        }
        let mut all = self.series.write();
        let unknown = vec![UNKNOWN; values.len()];
        let full = all.len() >= self.bounded.load(Ordering::Relaxed) + MAX_UNKNOWN;
        let values = if full { &unknown } else { &kept };
        if let Some(series) = all.get(&Wanted(values)) {
            return Arc::clone(series);
        }
        self.insert(&mut all, values, false, now)
    }

    fn insert(
        &self,
        all: &mut IndexMap<Values, Arc<Series<M>>>,
        values: &[&str],
        bounded: bool,
        now: Instant,
    ) -> Arc<Series<M>> {
        let value = (self.make)();
        let seen = Mutex::new(Seen {
            version: value.version(),
            since: now,
        });
        let series = Arc::new(Series {
            value,
            labels: labels(self.options.labels, values),
            bounded,
            seen,
        });
        let values = values.iter().map(|value| Box::from(*value)).collect();
        all.insert(values, Arc::clone(&series));
        series
    }

    fn is_full(&self) -> bool {
        self.bounded.load(Ordering::Relaxed) >= self.options.most
    }

    /// Makes room, now and then.
    fn search(&self, now: Instant) {
        let mut searched = self.searched.lock();
        if searched.is_some_and(|last| now.saturating_duration_since(last) < SEARCH) {
            return;
        }
        *searched = Some(now);
        self.remove_idle(IDLE_WHEN_FULL, now);
    }

    fn remove_idle(&self, idle: Duration, now: Instant) {
        self.series.write().retain(|_, series| {
            let mut seen = series.seen.lock();
            let version = series.value.version();
            if version != seen.version {
                *seen = Seen { version, since: now };
            }
            // The table's own is one.
            let stays = !series.bounded
                || Arc::strong_count(series) > 1
                || now.saturating_duration_since(seen.since) < idle;
            if !stays {
                self.bounded.fetch_sub(1, Ordering::Relaxed);
            }
            stays
        });
    }

    pub(super) fn expose(&self, out: &mut String) {
        self.expose_at(out, Instant::now());
    }

    fn expose_at(&self, out: &mut String, now: Instant) {
        self.remove_idle(IDLE, now);
        // Written without the lock, for which connections may wait.
        let mut series: Vec<_> = self.series.read().values().cloned().collect();
        series.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
        if series.is_empty() {
            return;
        }
        let FamilyOptions { name, help, .. } = self.options;
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", self.kind);
        for one in series {
            one.value.write(name, &one.labels, out);
        }
    }
}

/// `a="b",…` by name, as the prometheus crate writes them, escaped as the text format wants it.
fn labels(names: &[&str], values: &[&str]) -> Box<str> {
    let mut text = String::new();
    let mut pairs: Vec<_> = names.iter().zip(values).collect();
    pairs.sort_unstable();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::super::instrument::{Buckets, Total};
    use super::*;

    const OPTIONS: FamilyOptions = FamilyOptions {
        name: "seen_total",
        help: "What was seen",
        labels: &["who", "why"],
        most: 3,
        kept: &["why"],
    };

    fn family() -> Family<Total> {
        Family::new(OPTIONS, "counter", Total::default)
    }

    fn count(family: &Family<Total>, values: &[&str; 2], now: Instant) {
        family.with_at(values, now).0.value.add(1);
    }

    fn lines(family: &Family<Total>, now: Instant) -> Vec<String> {
        let mut text = String::new();
        family.expose_at(&mut text, now);
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn labels_with_one_concatenation_are_two_series() {
        let (family, now) = (family(), Instant::now());
        count(&family, &["ab", "c"], now);
        count(&family, &["a", "bc"], now);
        count(&family, &["a", "bc"], now);
        assert_eq!(
            lines(&family, now),
            [
                r#"seen_total{who="a",why="bc"} 2"#,
                r#"seen_total{who="ab",why="c"} 1"#
            ]
        );
    }

    #[test]
    fn past_the_bound_series_are_unknown_until_idle_ones_expire() {
        let (family, start) = (family(), Instant::now());
        for who in ["a", "b", "c", "d", "e"] {
            count(&family, &[who, "-"], start);
        }
        let unknown = |n| format!(r#"seen_total{{who="unknown",why="-"}} {n}"#);
        assert_eq!(lines(&family, start)[3], unknown(2));
        assert_eq!(lines(&family, start).len(), 4);
        // One of them goes on, and another has a connection.
        let (held, own) = family.with_at(&["b", "-"], start);
        assert!(own);
        let later = start + IDLE_WHEN_FULL;
        count(&family, &["a", "-"], later);
        count(&family, &["f", "-"], later);
        let expected = ["a", "b", "f"].map(|who| {
            let n = if who == "a" { 2 } else { 1 };
            format!(r#"seen_total{{who="{who}",why="-"}} {n}"#)
        });
        // What takes the rest stays: it is shared, and must not go backwards.
        assert_eq!(lines(&family, later)[..3], expected);
        assert_eq!(lines(&family, later)[3], unknown(2));
        drop(held);
        let end = later + IDLE;
        assert_eq!(lines(&family, end), [unknown(2)]);
    }

    #[test]
    fn past_the_bound_nothing_grows() {
        let (family, start) = (family(), Instant::now());
        for n in 0..1000 {
            count(&family, &[&format!("caller-{n}"), &format!("reason-{n}")], start);
        }
        let text = lines(&family, start);
        // Three of their own, some whose second label is kept, and one for all others.
        assert_eq!(text.len(), 3 + MAX_UNKNOWN + 1);
        let rest = 1000 - 3 - MAX_UNKNOWN;
        let rest = format!(r#"seen_total{{who="unknown",why="unknown"}} {rest}"#);
        assert!(text.contains(&rest), "{text:?}");
        assert_eq!(family.overflow(), 997);
    }

    #[test]
    fn an_idle_series_is_removed_and_one_that_is_held_is_not() {
        let (family, start) = (family(), Instant::now());
        count(&family, &["idle", "-"], start);
        let (held, _) = family.with_at(&["held", "-"], start);
        held.value.add(1);
        let long = |who| format!(r#"seen_total{{who="{who}",why="-"}} 1"#);
        assert_eq!(lines(&family, start), [long("held"), long("idle")]);
        assert_eq!(lines(&family, start + IDLE), [long("held")]);
        drop(held);
        assert_eq!(lines(&family, start + IDLE), Vec::<String>::new());
    }

    #[test]
    fn a_series_that_changes_stays() {
        let (family, start) = (family(), Instant::now());
        for minute in 0..60 {
            let now = start + Duration::from_secs(60) * minute;
            count(&family, &["a", "-"], now);
            assert_eq!(
                lines(&family, now),
                [format!(r#"seen_total{{who="a",why="-"}} {}"#, minute + 1)]
            );
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(&*labels(&["b", "a"], &["", "x\"y\\z\n"]), r#"a="x\"y\\z\n",b="""#);
    }

    #[test]
    fn histograms_are_cumulative() {
        let buckets = Buckets::new(&[0.5, 1.0, 10.0]);
        for value in [0.25, 0.5, 0.75, 100.0] {
            buckets.observe(value);
        }
        let mut text = String::new();
        buckets.write("ms", "a=\"b\"", &mut text);
        let expected = "ms_bucket{a=\"b\",le=\"0.5\"} 2\nms_bucket{a=\"b\",le=\"1\"} 3\nms_bucket{a=\"b\",le=\"10\"} 3\n\
            ms_bucket{a=\"b\",le=\"+Inf\"} 4\nms_sum{a=\"b\"} 101.5\nms_count{a=\"b\"} 4\n";
        assert_eq!(text, expected);
    }
}
