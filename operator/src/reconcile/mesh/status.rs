//! What the Mesh's status says.

use ambit_crds::{ComponentStatus, ConfigurationStatus, Mesh, MeshPods, MeshStatus, ZtunnelStatus};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::index::MeshSummary;
use crate::reconcile::conditions::Finding;

/// Most pods that a message names.
const NAMED: usize = 3;

/// A DaemonSet's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rollout {
    pub(super) desired: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    /// All of it is as the spec says.
    pub(super) done: bool,
}

impl Rollout {
    /// The counts of `set`, which should be of generation `wanted` or newer: of an older one, none are updated.
    pub(super) fn of(set: Option<&DaemonSet>, wanted: Option<i64>) -> Self {
        let Some((set, status)) = set.and_then(|s| Some((s, s.status.as_ref()?))) else {
            return Self::default();
        };
        let generation = set.metadata.generation;
        let current = status.observed_generation.is_some()
            && status.observed_generation == generation
            && generation >= wanted;
        let desired = status.desired_number_scheduled;
        let updated = if current {
            status.updated_number_scheduled.unwrap_or_default()
        } else {
            0
        };
        let available = status.number_available.unwrap_or_default();
        Self {
            desired,
            updated,
            ready: status.number_ready,
            done: current && updated >= desired && available >= desired,
        }
    }
}

/// What is wrong with a pod of the data plane: `<pod> on <node>: <reason>: <message>`.
pub(super) fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let statuses = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let waiting = statuses
        .filter_map(|c| c.state.as_ref()?.waiting.as_ref())
        .find(|w| {
            !matches!(
                w.reason.as_deref(),
                None | Some("ContainerCreating" | "PodInitializing")
            )
        });
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.reason.as_deref() == Some("Unschedulable"));
    let (reason, message) = match (waiting, unschedulable) {
        (Some(w), _) => (w.reason.clone(), w.message.clone()),
        (None, Some(c)) => (c.reason.clone(), c.message.clone()),
        (None, None) => return None,
    };
    let node = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or("no node");
    Some(format!(
        "{} on {node}: {}: {}",
        pod.name_any(),
        reason.unwrap_or_default(),
        message.unwrap_or_else(|| "no message".to_owned())
    ))
}

/// `all`, of which the first few are named.
pub(super) fn named(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > NAMED {
        text.push_str(&format!("; and {} more", all.len() - NAMED));
    }
    text
}

/// What is to be said of a Mesh that is there to stay.
pub(super) fn finding(agent: Rollout, ztunnel: Rollout, troubles: &[String], mesh: &MeshSummary) -> Finding {
    let counts = format!(
        "agent: {} of {} nodes ready, {} updated; ztunnel: {} of {} ready, {} updated",
        agent.ready, agent.desired, agent.updated, ztunnel.ready, ztunnel.desired, ztunnel.updated
    );
    let done = agent.done && ztunnel.done;
    if !troubles.is_empty() && !done {
        return Finding::degraded("PodsFailing", format!("{}. {counts}", named(troubles)));
    }
    if !done {
        return Finding::progressing("RollingOut", counts);
    }
    if mesh.failed > 0 {
        let message = format!(
            "{} pods could not be captured, in: {}. See the AmbientNamespace `ambient` of each",
            mesh.failed,
            named(&mesh.failing_namespaces)
        );
        return Finding {
            ready: true,
            ..Finding::degraded("CaptureFailed", message)
        };
    }
    Finding::ready("Ready", counts)
}

/// The whole status.
pub(super) fn status(
    mesh: &Mesh,
    version: &str,
    agent: Rollout,
    ztunnel: Rollout,
    summary: &MeshSummary,
    configuration: ConfigurationStatus,
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
        enrolled_namespaces: Some(count(summary.enrolled_namespaces)),
        // Nothing is compared while there is no waypoint.
        configuration: (configuration.sidecar_model > 0).then_some(configuration),
        pods: Some(MeshPods {
            captured: count(summary.captured),
            failed: count(summary.failed),
        }),
    }
}

/// As the API has counts.
pub(in crate::reconcile) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
