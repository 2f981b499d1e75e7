//! A dashboard as its definition has it, and as Grafana wants it.

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// The version of the JSON model: that of Grafana 10, which later releases read.
const SCHEMA: u64 = 39;

/// Labels, as the heads of tables call them.
const COLUMN_NAMES: &[(&str, &str)] = &[
    ("destination_service", "Service"),
    ("destination_workload", "To"),
    ("destination_workload_namespace", "To namespace"),
    ("source_workload", "From"),
    ("source_workload_namespace", "From namespace"),
];

/// What a value counts; the names are Grafana's.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Number,
    Requests,
    PerSecond,
    Bytes,
    BytesPerSecond,
    Share,
    Seconds,
    Milliseconds,
    Cores,
    Money,
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Number => "short",
            Self::Requests => "reqps",
            Self::PerSecond => "cps",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "Bps",
            Self::Share => "percentunit",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Cores => "suffix: cores",
            Self::Money => "currencyUSD",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Graph,
    Stat,
    Table,
}

/// One picture.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// Legend and PromQL.
    pub(super) queries: Vec<(&'static str, String)>,
    kind: Kind,
    unit: Unit,
    width: u64,
    /// Red past it: above, or below.
    bad: Option<(f64, bool)>,
}

impl Panel {
    /// Lines over time. The description says what a high value means.
    pub(super) fn graph(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self::new(Kind::Graph, title, unit, description, 8)
    }

    /// One number, the latest.
    pub(super) fn stat(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self::new(Kind::Stat, title, unit, description, 4)
    }

    /// A row for each series, as it is now.
    pub(super) fn table(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self::new(Kind::Table, title, unit, description, 12)
    }

    fn new(kind: Kind, title: &'static str, unit: Unit, description: &'static str, width: u64) -> Self {
        Self {
            title,
            description,
            queries: Vec::new(),
            kind,
            unit,
            width,
            bad: None,
        }
    }

    /// Adds a query.
    pub(super) fn query(mut self, legend: &'static str, expression: impl Into<String>) -> Self {
        self.queries.push((legend, expression.into()));
        self
    }

    /// Red from this value up.
    pub(super) fn bad_above(mut self, value: f64) -> Self {
        self.bad = Some((value, true));
        self
    }

    /// Red below this value.
    pub(super) fn bad_below(mut self, value: f64) -> Self {
        self.bad = Some((value, false));
        self
    }

    fn height(&self) -> u64 {
        if self.kind == Kind::Stat { 4 } else { 8 }
    }

    fn render(&self, id: u64, x: u64, y: u64) -> Value {
        let targets: Vec<Value> = self
            .queries
            .iter()
            .zip('A'..)
            .map(|((legend, expression), reference)| {
                json!({
                    "refId": reference.to_string(), "datasource": source(), "editorMode": "code",
                    "expr": expression, "legendFormat": legend,
                    "instant": self.kind == Kind::Table, "range": self.kind != Kind::Table,
                    "format": if self.kind == Kind::Table { "table" } else { "time_series" },
                })
            })
            .collect();
        let mut panel = json!({
            "id": id, "title": self.title, "description": self.description, "datasource": source(),
            "gridPos": { "h": self.height(), "w": self.width, "x": x, "y": y },
            "targets": targets,
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
        });
        let (kind, options) = match self.kind {
            Kind::Graph => (
                "timeseries",
                json!({
                    "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                    "tooltip": { "mode": "multi", "sort": "desc" },
                }),
            ),
            Kind::Stat => (
                "stat",
                json!({
                    "colorMode": "value", "graphMode": "area", "textMode": "auto",
                    "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                }),
            ),
            Kind::Table => {
                panel["transformations"] = json!([
                    { "id": "merge", "options": {} },
                    { "id": "organize", "options": { "excludeByName": { "Time": true }, "renameByName": self.columns() } },
                ]);
                ("table", json!({ "showHeader": true, "cellHeight": "sm" }))
            }
        };
        panel["type"] = kind.into();
        panel["options"] = options;
        panel
    }

    /// A table's column is named after its query's legend (Grafana calls it `Value` where there is one, `Value #A` where there are more), or
    /// after its label.
    fn columns(&self) -> Value {
        let names = self.queries.iter().zip('A'..).map(|((legend, _), reference)| {
            let column = if self.queries.len() == 1 {
                "Value".to_owned()
            } else {
                format!("Value #{reference}")
            };
            (column, json!(legend))
        });
        let labels = COLUMN_NAMES
            .iter()
            .map(|(label, name)| ((*label).to_owned(), json!(name)));
        Value::Object(names.chain(labels).collect())
    }

    fn defaults(&self) -> Value {
        let steps = match self.bad {
            None => json!([{ "color": "green", "value": null }]),
            Some((value, true)) => {
                json!([{ "color": "green", "value": null }, { "color": "red", "value": value }])
            }
            Some((value, false)) => {
                json!([{ "color": "red", "value": null }, { "color": "green", "value": value }])
            }
        };
        let mut defaults = json!({
            "unit": self.unit.id(), "min": 0,
            "color": { "mode": if self.kind == Kind::Stat { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps },
        });
        if matches!(self.unit, Unit::Share) {
            defaults["max"] = 1.into();
        }
        if self.kind == Kind::Graph {
            defaults["custom"] = json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false,
            });
        }
        defaults
    }
}

/// Panels under a title.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// What the reader chooses.
pub(super) enum Variable {
    /// The values of a label among a metric's series.
    Label {
        name: &'static str,
        title: &'static str,
        /// Metric with a selector, and the label.
        of: (&'static str, &'static str),
        /// Whether several may be chosen, and all are at first.
        many: bool,
    },
    /// What a regular expression finds in the series of a query.
    Query {
        name: &'static str,
        title: &'static str,
        query: &'static str,
        regex: &'static str,
    },
    /// A number that the reader types.
    Text {
        name: &'static str,
        title: &'static str,
        value: &'static str,
    },
}

impl Variable {
    pub(super) fn one(name: &'static str, title: &'static str, of: (&'static str, &'static str)) -> Self {
        Self::Label {
            name,
            title,
            of,
            many: false,
        }
    }

