//! Series by the values of their labels, of which the idle ones are removed. Labels can be dropped while the program runs: then series
//! that differed in them alone are one, which has their sum.

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

/// Labels of a metric, at most.
const MAX_LABELS: usize = 32;

/// The values of a series' labels, empty for those that are dropped. A slice's hash tells where each ends.
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
    table: RwLock<Table<M>>,
    /// Those that count towards the bound; changed under the lock.
    bounded: AtomicUsize,
    overflow: AtomicU64,
    searched: Mutex<Option<Instant>>,
}

struct Table<M> {
    /// Labels that no series has; a bit for each.
    dropped: u32,
    series: IndexMap<Values, Arc<Series<M>>>,
    /// Series from before a change of what is dropped that somebody may still count in, and where what they count belongs; the oldest first.
    replaced: Vec<Replaced<M>>,
}

struct Replaced<M> {
    old: Arc<Series<M>>,
    new: Arc<Series<M>>,
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
            table: RwLock::new(Table {
                dropped: 0,
                series: IndexMap::new(),
                replaced: Vec::new(),
            }),
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

    /// How many series count towards the bound, and the bound.
    pub(super) fn bound(&self) -> (usize, usize) {
        (self.bounded.load(Ordering::Relaxed), self.options.most)
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
            let mut table = self.table.write();
            let mut place = [""; MAX_LABELS];
            let values = table.without_dropped(values, &mut place);
            if let Some(series) = table.series.get(&Wanted(values)) {
                return (Arc::clone(series), true);
            }
            // Another may have taken the last place meanwhile.
            if !self.is_full() {
                self.bounded.fetch_add(1, Ordering::Relaxed);
                return (self.insert(&mut table, values, true, now), true);
            }
        }
        self.overflow.fetch_add(1, Ordering::Relaxed);
        (self.unknown(values, now), false)
    }

    fn get(&self, values: &[&str]) -> Option<Arc<Series<M>>> {
        let table = self.table.read();
        let mut place = [""; MAX_LABELS];
        let values = table.without_dropped(values, &mut place);
        table.series.get(&Wanted(values)).cloned()
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
        let mut table = self.table.write();
        let unknown = vec![UNKNOWN; values.len()];
        let full = table.series.len() >= self.bounded.load(Ordering::Relaxed) + MAX_UNKNOWN;
        let mut place = [""; MAX_LABELS];
        let values = table.without_dropped(if full { &unknown } else { &kept }, &mut place);
        if let Some(series) = table.series.get(&Wanted(values)) {
            return Arc::clone(series);
        }
        self.insert(&mut table, values, false, now)
    }

    fn insert(&self, table: &mut Table<M>, values: &[&str], bounded: bool, now: Instant) -> Arc<Series<M>> {
        let value = (self.make)();
        let seen = Mutex::new(Seen {
            version: value.version(),
            since: now,
        });
        let labels = self.options.labels.iter().zip(values).enumerate();
        let labels = labels.filter(|(index, _)| !table.drops(*index));
        let series = Arc::new(Series {
            value,
            labels: text(labels.map(|(_, (name, value))| (*name, *value))),
            bounded,
            seen,
        });
        let values = values.iter().map(|value| Box::from(*value)).collect();
        table.series.insert(values, Arc::clone(&series));
        series
    }

    /// From now on no series has these labels. What was counted goes on where it belongs now; a label that comes back is empty in it.
    pub(super) fn set_dropped(&self, labels: &[&str]) {
        self.set_dropped_at(labels, Instant::now());
    }

    fn set_dropped_at(&self, labels: &[&str], now: Instant) {
        let named = self.options.labels.iter().enumerate();
        let dropped = named
            .filter(|(_, name)| labels.contains(name))
            .fold(0, |dropped, (index, _)| dropped | 1 << index);
        let mut table = self.table.write();
        if table.dropped == dropped {
            return;
        }
        table.dropped = dropped;
        // All of them are replaced, so that nobody goes on counting in one that is there no more.
        let before = std::mem::take(&mut table.series);
        let mut bounded = 0;
        for (values, old) in before {
            let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
            let mut place = [""; MAX_LABELS];
            let values = table.without_dropped(&values, &mut place);
            let new = match table.series.get(&Wanted(values)) {
                Some(new) => Arc::clone(new),
                None => {
                    bounded += usize::from(old.bounded);
                    self.insert(&mut table, values, old.bounded, now)
                }
            };
            old.value.move_to(&new.value);
            table.replaced.push(Replaced { old, new });
        }
        self.bounded.store(bounded, Ordering::Relaxed);
        drop(table);
        self.settle();
    }

    /// Moves what was counted in series that have been replaced to where it belongs.
    fn settle(&self) {
        if self.table.read().replaced.is_empty() {
            return;
        }
        let mut table = self.table.write();
        for Replaced { old, new } in std::mem::take(&mut table.replaced) {
            old.value.move_to(&new.value);
            match Arc::try_unwrap(old) {
                // Nobody can count in it any more; somebody may have, a moment ago.
                Ok(old) => old.value.move_to(&new.value),
                Err(old) => table.replaced.push(Replaced { old, new }),
            }
        }
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
        self.settle();
        self.table.write().series.retain(|_, series| {
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
        let mut series: Vec<_> = self.table.read().series.values().cloned().collect();
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

impl<M> Table<M> {
    fn drops(&self, index: usize) -> bool {
        self.dropped & 1 << index != 0
    }

    /// `values`, empty where the label is dropped; written to `place` where any is.
    fn without_dropped<'v, 'p>(
        &self,
        values: &'p [&'v str],
        place: &'p mut [&'v str; MAX_LABELS],
    ) -> &'p [&'v str] {
        if self.dropped == 0 {
            return values;
        }
        let place = &mut place[..values.len()];
        place.copy_from_slice(values);
        for (index, value) in place.iter_mut().enumerate() {
            if self.drops(index) {
                *value = "";
            }
        }
        place
    }
}

