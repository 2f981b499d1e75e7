//! What policies are for, and what holds of them once it is there.

use std::sync::Arc;

use ambit_crds::{TargetKind, TargetRef};

use super::{PolicyInForce, TargetError};
use crate::index::{Index, Key};

impl Index {
    /// What a policy of `namespace` holds for may have to be said anew: routes may be in force in other namespaces.
    pub(in crate::index) fn touch_targets(&mut self, namespace: &str, policy: Option<&PolicyInForce>) {
        let targets = policy.into_iter().flat_map(|policy| &policy.targets);
        let namespaces: Vec<String> = targets
            .flat_map(|target| self.routes.parents_of(namespace, target))
            .map(|parent| parent.namespace)
            .collect();
        self.dirty.plans.extend(namespaces);
        self.dirty.plans.insert(namespace.to_owned());
    }

    /// Whether a policy of `namespace` can be for this.
    pub(in crate::index) fn check_target(
        &self,
        namespace: &str,
        target: &TargetRef,
    ) -> Result<(), TargetError> {
        match target.kind {
            TargetKind::Namespace if target.name == namespace => Ok(()),
            TargetKind::Namespace => Err(TargetError::OtherNamespace {
                name: target.name.clone(),
                namespace: namespace.to_owned(),
            }),
            TargetKind::Service => {
                let key = Key::new(namespace, target.name.clone());
                self.check_service(&key)?;
                let ports = self.services.get(&key).map(|service| &service.ports);
                check_section(target, "TCP port", |port| {
                    ports.is_some_and(|ports| ports.contains_key(port))
                })
            }
            TargetKind::HttpRoute | TargetKind::GrpcRoute => {
                let rules = self.route_rules(namespace, target);
                let rules = rules.ok_or_else(|| TargetError::NotFound {
                    kind: target.kind.as_str(),
                    name: target.name.clone(),
                    namespace: namespace.to_owned(),
                })?;
                check_section(target, "rule", |rule| rules.contains(rule))
            }
            TargetKind::Gateway => match self.has_gateway(&Key::new(namespace, target.name.clone())) {
                Some(true) => Ok(()),
                Some(false) => Err(TargetError::NoWaypoint {
                    name: target.name.clone(),
                }),
                None => Err(TargetError::NotFound {
                    kind: target.kind.as_str(),
                    name: target.name.clone(),
                    namespace: namespace.to_owned(),
                }),
            },
        }
    }

    fn check_service(&self, key: &Key) -> Result<(), TargetError> {
        match self.services.get(key) {
            None => Err(TargetError::NotFound {
                kind: TargetKind::Service.as_str(),
                name: key.name.clone(),
                namespace: key.namespace.clone(),
            }),
            Some(_) if self.is_waypoint_service(key) => Err(TargetError::Waypoint {
                name: key.name.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Finds what holds of a policy, which may depend on what Services there are.
    pub(in crate::index) fn find_in_force(&mut self, policy: &Key) {
        let Some(record) = self.policies.get(policy) else {
            return;
        };
        let before = self.in_force.get(policy);
        let holds = record.in_force(before, |target| {
            self.check_target(&policy.namespace, target).is_ok()
        });
        if before != Some(&holds) {
            let before = self.in_force.insert(policy.clone(), Arc::clone(&holds));
            self.touch_targets(&policy.namespace, before.as_deref());
            self.touch_targets(&policy.namespace, Some(&holds));
        }
    }

    /// Makes a change of which it may depend whether policies can be for this Service.
    pub(in crate::index) fn change_target<T>(&mut self, service: &Key, change: impl FnOnce(&mut Self) -> T) {
        let targets = |index: &Self| {
            let record = index.services.get(service);
            let record = record.filter(|_| index.check_service(service).is_ok())?;
            Some(record.ports.keys().cloned().collect::<Vec<String>>())
        };
        let before = targets(self);
        change(self);
        let after = targets(self);
        if after.is_some() && before != after {
            self.target_appeared(TargetKind::Service.as_str(), service);
        }
    }

    /// A version of a policy may have waited for this object, or for a part of it.
    pub(in crate::index) fn target_appeared(&mut self, kind: &str, object: &Key) {
        let waiting = self.policies_in(&object.namespace).filter(|(_, policy)| {
            let mut targets = policy.targets.iter();
            targets.any(|t| t.kind.as_str() == kind && t.name == object.name)
        });
        let waiting: Vec<Key> = waiting.map(|(key, _)| key.clone()).collect();
        self.dirty.policies.extend(waiting);
    }
}

/// Whether a target has the part that it is about, if it is about one.
fn check_section(
    target: &TargetRef,
    part: &'static str,
    has: impl Fn(&str) -> bool,
) -> Result<(), TargetError> {
    match &target.section_name {
        Some(section) if !has(section) => Err(TargetError::NoSection {
            target: Box::new(target.clone()),
            part,
        }),
        _ => Ok(()),
    }
}
