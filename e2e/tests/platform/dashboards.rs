//! Dashboards and alerts: every query against a real Prometheus that scrapes the cluster under load.

mod istio;
mod load;

use std::collections::BTreeMap;
use std::fs;

use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::prometheus::{Prometheus, Sample};
use ambit_e2e::{eventually, mesh, workspace};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use load::{Load, NAMESPACE};

/// What fills these is a failure that the load does not provoke: dashboard, panel, legend, and why.
const EMPTY: &[(&str, &str, &str, &str)] = &[
    (
        "ambit-control-plane",
        "Configuration rejected by type",
        "{{role}} {{type_url}}",
        "no proxy rejects what this control plane sends",
    ),
    (
        "ambit-control-plane",
        "Certificates refused by reason",
        "{{reason}}",
        "no proxy asks for a certificate that it may not have",
    ),
];

/// Metrics of alerts that have no series before the first failure.
const ABSENT: &[&str] = &["ambit_config_rejected_total"];

/// A query of a panel.
#[derive(Debug)]
struct Query {
    dashboard: String,
    panel: String,
    legend: String,
    expression: String,
    variables: Vec<Variable>,
}

#[test]
fn every_panel_of_every_dashboard_fills() -> Result<()> {
    let lab = Lab::enter()?;
    // Istio's dashboards of Services and workloads ask for the destination's side.
    let mesh = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"},
        "spec": {"telemetry": {"metrics": {"waypointReportsDestination": "Enabled"}}},
    });
    mesh::apply(&lab.cluster, &mesh.to_string())?;
    let result = lab.with_shop(NAMESPACE, |shop| {
        let load = Load::start(&lab, shop)?;
        let prometheus = Prometheus::start(&lab.cluster, &|message| println!("{message}"))?;
        let queries = queries()?;
        for (dashboard, panel, legend, _) in EMPTY {
            let named = |query: &&Query| {
                (&*query.dashboard, &*query.panel, &*query.legend) == (*dashboard, *panel, *legend)
            };
            ensure!(
                queries.iter().any(|query| named(&query)),
                "no panel {dashboard}, {panel}, {legend}"
            );
        }
        let (excused, mut waiting): (Vec<&Query>, Vec<&Query>) = queries.iter().partition(|query| {
            EMPTY.iter().any(|(dashboard, panel, legend, _)| {
                query.dashboard == *dashboard && query.panel == *panel && query.legend == *legend
            })
        });
        for query in excused {
            // It has to be understood all the same.
            fills(&prometheus, query)?;
        }
        let all = waiting.len();
        eventually("every panel to fill", LIMIT * 2, || {
            load.stir()?;
            let mut empty = Vec::new();
            for query in &waiting {
                if !fills(&prometheus, query)? {
                    empty.push(*query);
                }
            }
            waiting = empty;
            ensure!(waiting.is_empty(), "empty: {waiting:#?}");
            Ok(())
        })?;
        println!(
            "{all} queries of 7 dashboards have series; {} are empty in a mesh that is well",
            EMPTY.len()
        );
        check_alerts(&prometheus)?;
        istio::check(&prometheus, &load)
    });
    // Whatever came of it, the next test finds the Mesh as it was.
    let restored = mesh::apply(&lab.cluster, mesh::MESH);
    result.and(restored)
}

/// Every alert is evaluated without an error, the series that it names are there, and none of the worst fires.
fn check_alerts(prometheus: &Prometheus) -> Result<()> {
    let alerts = eventually("every alert to be evaluated", LIMIT, || {
        let alerts = prometheus.alerts()?;
        ensure!(alerts.len() > 15, "{} alerts", alerts.len());
        for alert in &alerts {
            ensure!(
                alert["health"] == "ok",
                "{}: {}",
                alert["name"],
                alert["lastError"]
            );
        }
        Ok(alerts)
    })?;
    let mut states = BTreeMap::new();
    for alert in &alerts {
        let expression = alert["query"].as_str().unwrap_or_default();
        for metric in metrics_of(expression) {
            let there = !prometheus.query(&format!("count({metric})"))?.is_empty();
            ensure!(
                there || ABSENT.contains(&metric),
                "{} asks for {metric}, which is not there",
                alert["name"]
            );
        }
        let name = alert["name"].as_str().unwrap_or_default().to_owned();
        let state = alert["state"].as_str().unwrap_or_default().to_owned();
        ensure!(
            alert["labels"]["severity"] != "critical" || state == "inactive",
            "{name} is {state}: {}",
            alert["alerts"]
        );
        if state != "inactive" {
            states.insert(name, state);
        }
    }
    println!(
        "{} alerts evaluated; under this load not inactive: {states:?}",
        alerts.len()
    );
    Ok(())
}

