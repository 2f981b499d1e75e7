//! `cargo xtask bench plots`: what the tables of `bench/results/` say, as pictures.
//!
//! They are made from the Markdown, not from a run, so that table and picture cannot differ.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::progress::Progress;
use crate::workspace;

/// Of one panel, in pixels.
const SIZE: (u32, u32) = (460, 300);
const PER_LINE: usize = 2;
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xeb);
const OTHERS: RGBColor = RGBColor(0x8b, 0x94, 0x9e);
const BAR: RGBColor = RGBColor(0xcf, 0x22, 0x2e);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Makes them all.
pub(super) fn run(progress: &Progress) -> Result<()> {
    for (path, picture) in pictures()? {
        fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
        progress.note(&format!("written to {}", path.display()));
    }
    Ok(())
}

fn pictures() -> Result<Vec<(PathBuf, String)>> {
    let results = workspace::root().join("bench/results");
    let mut found = Vec::new();
    for (name, draw) in [("control", control as fn(&str) -> Result<String>), ("l7", l7)] {
        let path = results.join(name).with_extension("md");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let picture = draw(&text).with_context(|| path.display().to_string())?;
        found.push((path.with_extension("svg"), picture));
    }
    Ok(found)
}

/// The control plane, by the size of the cluster.
fn control(text: &str) -> Result<String> {
    let table = Table::find(text, "pods")?;
    let pods: Vec<f64> = table
        .header
        .iter()
        .skip(2)
        .map(|cell| number(cell))
        .collect::<Result<_>>()?;
    let curve = |title, row: &str, part: usize, bar| -> Result<Curve> {
        let cells = table.row(row)?;
        let values = cells.iter().skip(2).map(|cell| {
            let part = cell.split(" / ").nth(part);
            number(part.with_context(|| format!("{row}: {cell:?} has too few parts"))?)
        });
        let values: Vec<f64> = values.collect::<Result<_>>()?;
        Ok(Curve {
            title,
            bar,
            points: pods.iter().copied().zip(values).collect(),
        })
    };
    let curves = [
        curve(
            "restart to all in sync, s",
            "**restart to all in sync** (sum)",
            0,
            30.0,
        )?,
        curve("memory, peak, MiB", "**memory, peak**", 0, 1536.0)?,
        curve(
            "change to acknowledged, p99, ms",
            "**change → acknowledged**, p50 / p99 / max",
            1,
            30.0,
        )?,
        curve(
            "an event of the largest Service's EndpointSlices, p50, ms",
            "**an event of its EndpointSlices**, p50 / p99 / max",
            0,
            1.0,
        )?,
    ];
    let title = "Control plane, by pods; dashed: the bar";
    picture(title, &curves, Curve::draw)
}

/// Waypoints, side by side.
fn l7(text: &str) -> Result<String> {
    let table = Table::find(text, "HBONE in, HBONE out")?;
    let bars = |title, column: &str, part: usize| -> Result<Bars> {
        let at = table.column(column)?;
        let mut rows = Vec::new();
        for name in ["Ambit", "Envoy", "Ambit, access log", "Envoy, access log"] {
            let cell = &table.row(name)?[at];
            let part = cell.split(" / ").nth(part);
            let value = number(part.with_context(|| format!("{name}: {cell:?} has too few parts"))?)?;
            rows.push((name, value));
        }
        Ok(Bars { title, rows })
    };
    let all = [
        bars(
            "CPU a request, 16 streams, µs",
            "CPU a request (of a core), 16 streams",
            0,
        )?,
        bars("CPU a request at 1000/s, µs", "at 1000/s", 0)?,
        bars("p50 at 1000/s, µs", "p50 / p99 at 1000/s", 0)?,
        bars("p99 at 1000/s, µs", "p50 / p99 at 1000/s", 1)?,
    ];
    picture("A waypoint on one core: less is better", &all, Bars::draw)
}

/// A table of a Markdown document.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The one whose first column is called so.
    fn find(text: &str, first: &str) -> Result<Self> {
        let cells = |line: &str| -> Vec<String> {
            let line = line.trim_start_matches('|').trim_end_matches('|');
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let mut lines = text.lines().map(cells).skip_while(|cells| cells[0] != first);
        let header = lines
            .next()
            .with_context(|| format!("no table begins with {first:?}"))?;
        let rows = lines.skip(1).take_while(|cells| cells.len() == header.len());
        let rows = rows.collect();
        Ok(Self { header, rows })
    }

    fn row(&self, name: &str) -> Result<&[String]> {
        let row = self.rows.iter().find(|row| row[0] == name);
        Ok(row.with_context(|| format!("the table has no row {name:?}"))?)
    }

    fn column(&self, name: &str) -> Result<usize> {
        let at = self.header.iter().position(|cell| cell == name);
        at.with_context(|| format!("the table has no column {name:?}"))
    }
}