/// `a="b",…` by name, as the prometheus crate writes them, escaped as the text format wants it.
fn text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Box<str> {
    let mut text = String::new();
    let mut pairs: Vec<_> = labels.collect();
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
    fn series_that_differ_in_a_dropped_label_alone_are_one_that_has_their_sum() {
        let (family, start) = (family(), Instant::now());
        let (held, own) = family.with_at(&["held", "x"], start);
        assert!(own);
        let weak = Arc::downgrade(&held);
        held.value.add(10);
        count(&family, &["a", "x"], start);
        count(&family, &["b", "y"], start);
        family.set_dropped_at(&["who"], start);
        assert_eq!(
            lines(&family, start),
            [r#"seen_total{why="x"} 11"#, r#"seen_total{why="y"} 1"#]
        );
        // Connections that are open go on counting in what they hold.
        held.value.add(5);
        count(&family, &["c", "x"], start);
        assert_eq!(lines(&family, start)[0], r#"seen_total{why="x"} 17"#);
        // The sum stays as long as one of them does, however idle it is.
        let later = start + IDLE;
        assert_eq!(lines(&family, later), [r#"seen_total{why="x"} 17"#]);
        held.value.add(1);
        drop(held);
        assert_eq!(lines(&family, later), [r#"seen_total{why="x"} 18"#]);
        assert!(weak.upgrade().is_none(), "a cache that has it looks it up again");
        assert_eq!(lines(&family, later + IDLE), Vec::<String>::new());
    }

    #[test]
    fn a_label_that_comes_back_is_there_in_what_is_counted_from_then_on() {
        let (family, now) = (family(), Instant::now());
        family.set_dropped_at(&["who", "of another metric"], now);
        let (held, _) = family.with_at(&["a", "x"], now);
        held.value.add(1);
        family.set_dropped_at(&["why"], now);
        held.value.add(1);
        count(&family, &["a", "x"], now);
        assert_eq!(
            lines(&family, now),
            [r#"seen_total{who=""} 2"#, r#"seen_total{who="a"} 1"#]
        );
        family.set_dropped_at(&[], now);
        count(&family, &["a", "x"], now);
        held.value.add(1);
        assert_eq!(
            lines(&family, now),
            [
                r#"seen_total{who="",why=""} 3"#,
                r#"seen_total{who="a",why=""} 1"#,
                r#"seen_total{who="a",why="x"} 1"#,
            ]
        );
    }

    #[test]
    fn the_bound_is_that_of_what_is_left_of_the_labels() {
        let (family, start) = (family(), Instant::now());
        for who in 0..100 {
            count(&family, &[&who.to_string(), "-"], start);
        }
        assert_eq!((lines(&family, start).len(), family.overflow()), (4, 97));
        family.set_dropped_at(&["who"], start);
        // What had no room is among them, so the sum is whole.
        assert_eq!(lines(&family, start), [r#"seen_total{why="-"} 100"#]);
        for who in 0..100 {
            count(&family, &[&who.to_string(), "-"], start);
        }
        assert_eq!(lines(&family, start), [r#"seen_total{why="-"} 200"#]);
        assert_eq!(family.overflow(), 97, "there is room for all of them");
        for why in 0..100 {
            count(&family, &["a", &why.to_string()], start);
        }
        assert!(lines(&family, start).len() <= OPTIONS.most + MAX_UNKNOWN + 1);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(
            &*text([("b", ""), ("a", "x\"y\\z\n")].into_iter()),
            r#"a="x\"y\\z\n",b="""#
        );
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
