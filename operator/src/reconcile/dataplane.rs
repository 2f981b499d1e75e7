//! The data plane's objects, rendered from the Mesh. Pure: the result can be compared and tested.

mod agent;
mod ztunnel;

use ambit_crds::labels;
use ambit_crds::{AccessLog, DestinationReports, MeshSpec, Placement};
use ambit_runtime::MetricsSettings;
use ambit_wire::names;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

pub(super) use super::apply::Rendered;
use super::settings::Settings;

/// Name of the agents' DaemonSet and ServiceAccount.
pub(super) const AGENT: &str = "ambit-agent";
/// Name of the ztunnels' DaemonSet.
pub(super) const ZTUNNEL: &str = "ztunnel";
/// Name of the ztunnels' ServiceAccount.
pub(super) const ZTUNNEL_ACCOUNT: &str = "ambit-ztunnel";
/// Name of the ConfigMap that agents and ztunnels read while they run: the root certificate, the log filter and the
/// metrics settings. In the operator's own namespace [`names::ROOT_CONFIG_MAP`] belongs to the control plane.
pub(super) const DATA_PLANE: &str = "ambit-data-plane";

const LOG_KEY: &str = "log-filter";
const METRICS_KEY: &str = "metrics.json";
/// Where that ConfigMap is mounted.
const ROOT_MOUNT: &str = "/var/run/ambit/root";

/// Everything the data plane needs, in the order to apply it.
pub(super) fn render(settings: &Settings, mesh: &MeshSpec) -> Vec<Rendered> {
    // The host's ports and files allow one agent on a node at a time. Connections do not depend on it.
    let agents = json!({ "maxUnavailable": mesh.agent.rollout.at_once(), "maxSurge": 0 });
    // The new ztunnel takes over the pods' sockets before the old one drains: nothing waits for either.
    let ztunnels = json!({ "maxUnavailable": 0, "maxSurge": mesh.ztunnel.rollout.at_once() });
    let mut objects = vec![
        service_account(&settings.namespace, AGENT),
        service_account(&settings.namespace, ZTUNNEL_ACCOUNT),
        root(settings, mesh, &settings.namespace, DATA_PLANE),
        daemon_set(settings, AGENT, &agents, agent::pod_template(settings, mesh)),
        daemon_set(
            settings,
            ZTUNNEL,
            &ztunnels,
            ztunnel::pod_template(settings, mesh),
        ),
    ];
    for rendered in &mut objects {
        let object_labels = own_labels(&rendered.name);
        complete(rendered, object_labels);
    }
    objects
}

/// The mesh's root certificate, the log filter and the metrics settings, for the pods of a namespace. The last two are
/// not part of the pods: a change restarts none.
pub(super) fn root(settings: &Settings, mesh: &MeshSpec, namespace: &str, name: &str) -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("", "v1", "ConfigMap"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object: json!({ "data": {
            names::ROOT_KEY: settings.root_certificate,
            LOG_KEY: mesh.telemetry.log_level,
            METRICS_KEY: json!(metrics(mesh)).to_string(),
        } }),
    }
}

fn metrics(mesh: &MeshSpec) -> MetricsSettings {
    let metrics = &mesh.telemetry.metrics;
    // Each is a text in JSON.
    let name = |label| json!(label).as_str().map(str::to_owned);
    MetricsSettings {
        drop_labels: metrics.drop_labels.iter().filter_map(name).collect(),
        waypoint_reports_destination: metrics.waypoint_reports_destination == DestinationReports::Enabled,
    }
}

/// Adds kind, name and labels. No object has an owner: the garbage collector would delete it while the Mesh is being
/// deleted in the foreground, before pods are released. The operator deletes all objects as the last step.
pub(super) fn complete(rendered: &mut Rendered, mut object_labels: Value) {
    object_labels[labels::MANAGED_BY] = json!(labels::OPERATOR);
    rendered.object["apiVersion"] = json!(rendered.gvk.api_version());
    rendered.object["kind"] = json!(rendered.gvk.kind);
    rendered.object["metadata"] = json!({
        "name": rendered.name,
        "namespace": rendered.namespace,
        "labels": object_labels,
    });
}

/// Labels that select the pods of a component.
pub(super) fn own_labels(name: &str) -> Value {
    json!({ labels::NAME: name, labels::PART_OF: labels::AMBIT })
}

