//! Settings for everything that this waypoint serves.

use std::sync::Arc;

use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::RuleSet;

/// The identity of this waypoint, and settings for everything that it serves.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Whether the control plane has sent them.
    pub(crate) received: bool,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) trust_domain: String,
    /// Whether each request is logged; denials and errors are logged in any case.
    pub(crate) access_log: bool,
    /// Rules for connections to a pod's own address.
    pub(crate) workload_rules: RuleSet,
    pub(super) workload_authorization: Vec<Arc<str>>,
}

/// Before any settings are received: nothing passes to pods' own addresses.
impl Default for Settings {
    fn default() -> Self {
        Self {
            received: false,
            namespace: String::new(),
            name: String::new(),
            trust_domain: String::new(),
            access_log: true,
            workload_rules: RuleSet::unknown(),
            workload_authorization: Vec::new(),
        }
    }
}

impl Settings {
    pub(super) fn resolve(
        from: wire::Settings,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        let workload_authorization: Vec<Arc<str>> =
            from.workload_authorization.into_iter().map(Arc::from).collect();
        Self {
            received: true,
            workload_rules: RuleSet::resolve(&workload_authorization, policy),
            namespace: from.namespace,
            name: from.name,
            trust_domain: from.trust_domain,
            access_log: from.access_log,
            workload_authorization,
        }
    }

    /// The same, with pods' own addresses closed, since the rules for them are not understood.
    pub(super) fn closed(&self) -> Self {
        let unknown = vec![Arc::from("of the settings, which require a later version,")];
        Self {
            workload_rules: RuleSet::resolve(&unknown, |_| None),
            workload_authorization: unknown,
            ..self.clone()
        }
    }

    pub(super) fn resolve_again(&self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        Self {
            workload_rules: RuleSet::resolve(&self.workload_authorization, policy),
            ..self.clone()
        }
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        self.workload_authorization
            .iter()
            .any(|name| policies.contains(name))
    }
}
