//! `cargo xtask dashboards`: the chart's Grafana dashboards, from the definitions beside this file.
//!
//! A definition has titles, descriptions, units and queries; [`model`] adds what Grafana needs besides. Queries use the
//! metrics that `docs/operations.md` lists, and the target labels `namespace` and `pod` that every usual scrape
//! configuration sets.

mod control_plane;
mod cost;
mod mesh;
mod model;
mod namespace;
mod query;
mod waypoint;
mod workload;
mod ztunnel;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::workspace;
use model::Dashboard;

/// Generate or check.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail where the files differ from the definitions.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if arguments.check {
        return check();
    }
    fs::create_dir_all(folder()).context("cannot create the folder of the dashboards")?;
    for (path, text) in generate()? {
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        progress.note(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Fails where a file differs from its definition, and where one has none.
pub(crate) fn check() -> Result<()> {
    let wanted = generate()?;
    let differ = wanted
        .iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text));
    let mut wrong: Vec<String> = differ.map(|(path, _)| path.display().to_string()).collect();
    for entry in fs::read_dir(folder()).context("the chart has no dashboards")? {
        let path = entry?.path();
        if !wanted.contains_key(&path) {
            wrong.push(path.display().to_string());
        }
    }
    if !wrong.is_empty() {
        bail!(
            "not what `cargo xtask dashboards` generates: {}",
            wrong.join(", ")
        );
    }
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("charts/ambit/dashboards")
}

fn generate() -> Result<BTreeMap<PathBuf, String>> {
    let files = all().into_iter().map(|dashboard| {
        let text = serde_json::to_string_pretty(&dashboard.render())?;
        Ok((folder().join(format!("{}.json", dashboard.name)), text + "\n"))
    });
    files.collect()
}

fn all() -> [Dashboard; 7] {
    [
        mesh::dashboard(),
        namespace::dashboard(),
        workload::dashboard(),
        ztunnel::dashboard(),
        waypoint::dashboard(),
        control_plane::dashboard(),
        cost::dashboard(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_panel_explains_itself() {
        for dashboard in all() {
            let panels = dashboard.rows.iter().flat_map(|row| &row.panels);
            let mut titles = BTreeSet::new();
            for panel in panels {
                let at = format!("{}, {}", dashboard.name, panel.title);
                assert!(
                    panel.description.len() > 30 && panel.description.ends_with('.'),
                    "{at}"
                );
                assert!(!panel.queries.is_empty(), "{at}");
                assert!(titles.insert(panel.title), "{at}: twice");
            }
        }
    }

    #[test]
    fn a_query_uses_no_variable_that_its_dashboard_lacks() {
        for dashboard in all() {
            let names: Vec<&str> = dashboard
                .variables
                .iter()
                .map(|variable| variable.name())
                .collect();
            let queries = dashboard
                .rows
                .iter()
                .flat_map(|row| &row.panels)
                .flat_map(|panel| &panel.queries);
            for (_, query) in queries {
                for used in query.split('$').skip(1) {
                    let name: String = used
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect();
                    assert!(
                        name == "__rate_interval" || names.contains(&name.as_str()),
                        "{}: ${name} in {query}",
                        dashboard.name
                    );
                }
            }
        }
    }

    #[test]
    fn no_two_panels_overlap_and_none_leaves_the_grid() {
        for dashboard in all() {
            let rendered = dashboard.render();
            let mut taken = BTreeSet::new();
            for panel in rendered["panels"].as_array().unwrap() {
                let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
                assert!(at("x") + at("w") <= 24, "{}: {}", dashboard.name, panel["title"]);
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(taken.insert((x, y)), "{}: {}", dashboard.name, panel["title"]);
                    }
                }
            }
        }
    }
}