pub(super) fn service_account(namespace: &str, name: &str) -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("", "v1", "ServiceAccount"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        // Tokens are projected with the control plane's audience; none is for the API server.
        object: json!({ "automountServiceAccountToken": false }),
    }
}

/// A DaemonSet whose pods are replaced by `update`: `maxUnavailable` and `maxSurge`.
fn daemon_set(settings: &Settings, name: &str, update: &Value, template: Value) -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("apps", "v1", "DaemonSet"),
        namespace: settings.namespace.clone(),
        name: name.to_owned(),
        object: json!({ "spec": {
            "selector": { "matchLabels": own_labels(name) },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": update },
            "template": template,
        } }),
    }
}

/// Overrides the defaults of pods with settings: placement and pull Secrets.
pub(super) fn place(spec: &mut Value, placement: &Placement, secrets: &[&str]) {
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.iter().map(|name| json!({ "name": name })).collect();
    }
    for (label, value) in &placement.node_selector {
        spec["nodeSelector"][label] = json!(value);
    }
    spec["nodeSelector"]["kubernetes.io/os"] = json!("linux");
    if !placement.tolerations.is_empty() {
        spec["tolerations"] = json!(placement.tolerations);
    }
    if let Some(affinity) = &placement.affinity {
        spec["affinity"] = affinity.clone();
    }
    if let Some(class) = &placement.priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
}

/// Common fields of pods that run on every node, as defaults of `spec`.
fn pod(settings: &Settings, mesh: &MeshSpec, name: &str, account: &str, mut spec: Value) -> Value {
    let mut pod_labels = own_labels(name);
    pod_labels["app"] = json!(name);
    pod_labels[labels::DATAPLANE_MODE] = json!(labels::DATAPLANE_MODE_NONE);
    spec["serviceAccountName"] = json!(account);
    spec["automountServiceAccountToken"] = json!(false);
    spec["priorityClassName"] = json!("system-node-critical");
    spec["tolerations"] = json!([{ "operator": "Exists" }]);
    let secrets = settings.pull_secrets(&mesh.image_pull_secrets);
    place(&mut spec, &mesh.placement, &secrets);
    json!({ "metadata": { "labels": pod_labels }, "spec": spec })
}

/// Environment that all proxies and agents share.
pub(super) fn environment(settings: &Settings, mesh: &MeshSpec) -> Vec<Value> {
    vec![
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        variable(
            "AMBIT_CONTROL_PLANE",
            &format!(
                "https://{}.{}.svc:{}",
                names::CONTROL,
                settings.namespace,
                names::PORT_CONTROL
            ),
        ),
        variable("AMBIT_CLUSTER_ID", &settings.cluster_id),
        variable("AMBIT_TRUST_DOMAIN", &mesh.trust_domain),
        variable("AMBIT_LOG_FILTER_FILE", &format!("{ROOT_MOUNT}/{LOG_KEY}")),
        variable("AMBIT_LOG_FORMAT", &settings.log_format),
    ]
}

/// Annotations by which Prometheus finds a pod's metrics.
pub(super) fn scraped(port: u16) -> Value {
    json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port.to_string(),
        "prometheus.io/path": "/metrics",
    })
}

/// Where a proxy reads its metrics settings.
pub(super) fn metrics_file() -> Value {
    variable("AMBIT_METRICS_FILE", &format!("{ROOT_MOUNT}/{METRICS_KEY}"))
}

/// A variable with the value of one of the pod's fields.
pub(super) fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

/// A variable.
pub(super) fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

/// The mesh root and the token for the control plane: volumes and mounts.
pub(super) fn trust(namespace_root: &str) -> (Vec<Value>, Vec<Value>) {
    let volumes = vec![
        json!({ "name": "root", "configMap": { "name": namespace_root } }),
        json!({ "name": "token", "projected": { "sources": [
            { "serviceAccountToken": { "audience": names::TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token" } },
        ] } }),
    ];
    let mounts = vec![
        json!({ "name": "root", "mountPath": ROOT_MOUNT, "readOnly": true }),
        json!({ "name": "token", "mountPath": "/var/run/ambit/token", "readOnly": true }),
    ];
    (volumes, mounts)
}

fn access_log(mesh: &MeshSpec) -> &'static str {
    match mesh.telemetry.access_log {
        AccessLog::Enabled => "true",
        AccessLog::Disabled => "false",
    }
}

#[cfg(test)]
mod tests;
