//! L4 authorization rules.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Effect of a rule that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// The connection may pass.
    Allow,
    /// The connection is denied.
    Deny,
}

/// Whether a rule decides or only reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The rule decides.
    #[default]
    Enforce,
    /// Connections that the rule would deny are counted and logged.
    Audit,
}

/// Which callers may connect, or may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.from) && size(self.from) > 0) || (has(self.ports) && size(self.ports) > 0)")
        .message("a rule needs 'from' or 'ports': for every caller, write from: [{ipBlocks: [\"0.0.0.0/0\", \"::/0\"]}]")
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Name of the rule, unique in the namespace: logs and the status name it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// Allow: a connection that matches may pass; a connection that matches no Allow rule is denied. Deny: a connection
    /// that matches is denied, whatever Allow rules exist.
    pub action: Action,

    /// Enforce: the rule decides. Audit: the rule decides nothing; connections that it would deny are counted and
    /// logged. Defaults to Enforce.
    #[serde(default)]
    pub mode: Mode,

    /// The pods that the rule protects. If absent, all pods of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,

    /// Callers; one entry must match. If absent, every caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub from: Vec<Source>,

    /// Ports of the pod (not of a Service in front of it), 1 to 65535; one must match. If absent, every port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ports: Vec<u16>,
}

/// Selects pods by their labels, as Kubernetes' selectors do; every condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("podSelector needs matchLabels or matchExpressions: for all pods, leave it out"),
)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Labels that a pod must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions on labels, all of which must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && size(self.values) > 0)")
        .message("In and NotIn need values, Exists and DoesNotExist take none"),
)]
#[serde(rename_all = "camelCase")]
pub struct LabelExpression {
    /// Key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// In: the label has one of the values. NotIn: the label has none of them, or is absent. Exists: the label is
    /// present. DoesNotExist: the label is absent.
    pub operator: LabelOperator,
    /// Values, for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is absent.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl PodSelector {
    /// Whether the selector selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |e: &LabelExpression| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|value| e.values.contains(value));
            match e.operator {
                LabelOperator::In => listed,
                LabelOperator::NotIn => !listed,
                LabelOperator::Exists => value.is_some(),
                LabelOperator::DoesNotExist => value.is_none(),
            }
        };
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(holds)
    }
}

/// Callers. In each list that is present, one element must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.principals) && size(self.principals) > 0) || (has(self.namespaces) && size(self.namespaces) > 0) || (has(self.ipBlocks) && size(self.ipBlocks) > 0)")
        .message("an entry of 'from' needs one of principals, namespaces, ipBlocks"),
)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Identities, as `<trust domain>/ns/<namespace>/sa/<service account>`, without `spiffe://`:
    /// cluster.local/ns/shop/sa/cart. A `*` at the beginning or the end matches any text: cluster.local/ns/shop/*,
    /// */sa/cart. `*` alone matches every caller with an identity. Plaintext callers have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 320)))]
    #[x_kube(
        validation = Rule::new("self.all(p, !p.contains('://'))")
            .message("principals are written without a scheme: cluster.local/ns/<namespace>/sa/<service account>, not spiffe://…"),
        validation = Rule::new("self.all(p, p.split('*').size() <= 2 && (!p.contains('*') || p.startsWith('*') || p.endsWith('*')))")
            .message("principals take one '*', as the first or the last character"),
        validation = Rule::new("self.all(p, p.contains('*') || p.contains('://') || (p.split('/').size() == 5 && p.contains('/ns/') && p.contains('/sa/') && !p.contains('//')))")
            .message("principals without '*' are <trust domain>/ns/<namespace>/sa/<service account>")
    )]
    pub principals: Vec<String>,

    /// Namespaces of callers with an identity. A `*` at the beginning or the end matches any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^([*]?[-a-z0-9]+|[-a-z0-9]+[*]|[*])$'))")
        .message("namespaces are names of namespaces; they take one '*', as the first or the last character"))]
    pub namespaces: Vec<String>,

    /// IP addresses of callers: CIDR blocks (10.1.0.0/16, fd00::/8) or single addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 2, max = 43)))]
    #[x_kube(validation = Rule::new("self.all(b, isCIDR(b) || isIP(b))")
        .message("ipBlocks are CIDR blocks like 10.1.0.0/16 or IP addresses"))]
    pub ip_blocks: Vec<String>,
}
