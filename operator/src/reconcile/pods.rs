//! State of Ambit's own pods: whether they run, and what prevents them.

use std::net::IpAddr;

use ambit_crds::labels;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};

/// Maximum length of a quoted message of the scheduler, the runtime or the kubelet, in bytes.
const LONGEST: usize = 512;

/// What a container waits for whose image cannot be had.
const IMAGE_REASONS: [&str; 4] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
];
/// What to do about that.
const IMAGE_REMEDY: &str = "images are set by the chart's values `image` and `images`, Secrets for pulling them by `image.pullSecrets` or \
                            `imagePullSecrets` of the Mesh or the AmbientNamespace";

/// A pod with Ambit's label. Any user can write that label: only pods of the operator's namespace belong to the data
/// plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnPod {
    /// Label `app.kubernetes.io/name`.
    pub(super) component: String,
    /// `app.kubernetes.io/version`.
    pub(super) version: Option<String>,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub(super) node: String,
    /// `status.podIP`.
    pub(super) address: Option<IpAddr>,
    /// One of its containers runs.
    pub(super) running: bool,
    /// The Ready condition.
    pub(super) ready: bool,
    /// Its agent has released everything on the node.
    pub(super) uninstalled: bool,
    /// Why it does not run: `<reason>: <message>`.
    pub(super) trouble: Option<String>,
}

impl OwnPod {
    /// The record of a pod; `None` for a pod of somebody else.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).cloned();
        if label(labels::PART_OF).as_deref() != Some(labels::AMBIT) {
            return None;
        }
        let said = pod.metadata.annotations.as_ref();
        let status = pod.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        Some(Self {
            component: label(labels::NAME).unwrap_or_default(),
            version: label(labels::VERSION),
            node: pod
                .spec
                .as_ref()
                .and_then(|s| s.node_name.clone())
                .unwrap_or_default(),
            address: status.and_then(|s| s.pod_ip.as_ref()?.parse().ok()),
            running: states(status).any(|s| s.running.is_some()),
            ready: conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            uninstalled: said
                .and_then(|a| a.get(labels::UNINSTALLED))
                .is_some_and(|v| v == labels::TRUE),
            trouble: status.and_then(trouble),
        })
    }
}

fn states(status: Option<&PodStatus>) -> impl Iterator<Item = &ContainerState> {
    let statuses = status
        .into_iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    statuses.filter_map(|c| c.state.as_ref())
}

/// Why a pod does not run: the scheduler's reason, or that of a waiting container.
fn trouble(status: &PodStatus) -> Option<String> {
    let init = status.init_container_statuses.iter().flatten();
    let containers = init.chain(status.container_statuses.iter().flatten());
    let waiting = containers
        .filter_map(|c| c.state.as_ref()?.waiting.as_ref())
        .find(|w| {
            !matches!(
                w.reason.as_deref(),
                None | Some("ContainerCreating" | "PodInitializing")
            )
        });
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let (reason, message) = match (waiting, unscheduled) {
        (Some(w), _) => (w.reason.as_deref(), w.message.as_deref()),
        (None, Some(c)) => (c.reason.as_deref(), c.message.as_deref()),
        (None, None) => return None,
    };
    let message = message.unwrap_or("no message");
    let mut end = message.len().min(LONGEST);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let reason = reason.unwrap_or("Unknown");
    let trouble = format!("{reason}: {}", &message[..end]);
    if IMAGE_REASONS.contains(&reason) {
        return Some(format!("{trouble} ({IMAGE_REMEDY})"));
    }
    Some(trouble)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn trouble_of(status: Value) -> Option<String> {
        let pod = json!({
            "metadata": {"name": "p", "labels": {"app.kubernetes.io/part-of": "ambit"}},
            "spec": {"containers": []}, "status": status,
        });
        OwnPod::of(&serde_json::from_value(pod).unwrap()).unwrap().trouble
    }

    fn waiting(reason: &str) -> Value {
        json!({"containerStatuses": [{
            "name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
            "state": {"waiting": {"reason": reason, "message": "why"}},
        }]})
    }

    #[test]
    fn reasons_of_pods_that_do_not_run() {
        assert_eq!(trouble_of(waiting("ContainerCreating")), None);
        assert_eq!(
            trouble_of(waiting("CrashLoopBackOff")).as_deref(),
            Some("CrashLoopBackOff: why")
        );
        let image = trouble_of(waiting("ErrImagePull")).unwrap();
        assert!(image.starts_with("ErrImagePull: why (images are set by the chart's values"));
        let unschedulable = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"},
        ]});
        assert_eq!(
            trouble_of(unschedulable).as_deref(),
            Some("Unschedulable: 0/2 nodes are available")
        );
    }

    #[test]
    fn foreign_pods_are_not_stored() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        assert_eq!(OwnPod::of(&serde_json::from_value(pod).unwrap()), None);
    }
}
