//! The status of the Mesh.

use std::collections::BTreeSet;

use ambit_crds::{ComponentStatus, ConfigurationStatus, Mesh, MeshPods, MeshStatus, ZtunnelStatus};
use k8s_openapi::api::apps::v1::DaemonSet;

use crate::index::MeshSummary;
use crate::reconcile::conditions::Finding;
use crate::reconcile::dataplane::{AGENT, ZTUNNEL};
use crate::reconcile::pace::differ_in_messages_at_most;

/// Maximum of pods that a message names.
const NAMED: usize = 3;

/// A DaemonSet's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rollout {
    pub(super) desired: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    /// Nodes that have no pod of it yet, though one should be there.
    pub(super) missing: i32,
    /// Nodes that are not Ready, and have no ready pod of it: they are not waited for.
    pub(super) away: Vec<String>,
    /// The roll-out is complete, except for nodes that are not Ready.
    pub(super) done: bool,
}

impl Rollout {
    /// The counts of `set`, which should have generation `desired` or newer: in an older one, no pod counts as updated.
    /// `away` are nodes that are not waited for.
    pub(super) fn of(set: Option<&DaemonSet>, desired: Option<i64>, away: Vec<String>) -> Self {
        let Some((set, status)) = set.and_then(|s| Some((s, s.status.as_ref()?))) else {
            return Self::default();
        };
        let generation = set.metadata.generation;
        let current = status.observed_generation.is_some()
            && status.observed_generation == generation
            && generation >= desired;
        let desired = status.desired_number_scheduled;
        let updated = if current {
            status.updated_number_scheduled.unwrap_or_default()
        } else {
            0
        };
        let available = status.number_available.unwrap_or_default();
        let missing = i32::try_from(away.len()).unwrap_or(i32::MAX);
        let enough = |count: i32| count.saturating_add(missing) >= desired && (count > 0 || desired == 0);
        Self {
            desired,
            updated,
            ready: status.number_ready,
            missing: desired.saturating_sub(status.current_number_scheduled),
            done: current && enough(updated) && enough(available),
            away,
        }
    }
}

/// `all`, with the first few by name.
pub(super) fn named(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > NAMED {
        text.push_str(&format!("; and {} more", all.len() - NAMED));
    }
    text
}

/// The verdict on a Mesh that is not being deleted.
pub(super) fn finding(
    agent: &Rollout,
    ztunnel: &Rollout,
    troubles: &[String],
    mesh: &MeshSummary,
) -> Finding {
    let mut counts = format!(
        "agent: {} of {} nodes ready, {} updated; ztunnel: {} of {} ready, {} updated",
        agent.ready, agent.desired, agent.updated, ztunnel.ready, ztunnel.desired, ztunnel.updated
    );
    let away: BTreeSet<_> = agent.away.iter().chain(&ztunnel.away).cloned().collect();
    if !away.is_empty() {
        let away: Vec<_> = away.into_iter().collect();
        counts.push_str(&format!(
            ". The operator does not wait for {} nodes that are not Ready: {}",
            away.len(),
            named(&away)
        ));
    }
    let done = agent.done && ztunnel.done;
    if !troubles.is_empty() && !done {
        return Finding::degraded("PodsFailing", format!("{}. {counts}", named(troubles)));
    }
    if !done {
        for (name, missing) in [(AGENT, agent.missing), (ZTUNNEL, ztunnel.missing)] {
            if missing > 0 {
                counts.push_str(&format!(
                    ". {missing} pods of {name} have yet to be created: if that lasts, a quota or the Pod Security level of the \
                     namespace refuses them (`kubectl describe daemonset {name}` has the reason; agents need \
                     pod-security.kubernetes.io/enforce=privileged)"
                ));
            }
        }
        return Finding::progressing("RollingOut", counts);
    }
    if mesh.failed > 0 {
        let message = format!(
            "{} pods could not be captured, in the namespaces: {}. See the AmbientNamespace `ambient` of \
             each",
            mesh.failed,
            named(&mesh.failing_namespaces)
        );
        // The namespaces are Degraded; the mesh itself is as specified.
        return Finding::ready("CaptureFailed", message);
    }
    if mesh.istio.is_some() {
        let message = format!("{counts}. {}", mesh.unheeded().join(". "));
        return Finding::ready("IstioAmbient", message);
    }
    Finding::ready("Ready", counts)
}

/// The whole status.
pub(super) fn status(
    mesh: &Mesh,
    version: &str,
    agent: &Rollout,
    ztunnel: &Rollout,
    summary: &MeshSummary,
    sent: usize,
    finding: &Finding,
) -> MeshStatus {
    let before = mesh
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    MeshStatus {
        conditions: finding.conditions(before, mesh.metadata.generation),
        observed_generation: mesh.metadata.generation,
        version: Some(version.to_owned()),
        nodes: Some(format!("{}/{}", ztunnel.ready, ztunnel.desired)),
        ztunnel: Some(ZtunnelStatus {
            desired: ztunnel.desired,
            updated: ztunnel.updated,
            ready: ztunnel.ready,
        }),
        agents: Some(ComponentStatus {
            desired: agent.desired,
            ready: agent.ready,
        }),
        warnings: summary.unheeded(),
        enrolled_namespaces: Some(count(summary.enrolled_namespaces)),
        configuration: (sent > 0).then(|| ConfigurationStatus { sent: count(sent) }),
        pods: Some(MeshPods {
            captured: count(summary.captured),
            failed: count(summary.failed),
        }),
    }
}

/// Whether only numbers of pods have changed.
pub(super) fn differs_in_counters(before: &MeshStatus, after: &MeshStatus) -> bool {
    let same = MeshStatus {
        conditions: before.conditions.clone(),
        pods: before.pods.clone(),
        ..after.clone()
    };
    differ_in_messages_at_most(&before.conditions, &after.conditions) && same == *before
}

/// A count as the API has it.
pub(in crate::reconcile) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