    pub(super) fn many(name: &'static str, title: &'static str, of: (&'static str, &'static str)) -> Self {
        Self::Label {
            name,
            title,
            of,
            many: true,
        }
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Label { name, .. } | Self::Query { name, .. } | Self::Text { name, .. } => name,
        }
    }

    fn render(&self) -> Value {
        match self {
            Self::Label {
                name,
                title,
                of: (metric, label),
                many,
            } => {
                let mut variable = lookup(name, title, &format!("label_values({metric}, {label})"), 1);
                if *many {
                    variable["multi"] = true.into();
                    variable["includeAll"] = true.into();
                    variable["current"] = json!({ "text": ["All"], "value": ["$__all"] });
                }
                variable
            }
            Self::Query {
                name,
                title,
                query,
                regex,
            } => {
                let mut variable = lookup(name, title, query, 3);
                variable["regex"] = (*regex).into();
                variable
            }
            Self::Text { name, title, value } => json!({
                "name": name, "label": title, "type": "textbox", "hide": 0, "query": value,
                "current": { "text": value, "value": value }, "options": [{ "text": value, "value": value, "selected": true }],
            }),
        }
    }
}

/// A variable that Prometheus fills, by the kind of query as Grafana numbers them.
fn lookup(name: &str, title: &str, query: &str, kind: u8) -> Value {
    json!({
        "name": name, "label": title, "type": "query", "datasource": source(), "definition": query,
        "query": { "qryType": kind, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery" },
        // On every change of the time range: workloads come and go.
        "refresh": 2, "sort": 1, "hide": 0, "multi": false, "includeAll": false,
    })
}

/// A page.
pub(super) struct Dashboard {
    /// Part of its file's name and of its address in Grafana.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) variables: Vec<Variable>,
    pub(super) rows: Vec<Row>,
}

impl Dashboard {
    /// The JSON model.
    pub(super) fn render(&self) -> Value {
        let mut variables = vec![json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1,
            "current": {}, "options": [], "multi": false, "includeAll": false,
        })];
        variables.extend(self.variables.iter().map(Variable::render));
        json!({
            "uid": format!("ambit-{}", self.name), "title": self.title, "description": self.description,
            "tags": ["ambit"], "schemaVersion": SCHEMA, "version": 1, "editable": true, "graphTooltip": 1,
            "timezone": "browser", "time": { "from": "now-1h", "to": "now" }, "refresh": "30s",
            "templating": { "list": variables }, "annotations": { "list": [] },
            "links": [{
                "type": "dashboards", "title": "Ambit", "tags": ["ambit"], "asDropdown": true, "includeVars": true, "keepTime": true,
            }],
            "panels": self.panels(),
        })
    }

    fn panels(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut y = 0;
        for row in &self.rows {
            let id = all.len() as u64 + 1;
            all.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    (x, y, height) = (0, y + height, 0);
                }
                all.push(panel.render(all.len() as u64 + 1, x, y));
                x += panel.width;
                height = height.max(panel.height());
            }
            y += height;
        }
        all
    }
}

/// The data source that the reader chose.
fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}