/// What a cell begins with.
fn number(cell: &str) -> Result<f64> {
    let end = cell
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(cell.len());
    let number = cell[..end].parse();
    number.with_context(|| format!("{cell:?} does not begin with a number"))
}

/// A number of an axis, without what the arithmetic left behind its point.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "the library passes it so")]
fn short(number: &f64) -> String {
    ((number * 1e4).round() / 1e4).to_string()
}

/// A quantity by the number of pods, on two logarithmic axes.
struct Curve {
    title: &'static str,
    bar: f64,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let values = || self.points.iter().map(|(_, value)| *value).chain([self.bar]);
        let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return Err(anyhow!("{}: no size was measured", self.title));
        };
        ensure!(
            least > 0.0,
            "{}: 0 has no place on a logarithmic axis",
            self.title
        );
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(
                (first.0..last.0 * 1.2).log_scale(),
                (least / 1.5..most * 1.5).log_scale(),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .y_labels(4)
            .draw()
            .map_err(failed)?;
        let bar = [(first.0, self.bar), (last.0 * 1.2, self.bar)];
        chart
            .draw_series(DashedLineSeries::new(bar, 6, 4, BAR.stroke_width(1)))
            .map_err(failed)?;
        chart
            .draw_series(LineSeries::new(self.points.iter().copied(), OURS.stroke_width(2)))
            .map_err(failed)?;
        let points = self
            .points
            .iter()
            .map(|point| Circle::new(*point, 3, OURS.filled()));
        chart.draw_series(points).map_err(failed)?;
        Ok(())
    }
}

/// A quantity of each of some programs.
struct Bars {
    title: &'static str,
    rows: Vec<(&'static str, f64)>,
}

impl Bars {
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let most = self.rows.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let count = self.rows.len();
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(110)
            .build_cartesian_2d(0.0..most * 1.15, (0..count.saturating_sub(1)).into_segmented())
            .map_err(failed)?;
        let name = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(row) | SegmentValue::Exact(row) => {
                let row = count.checked_sub(row + 1).and_then(|row| self.rows.get(row));
                row.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&short)
            .y_label_formatter(&name)
            .draw()
            .map_err(failed)?;
        // The first one at the top.
        for (at, (name, value)) in self.rows.iter().rev().enumerate() {
            let colour = if name.starts_with("Ambit") { OURS } else { OTHERS };
            let ends = [
                (0.0, SegmentValue::Exact(at)),
                (*value, SegmentValue::Exact(at + 1)),
            ];
            let mut bar = Rectangle::new(ends, colour.filled());
            bar.set_margin(6, 6, 0, 0);
            chart.draw_series([bar]).map_err(failed)?;
            let value = Text::new(
                format!(" {value}"),
                (*value, SegmentValue::CenterOf(at)),
                ("sans-serif", 12),
            );
            chart.draw_series([value]).map_err(failed)?;
        }
        Ok(())
    }
}

/// Panels, two on a line.
fn picture<T>(title: &str, panels: &[T], draw: impl Fn(&T, &Area<'_>) -> Result<()>) -> Result<String> {
    let lines = panels.len().div_ceil(PER_LINE);
    let size = (SIZE.0 * PER_LINE as u32, SIZE.1 * lines as u32 + 32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let rest = root.titled(title, ("sans-serif", 18)).map_err(failed)?;
        for (panel, area) in panels.iter().zip(rest.split_evenly((lines, PER_LINE))) {
            draw(panel, &area)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

/// A drawing into memory fails for what it is asked to draw alone.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_show_the_tables_that_are_there() {
        for (path, picture) in pictures().unwrap() {
            let there = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                there == picture,
                "{} is not of the table beside it: run `cargo xtask bench plots`",
                path.display()
            );
        }
    }

    #[test]
    fn table_without_what_is_drawn_is_an_error_that_says_what() {
        let text = "| pods | bar | 10 |\n|---|---|---|\n| **memory, peak** | ≤ 1 MiB | 3 MiB |\n";
        let error = format!("{:#}", control(text).unwrap_err());
        assert!(
            error.contains("no row \"**restart to all in sync** (sum)\""),
            "{error}"
        );
        let error = format!("{:#}", l7(text).unwrap_err());
        assert!(error.contains("no table begins with"), "{error}");
        assert!(number("MiB").is_err());
    }
}