/// The metrics that an expression names.
fn metrics_of(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = ["ambit_", "istio_", "container_"];
    words
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .collect()
}

/// Whether a query has a value for one of the workloads that a reader may choose.
fn fills(prometheus: &Prometheus, query: &Query) -> Result<bool> {
    for workload in load::WORKLOADS {
        let text = substitute(prometheus, query, workload)?;
        let samples = prometheus.query(&text).with_context(|| text.clone())?;
        if samples.iter().any(|sample: &Sample| sample.value.is_finite()) {
            return Ok(true);
        }
        if !query.expression.contains("$workload") {
            break;
        }
    }
    Ok(false)
}

/// Some scrapes, as Grafana chooses it.
const RATE_INTERVAL: &str = "40s";

/// A query as Grafana would send it: with the reader's choices in place of variables. Of variables that take several values, all are chosen.
fn substitute(prometheus: &Prometheus, query: &Query, workload: &str) -> Result<String> {
    let mut text = query.expression.replace("$__rate_interval", RATE_INTERVAL);
    // The later ones may use the earlier ones.
    let mut chosen = Vec::new();
    for variable in &query.variables {
        let choice = match &variable.lookup {
            None => variable.text.clone(),
            Some((metric, label)) => {
                let metric = chosen
                    .iter()
                    .fold(metric.clone(), |metric, (name, value): &(String, String)| {
                        metric.replace(name, value)
                    });
                let values = prometheus.query(&format!("group by ({label}) ({metric})"))?;
                let values = values.iter().filter_map(|sample| sample.labels[label].as_str());
                if variable.many {
                    format!("({})", values.collect::<Vec<_>>().join("|"))
                } else {
                    let mut values = values.filter(|value| *value == NAMESPACE || *value == mesh::NAMESPACE);
                    values.next().unwrap_or_default().to_owned()
                }
            }
        };
        chosen.push((format!("${}", variable.name), choice));
    }
    chosen.push(("$workload".to_owned(), workload.to_owned()));
    for (name, value) in &chosen {
        text = text.replace(name, value);
    }
    ensure!(!text.contains('$'), "a variable is left: {text}");
    Ok(text)
}

/// What a reader chooses, but for the workload.
#[derive(Debug, Clone)]
struct Variable {
    name: String,
    /// The metric, with a selector, and the label whose values there are; none where the reader types.
    lookup: Option<(String, String)>,
    /// What the reader typed.
    text: String,
    many: bool,
}

impl Variable {
    fn read(variable: &Value) -> Option<Self> {
        let name = variable["name"].as_str()?.to_owned();
        let query = variable["query"]["query"].as_str();
        let lookup = query.and_then(|query| {
            query
                .strip_prefix("label_values(")?
                .strip_suffix(')')?
                .rsplit_once(", ")
        });
        let typed = variable["type"] == "textbox";
        (lookup.is_some() || typed).then(|| Self {
            name,
            lookup: lookup.map(|(metric, label)| (metric.to_owned(), label.to_owned())),
            text: variable["query"].as_str().unwrap_or_default().to_owned(),
            many: variable["multi"] == true,
        })
    }
}

/// Every query of every dashboard of the chart.
fn queries() -> Result<Vec<Query>> {
    let folder = workspace().join("charts/ambit/dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(entry?.path())?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
        let variables: Vec<Variable> = variables.filter_map(Variable::read).collect();
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                found.push(Query {
                    dashboard: text(&dashboard["uid"]),
                    panel: text(&panel["title"]),
                    legend: text(&target["legendFormat"]),
                    expression: text(&target["expr"]),
                    variables: variables.clone(),
                });
            }
        }
    }
    if found.len() < 100 {
        bail!("{} queries in {}", found.len(), folder.display());
    }
    Ok(found)
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = metrics_of("sum by (pod) (rate(ambit_a_total{b=\"x\"}[5m])) / container_c > 0");
    assert_eq!(found, ["ambit_a_total", "container_c"]);
}
