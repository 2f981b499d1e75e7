//! All policies, and those that apply to a workload.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::matching::{Connection, Rule};

/// Separates the variant from the name that users gave a policy. While the control plane changes which workloads a
/// policy applies to, two variants of it exist for a moment. Names of Kubernetes objects have no colons.
pub const VARIANT_END: &str = "::";

/// `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// The namespace of the policy.
    pub namespace: String,
    /// The name in that namespace, with the variant if there is one.
    pub name: String,
}

impl PolicyName {
    /// The name as users wrote it: without the variant (see [`VARIANT_END`]).
    pub fn shown(&self) -> String {
        format!("{}/{}", self.namespace, without_variant(&self.name))
    }
}

fn without_variant(name: &str) -> &str {
    name.split_once(VARIANT_END).map_or(name, |(_, name)| name)
}

/// [`PolicyName::shown`] of a `namespace/name`.
pub(crate) fn shown(name: &str) -> String {
    match name.split_once('/') {
        Some((namespace, name)) => format!("{namespace}/{}", without_variant(name)),
        None => name.to_owned(),
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text is not the name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy name {0:?} is not namespace/name")]
pub struct ParsePolicyNameError(String);

impl FromStr for PolicyName {
    type Err = ParsePolicyNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| ParsePolicyNameError(text.to_owned()))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which workloads a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// All workloads of the mesh.
    Global,
    /// All workloads in the namespace of the policy.
    Namespace,
    /// Workloads that refer to the policy.
    WorkloadSelector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Allow the connection.
    Allow,
    /// Deny the connection.
    Deny,
}

/// One authorization policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// The workloads that it applies to.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// One matching rule is enough. Without rules nothing matches.
    pub rules: Vec<Rule>,
    /// Report only: the policy never decides.
    pub audit: bool,
}

impl Policy {
    pub(crate) fn matches(&self, connection: &Connection) -> bool {
        self.rules.iter().any(|rule| rule.matches(connection))
    }
}

/// The destination workload: the attributes that policies use.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The policies that it refers to (`namespace/name`).
    pub policies: &'a [String],
}

/// All policies that were received, with an index by the workloads that they apply to.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    by_name: BTreeMap<String, Arc<Policy>>,
    global: BTreeSet<String>,
    by_namespace: BTreeMap<String, BTreeSet<String>>,
}

impl Policies {
    /// Adds a policy, or replaces the policy of the same name.
    pub fn insert(&mut self, policy: Policy) {
        let key = policy.name.to_string();
        self.remove(&key);
        match policy.scope {
            Scope::Global => {
                self.global.insert(key.clone());
            }
            Scope::Namespace => {
                self.by_namespace
                    .entry(policy.name.namespace.clone())
                    .or_default()
                    .insert(key.clone());
            }
            Scope::WorkloadSelector => {}
        }
        self.by_name.insert(key, Arc::new(policy));
    }

    /// Removes a policy (`namespace/name`). Returns whether it existed.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(policy) = self.by_name.remove(name) else {
            return false;
        };
        match policy.scope {
            Scope::Global => {
                self.global.remove(name);
            }
            Scope::Namespace => {
                if let Some(names) = self.by_namespace.get_mut(&policy.name.namespace) {
                    names.remove(name);
                    if names.is_empty() {
                        self.by_namespace.remove(&policy.name.namespace);
                    }
                }
            }
            Scope::WorkloadSelector => {}
        }
        true
    }

    /// The policy of that name (`namespace/name`).
    pub fn get(&self, name: &str) -> Option<&Arc<Policy>> {
        self.by_name.get(name)
    }

    /// All policies, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_name.values()
    }

    /// The policies that apply to a workload; `Err` with the name of a policy that it refers to and that was not
    /// received.
    pub(crate) fn applying<'a>(
        &'a self,
        target: Target<'a>,
    ) -> impl Iterator<Item = Result<&'a Policy, &'a str>> {
        let named = target.policies.iter();
        self.by_namespace
            .get(target.namespace)
            .into_iter()
            .flatten()
            .chain(&self.global)
            .chain(named)
            .map(|name| self.by_name.get(name).map(Arc::as_ref).ok_or(name.as_str()))
    }
}
