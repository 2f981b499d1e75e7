//! The status of a WaypointPolicy, for each of its targets.

use std::collections::BTreeMap;

use ambit_crds::{PolicyAncestor, WaypointPolicy, WaypointPolicyStatus, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::EventType;
use kube::{Api, Client, ResourceExt};
use tracing::info;

use crate::gateway::CONTROLLER;
use crate::index::{Key, PolicyReason, PolicySummary, PolicyVerdict, TargetSummary};
use crate::reconcile::ReconcileError;
use crate::reconcile::conditions::{abnormal, condition};
use crate::reconcile::mesh::count;
use crate::reconcile::recorder::Events;
use crate::reconcile::status::write_status;

/// The replicas of a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fleet {
    /// Ready replicas.
    pub(super) ready: usize,
    /// Desired replicas.
    pub(super) desired: i32,
    /// Why replicas are missing.
    pub(super) trouble: Option<String>,
}

/// Writes the status of `policy` if it has changed.
pub(super) async fn write(
    client: &Client,
    events: &Events,
    policy: &WaypointPolicy,
    summary: &PolicySummary,
    fleets: &BTreeMap<String, Fleet>,
) -> Result<(), ReconcileError> {
    // Made from another version of it: the right one will follow.
    if Some(summary.generation) != policy.metadata.generation {
        return Ok(());
    }
    let status = status(policy, summary, fleets);
    if policy.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let api: Api<WaypointPolicy> = Api::namespaced(client.clone(), &namespace);
    if !write_status(&api, &Key::new(&*namespace, &*name), &status).await? {
        return Ok(());
    }
    let (before, now) = (policy.status.as_ref().map(Outcome::of), Outcome::of(&status));
    if before.as_ref().map(|b| &b.reason) != Some(&now.reason) {
        info!(%namespace, policy = %name, reason = now.reason, message = now.message, "policy");
        let kind = if now.warns(before.as_ref()) {
            EventType::Warning
        } else {
            EventType::Normal
        };
        events.publish(policy, kind, &now.reason, &now.message).await;
    }
    Ok(())
}

/// The target that represents the policy: the first one that is not well, else the first.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    programmed: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn of(status: &WaypointPolicyStatus) -> Self {
        let conditions = || {
            status.ancestors.iter().flat_map(|a| {
                // The reason for not accepting it is more specific than "not programmed".
                let accepted = named(a, labels::CONDITION_ACCEPTED).filter(|c| c.status != "True");
                accepted
                    .into_iter()
                    .chain(named(a, labels::CONDITION_PROGRAMMED))
                    .take(1)
            })
        };
        let told = conditions()
            .find(|c| c.status != "True")
            .or_else(|| conditions().next());
        Self {
            programmed: told.is_some_and(|c| c.status == "True"),
            reason: told.map(|c| c.reason.clone()).unwrap_or_default(),
            message: told.map(|c| c.message.clone()).unwrap_or_default(),
        }
    }

    /// Whether a person should look: at every target that is not programmed, except for a waypoint that starts for the
    /// first time.
    fn warns(&self, before: Option<&Self>) -> bool {
        let starting = self.reason == "WaypointNotReady" && before.is_none_or(|b| !b.programmed);
        !self.programmed && !starting
    }
}

/// The whole status.
fn status(
    policy: &WaypointPolicy,
    summary: &PolicySummary,
    fleets: &BTreeMap<String, Fleet>,
) -> WaypointPolicyStatus {
    let before = policy
        .status
        .as_ref()
        .map(|s| s.ancestors.as_slice())
        .unwrap_or_default();
    let namespace = policy.namespace().unwrap_or_default();
    let ancestors = summary.targets.iter().map(|target| {
        let same = before.iter().find(|a| a.ancestor_ref == target.target);
        ancestor(&namespace, summary.generation, target, same, fleets)
    });
    let ancestors: Vec<_> = ancestors.collect();
    let before = policy.status.as_ref().map(|s| s.conditions.as_slice());
    let programmed = ancestors
        .iter()
        .filter(|a| holds(a, labels::CONDITION_PROGRAMMED));
    WaypointPolicyStatus {
        conditions: summarized(&ancestors, before.unwrap_or_default(), summary.generation),
        observed_generation: Some(summary.generation),
        targets: Some(format!("{}/{}", programmed.count(), ancestors.len())),
        ancestors,
        in_force: summary.in_force.clone(),
    }
}

