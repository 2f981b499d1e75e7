//! Placement, resources and roll-out of pods. Part of Mesh and AmbientNamespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Where pods run, as in the spec of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must have, besides `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate. Replaces the default tolerations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.all(t, !has(t.operator) || t.operator in ['', 'Exists', 'Equal', 'Lt', 'Gt'])")
            .message("operator of a toleration is Exists or Equal"),
        validation = Rule::new("self.all(t, !has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute'])")
            .message("effect of a toleration is NoSchedule, PreferNoSchedule or NoExecute"),
        validation = Rule::new("self.all(t, (has(t.key) && t.key != '') || (has(t.operator) && t.operator == 'Exists'))")
            .message("a toleration without a key needs operator: Exists"),
        validation = Rule::new("self.all(t, !has(t.operator) || t.operator != 'Exists' || !has(t.value) || t.value == '')")
            .message("a toleration with operator: Exists takes no value")
    )]
    pub tolerations: Vec<Toleration>,

    /// `affinity` of the pods, as in the spec of a pod. The API server checks it only when the pods' owner is applied;
    /// if the API server refuses it, the status has the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<serde_json::Value>,

    /// Name of the PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// A Secret with the credentials of a registry, in the namespace of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How many pods of a DaemonSet are replaced at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How many nodes get a new pod at the same time: a number, or a share of all nodes, rounded up, as in `10%`.
    /// Defaults to 10%.
    #[serde(default = "default_at_once")]
    #[schemars(length(min = 1, max = 6))]
    #[x_kube(validation = Rule::new("self.matches('^([1-9][0-9]{0,4}|[1-9][0-9]?%|100%)$')")
        .message("nodesAtOnce is a number of nodes, at least 1, or a percentage from 1% to 100%"))]
    pub nodes_at_once: String,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            nodes_at_once: default_at_once(),
        }
    }
}

impl Rollout {
    /// As in Kubernetes: a number, or a text with a percentage.
    pub fn at_once(&self) -> serde_json::Value {
        match self.nodes_at_once.parse::<u32>() {
            Ok(number) => number.into(),
            Err(_) => self.nodes_at_once.as_str().into(),
        }
    }
}

fn default_at_once() -> String {
    "10%".to_owned()
}

/// Compute resources of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Resources that the scheduler reserves on the node, by resource name (cpu, memory). Not above the limits.
    /// Defaults to cpu 100m and memory 64Mi.
    #[serde(default = "default_requests", deserialize_with = "texts_or_numbers")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,

    /// The maximum that the container may use, by resource name. No limits by default, since a throttled or killed
    /// ztunnel or agent slows or breaks every pod of its node. Exception: waypoints without any resources set have a
    /// limit of 512Mi of memory.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "texts_or_numbers"
    )]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            requests: default_requests(),
            limits: BTreeMap::new(),
        }
    }
}

impl Resources {
    /// Resources that the API server would refuse in a pod: the field and the reason.
    pub fn mistake(&self) -> Option<String> {
        self.requests.iter().find_map(|(name, request)| {
            let limit = self.limits.get(name)?;
            let above = amount(&request.0)? > amount(&limit.0)?;
            above.then(|| format!("requests.{name} {} is above limits.{name} {}", request.0, limit.0))
        })
    }
}

/// A quantity in units; `None` if it is malformed.
fn amount(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let factor = match &text[end..] {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => return format!("1{exponent}").parse::<f64>().ok().map(|f| number * f),
    };
    Some(number * factor)
}

/// A map of quantities without a sign, as Kubernetes' own definitions have it.
fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "pattern": r"^(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
            "x-kubernetes-int-or-string": true,
        },
    })
}

/// Quantities of a custom resource. The API server does not convert numbers in them to texts, as it does in its own
/// kinds.
fn texts_or_numbers<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Quantity>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumber {
        Text(String),
        Number(i64),
    }
    let quantities = BTreeMap::<String, TextOrNumber>::deserialize(from)?.into_iter();
    let text = |value| match value {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    };
    Ok(quantities
        .map(|(name, value)| (name, Quantity(text(value))))
        .collect())
}

/// The schema of an object without a schema of its own.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn default_requests() -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity("100m".to_owned())),
        ("memory".to_owned(), Quantity("64Mi".to_owned())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(request: &str, limit: &str) -> Resources {
        let map = |text: &str| BTreeMap::from([("cpu".to_owned(), Quantity(text.to_owned()))]);
        Resources {
            requests: map(request),
            limits: map(limit),
        }
    }

    #[test]
    fn requests_above_limits_are_named() {
        for (request, limit) in [("2", "1500m"), ("1Gi", "1G"), ("1e3", "999"), ("1", "100m")] {
            let mistake = resources(request, limit).mistake().unwrap();
            assert!(mistake.contains(request) && mistake.contains(limit), "{mistake}");
        }
        for (request, limit) in [("1", "1"), ("100m", "0.1"), ("1G", "1Gi"), ("500m", "1")] {
            assert_eq!(resources(request, limit).mistake(), None);
        }
    }

    /// The API server leaves numbers in custom resources as they are.
    #[test]
    fn quantities_are_texts_or_numbers() {
        let resources: Resources =
            serde_json::from_value(serde_json::json!({"requests": {"cpu": 1, "memory": "1Gi"}})).unwrap();
        assert_eq!(resources.requests["cpu"].0, "1");
    }

    #[test]
    fn rollouts_are_numbers_or_parts() {
        let at_once = |text: &str| {
            Rollout {
                nodes_at_once: text.to_owned(),
            }
            .at_once()
        };
        assert_eq!(at_once("3"), serde_json::json!(3));
        assert_eq!(at_once("10%"), serde_json::json!("10%"));
    }
}
