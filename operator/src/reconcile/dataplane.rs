//! The data plane's objects, rendered from the Mesh: pure, so that what would be applied can be compared and tested.

mod agent;
mod ztunnel;

use ambit_crds::labels;
use ambit_crds::{AccessLog, Mesh, MeshSpec};
use ambit_wire::names;
use kube::Resource;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::settings::Settings;

/// Name of the agents' DaemonSet and ServiceAccount.
pub(super) const AGENT: &str = "ambit-agent";
/// Name of the ztunnels' DaemonSet.
pub(super) const ZTUNNEL: &str = "ztunnel";
/// Name of the ztunnels' ServiceAccount.
pub(super) const ZTUNNEL_ACCOUNT: &str = "ambit-ztunnel";
/// Name of the ConfigMap with the root certificate.
pub(super) const ROOT_CONFIG_MAP: &str = "ambit-ca-root";

const ROOT_KEY: &str = "root-cert.pem";

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rendered {
    /// Its group, version and kind.
    pub(super) gvk: GroupVersionKind,
    /// Its name, in the operator's namespace.
    pub(super) name: String,
    /// All of it.
    pub(super) object: Value,
}

/// Everything the data plane needs, in the order to apply it.
pub(super) fn render(settings: &Settings, mesh: &Mesh) -> Vec<Rendered> {
    let mut objects = vec![
        service_account(AGENT),
        service_account(ZTUNNEL_ACCOUNT),
        Rendered {
            gvk: GroupVersionKind::gvk("", "v1", "ConfigMap"),
            name: ROOT_CONFIG_MAP.to_owned(),
            object: json!({ "data": { ROOT_KEY: settings.root_certificate } }),
        },
        daemon_set(AGENT, &ONE_BY_ONE, agent::pod_template(settings, &mesh.spec)),
        daemon_set(ZTUNNEL, &SURGE, ztunnel::pod_template(settings, &mesh.spec)),
    ];
    for rendered in &mut objects {
        complete(rendered, settings, mesh);
    }
    objects
}

/// Adds what every object has: kind, name, labels, and the Mesh as its owner.
fn complete(rendered: &mut Rendered, settings: &Settings, mesh: &Mesh) {
    let mut object_labels = own_labels(&rendered.name);
    object_labels[labels::MANAGED_BY] = json!(labels::OPERATOR);
    rendered.object["apiVersion"] = json!(rendered.gvk.api_version());
    rendered.object["kind"] = json!(rendered.gvk.kind);
    rendered.object["metadata"] = json!({
        "name": rendered.name,
        "namespace": settings.namespace,
        "labels": object_labels,
        "ownerReferences": mesh.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
    });
}

/// Labels by which a component is found.
fn own_labels(name: &str) -> Value {
    json!({ labels::NAME: name, labels::PART_OF: labels::AMBIT })
}

fn service_account(name: &str) -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("", "v1", "ServiceAccount"),
        name: name.to_owned(),
        // Tokens are projected with the control plane's audience; none is for the API server.
        object: json!({ "automountServiceAccountToken": false }),
    }
}

/// How a DaemonSet's pods are replaced on a node: how many may be missing, and how many may be there besides.
struct Replacement {
    unavailable: u32,
    surge: u32,
}

/// The host's ports and files allow one agent at a time. Connections go on without it.
const ONE_BY_ONE: Replacement = Replacement {
    unavailable: 1,
    surge: 0,
};
/// The new ztunnel takes over the pods' sockets before the old one drains: nothing waits for either.
const SURGE: Replacement = Replacement {
    unavailable: 0,
    surge: 1,
};

fn daemon_set(name: &str, replacement: &Replacement, template: Value) -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("apps", "v1", "DaemonSet"),
        name: name.to_owned(),
        object: json!({ "spec": {
            "selector": { "matchLabels": own_labels(name) },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": {
                "maxUnavailable": replacement.unavailable, "maxSurge": replacement.surge,
            } },
            "template": template,
        } }),
    }
}

/// What both pods have alike, laid under `spec`.
fn pod(name: &str, account: &str, mut spec: Value) -> Value {
    let mut pod_labels = own_labels(name);
    pod_labels["app"] = json!(name);
    pod_labels[labels::DATAPLANE_MODE] = json!(labels::DATAPLANE_MODE_NONE);
    spec["serviceAccountName"] = json!(account);
    spec["automountServiceAccountToken"] = json!(false);
    spec["priorityClassName"] = json!("system-node-critical");
    spec["nodeSelector"] = json!({ "kubernetes.io/os": "linux" });
    spec["tolerations"] = json!([{ "operator": "Exists" }]);
    json!({ "metadata": { "labels": pod_labels }, "spec": spec })
}

/// Environment that agent and ztunnel read alike.
fn environment(settings: &Settings, mesh: &MeshSpec) -> Vec<Value> {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    vec![
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        variable(
            "AMBIT_CONTROL_PLANE",
            &format!(
                "https://ambit-operator.{}.svc:{}",
                settings.namespace,
                names::PORT_CONTROL
            ),
        ),
        variable("AMBIT_CLUSTER_ID", &settings.cluster_id),
        variable("AMBIT_TRUST_DOMAIN", &mesh.trust_domain),
        variable("AMBIT_LOG", &mesh.ztunnel.log_level),
        variable("AMBIT_LOG_FORMAT", &settings.log_format),
    ]
}

fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

/// The mesh root and the token for the control plane: the volumes, and where they are mounted.
fn trust(namespace_root: &str) -> (Vec<Value>, Vec<Value>) {
    let volumes = vec![
        json!({ "name": "root", "configMap": { "name": namespace_root } }),
        json!({ "name": "token", "projected": { "sources": [
            { "serviceAccountToken": { "audience": names::TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token" } },
        ] } }),
    ];
    let mounts = vec![
        json!({ "name": "root", "mountPath": "/var/run/ambit/root", "readOnly": true }),
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