fn named<'a>(ancestor: &'a PolicyAncestor, kind: &str) -> Option<&'a Condition> {
    ancestor.conditions.iter().find(|c| c.type_ == kind)
}

fn holds(ancestor: &PolicyAncestor, kind: &str) -> bool {
    named(ancestor, kind).is_some_and(|c| c.status == "True")
}

/// The conditions of the policy as a whole: those of the first target where they are not true, or else of the first
/// target; Ready, if both are true; and the condition that kstatus reads.
fn summarized(ancestors: &[PolicyAncestor], before: &[Condition], generation: i64) -> Vec<Condition> {
    let kinds = [labels::CONDITION_ACCEPTED, labels::CONDITION_PROGRAMMED];
    let worst = |kind: &str| {
        let failing = ancestors.iter().find(|a| !holds(a, kind));
        named(failing.or(ancestors.first())?, kind)
    };
    let found: Vec<&Condition> = kinds.into_iter().filter_map(worst).collect();
    let Some(decides) = found.iter().find(|c| c.status != "True").or(found.last()) else {
        return Vec::new();
    };
    let ready = decides.status == "True";
    let reconciling = !ready && decides.reason == PolicyReason::WaypointNotReady.as_str();
    let (reason, message, generation) = (&decides.reason, &decides.message, Some(generation));
    let of_targets = found
        .iter()
        .map(|c| (c.type_.as_str(), c.status == "True", &c.reason, &c.message));
    let all = of_targets.chain([(labels::CONDITION_READY, ready, reason, message)]);
    all.map(|(kind, holds, reason, message)| condition(kind, holds, reason, message, generation, before))
        .chain(abnormal(
            reconciling,
            !ready && !reconciling,
            reason,
            message,
            generation,
            before,
        ))
        .collect()
}

fn ancestor(
    namespace: &str,
    generation: i64,
    target: &TargetSummary,
    before: Option<&PolicyAncestor>,
    fleets: &BTreeMap<String, Fleet>,
) -> PolicyAncestor {
    // Another namespace's waypoint scales there.
    let own = target.waypoint.as_ref().filter(|key| key.namespace == namespace);
    let fleet = own.and_then(|key| fleets.get(&key.name));
    let before = before.map(|a| a.conditions.as_slice()).unwrap_or_default();
    let say = |kind: &str, verdict: &PolicyVerdict, message: &str| {
        let reason = verdict.reason.as_str();
        condition(kind, verdict.status, reason, message, Some(generation), before)
    };
    let programmed = programmed(target, fleet, fleets);
    PolicyAncestor {
        ancestor_ref: target.target.clone(),
        controller_name: CONTROLLER.to_owned(),
        conditions: vec![
            say(
                labels::CONDITION_ACCEPTED,
                &target.accepted,
                &target.accepted.message,
            ),
            say(labels::CONDITION_PROGRAMMED, &target.programmed, &programmed),
        ],
        enforced_by: target
            .waypoint
            .as_ref()
            .map(|key| format!("{}/{}", key.namespace, key.name)),
        replicas: fleet.map(|f| format!("{}/{}", f.ready, f.desired)),
        guarded_pods: target.guarded_pods.map(count),
    }
}

/// The message of Programmed: with the reason for missing replicas, where it matters.
fn programmed(target: &TargetSummary, fleet: Option<&Fleet>, fleets: &BTreeMap<String, Fleet>) -> String {
    let mut message = target.programmed.message.clone();
    let closed = target.programmed.status && fleet.is_some_and(|f| f.ready == 0);
    if closed {
        message.push_str("; no replica is ready: connections are refused until one is");
    }
    if closed || target.programmed.reason == PolicyReason::WaypointNotReady {
        for (name, fleet) in fleets.iter().filter(|(_, f)| f.ready == 0) {
            if let Some(trouble) = &fleet.trouble {
                message.push_str(&format!("; waypoint {name}: {trouble}"));
            }
        }
    }
    message
}

#[cfg(test)]
mod tests;
