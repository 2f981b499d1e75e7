//! The authorization policies.

use ambit_policy::{Connection, Decision, Policies, Policy, Target};
use arc_swap::ArcSwap;
use std::sync::Arc;

use crate::workload::Workload;

/// All authorizations, by name.
#[derive(Debug, Default)]
pub struct Authorizations(ArcSwap<Policies>);

impl Authorizations {
    /// Removes authorizations (`<namespace>/<name>`), then sets others.
    pub fn apply(&self, set: &[Policy], removed: &[String]) {
        self.0.rcu(|policies| {
            let mut policies = Policies::clone(policies);
            for name in removed {
                policies.remove(name);
            }
            for policy in set {
                policies.insert(policy.clone());
            }
            policies
        });
    }

    /// Whether a policy of that name is in force.
    pub fn has(&self, name: &str) -> bool {
        self.0.load().get(name).is_some()
    }

    /// Whether the policies that apply to a workload allow a connection to it.
    pub fn decide(&self, workload: &Workload, connection: &Connection<'_>) -> Decision {
        let target = Target {
            namespace: &workload.namespace,
            policies: &workload.authorization_policies,
        };
        self.0.load().evaluate(connection, target)
    }

    /// The current policies.
    pub fn snapshot(&self) -> Arc<Policies> {
        self.0.load_full()
    }
}
