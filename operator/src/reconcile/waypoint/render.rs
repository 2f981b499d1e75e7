//! A waypoint's objects, rendered from its desired state. Pure: the result can be compared and tested.

use ambit_crds::{AmbientNamespace, Mesh, Resources, WaypointPods, labels, parse_duration};
use ambit_wire::names::{PORT_HBONE, PORT_METRICS, PORT_READY, PROXY_UID, ROOT_CONFIG_MAP};
use kube::Resource;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::index::{Declaration, Key};
use crate::reconcile::apply::{Rendered, hash};
use crate::reconcile::dataplane::{
    complete, environment, field, metrics_file, own_labels, place, root, scraped, service_account, trust,
    variable,
};
use crate::reconcile::settings::Settings;

/// Label `app.kubernetes.io/name` of all objects of a waypoint.
pub(super) const APPLICATION: &str = "ambit-waypoint";
/// Its container.
const CONTAINER: &str = "waypoint";
/// Time that the kubelet waits beyond the drain deadline before it kills.
const GRACE_SECONDS: u64 = 5;

/// The desired state of a waypoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desired<'a> {
    /// Its namespace and name.
    pub(super) key: &'a Key,
    /// Desired replicas.
    pub(super) replicas: u32,
    /// Minimum of replicas.
    pub(super) least: u32,
    /// The Gateway that declares it.
    pub(super) gateway: Option<&'a Declaration>,
    /// UID of the namespace's AmbientNamespace.
    pub(super) ambient: Option<&'a str>,
    /// What it is for, by the label `istio.io/waypoint-for` of its Gateway or its namespace.
    pub(super) waypoint_for: &'a str,
    /// Settings of the namespace for its pods.
    pub(super) pods: Option<&'a WaypointPods>,
}

impl Desired<'_> {
    /// CPU and memory of its pods: the namespace's over the Mesh's.
    pub(super) fn resources<'a>(&'a self, mesh: &'a Mesh) -> &'a Resources {
        let own = self.pods.and_then(|p| p.resources.as_ref());
        own.unwrap_or(&mesh.spec.waypoint.resources)
    }

    /// The settings of its pods that all waypoints share: a change concerns them all.
    pub(super) fn shared_template(&self, settings: &Settings, mesh: &Mesh) -> String {
        let shared = Self {
            pods: None,
            gateway: None,
            ..*self
        };
        hash(&pod_template(settings, mesh, &shared))
    }

    /// Whether evictions have to leave a replica: with a single one that would block the drain of its node.
    pub(super) fn disruption_budget(&self) -> bool {
        self.least > 1 || self.replicas > 1
    }
}

/// Kinds of a waypoint's objects that have its name.
pub(super) fn kind(kind: &str) -> GroupVersionKind {
    let group = match kind {
        "Deployment" => "apps",
        "PodDisruptionBudget" => "policy",
        _ => "",
    };
    GroupVersionKind::gvk(group, "v1", kind)
}

/// Everything that the waypoint needs, in the order to apply it.
pub(super) fn render(settings: &Settings, mesh: &Mesh, desired: &Desired<'_>) -> Vec<Rendered> {
    let Key { namespace, name } = desired.key;
    let mut root = root(settings, &mesh.spec, namespace, ROOT_CONFIG_MAP);
    // Shared by the namespace's waypoints, so its name is not that of a waypoint.
    complete(&mut root, own_labels(APPLICATION));
    let own = |kind_name: &str, object: Value| Rendered {
        gvk: kind(kind_name),
        namespace: namespace.clone(),
        name: name.clone(),
        object,
    };
    let mut named = vec![
        service_account(namespace, name),
        own("Service", json!({ "spec": service_spec(name) })),
        own(
            "Deployment",
            json!({ "spec": deployment_spec(settings, mesh, desired) }),
        ),
    ];
    if desired.disruption_budget() {
        named.push(own(
            "PodDisruptionBudget",
            json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": own_pods(name) } } }),
        ));
    }
    for object in &mut named {
        let mut all = waypoint_labels(name);
        // Not on the pods: it changes with the namespace, and nothing need restart for it.
        all[labels::WAYPOINT_FOR] = json!(desired.waypoint_for);
        complete(object, all);
        if object.gvk.kind == "Deployment" {
            let template = desired.shared_template(settings, mesh);
            object.object["metadata"]["annotations"] = json!({ labels::TEMPLATE_HASH: template });
        }
        if let Some(gateway) = desired.gateway {
            let metadata = &mut object.object["metadata"];
            dress(metadata, gateway);
            let owners = owners(name, gateway, desired.ambient);
            if !owners.is_empty() {
                metadata["ownerReferences"] = json!(owners);
            }
        }
    }
    std::iter::once(root).chain(named).collect()
}

/// The owners of the objects of a waypoint that a Gateway declares, or none.
///
/// With the Gateway alone, the garbage collector would delete the objects with the Gateway, at once, while Services use the waypoint.
/// Since the AmbientNamespace is an owner, too, the garbage collector only removes the reference to the Gateway. The operator then decides:
/// the waypoint stays for others, or drains.
fn owners(name: &str, gateway: &Declaration, ambient: Option<&str>) -> Vec<Value> {
    let Some(ambient) = ambient else {
        return Vec::new();
    };
    vec![
        json!({
            "apiVersion": Gateway::api_version(&()), "kind": Gateway::kind(&()), "name": name, "uid": gateway.uid,
        }),
        json!({
            "apiVersion": AmbientNamespace::api_version(&()), "kind": AmbientNamespace::kind(&()),
            "name": labels::AMBIENT_NAMESPACE, "uid": ambient,
        }),
    ]
}

/// Adds the labels and annotations of `spec.infrastructure`. Those that have a meaning in the mesh, and those that are there, are not a user's
/// to set.
fn dress(metadata: &mut Value, gateway: &Declaration) {
    for (field, more) in [("labels", &gateway.labels), ("annotations", &gateway.annotations)] {
        for (key, value) in more.iter().filter(|(key, _)| !is_reserved(key)) {
            if metadata[field].get(key).is_none() {
                metadata[field][key] = json!(value);
            }
        }
    }
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is = |reserved: &str| {
        let rest = domain.strip_suffix(reserved);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    is("ambit.dev") || is("istio.io") || key == labels::MANAGED_BY
}

fn waypoint_labels(name: &str) -> Value {
    let mut all = own_labels(APPLICATION);
    all[labels::WAYPOINT_NAME] = json!(name);
    // By these, tools that know Istio's waypoints find ours.
    all[labels::GATEWAY_MANAGED] = json!(labels::GATEWAY_MANAGED_MESH);
    all[labels::GATEWAY_NAME] = json!(name);
    all
}

/// Labels that select its pods; a Deployment's selector cannot be changed.
fn own_pods(name: &str) -> Value {
    json!({ labels::NAME: APPLICATION, labels::WAYPOINT_NAME: name })
}

fn service_spec(name: &str) -> Value {
    json!({
        "type": "ClusterIP",
        "selector": own_pods(name),
        "ports": [{ "name": "hbone", "port": PORT_HBONE, "targetPort": PORT_HBONE, "protocol": "TCP" }],
    })
}

fn deployment_spec(settings: &Settings, mesh: &Mesh, desired: &Desired<'_>) -> Value {
    let name = &desired.key.name;
    json!({
        "replicas": desired.replicas,
        "revisionHistoryLimit": 2,
        "selector": { "matchLabels": own_pods(name) },
        // A new one is ready before an old one drains.
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "template": pod_template(settings, mesh, desired),
    })
}

fn pod_template(settings: &Settings, mesh: &Mesh, desired: &Desired<'_>) -> Value {
    let name = &desired.key.name;
    let drain = parse_duration(&mesh.spec.drain_deadline).map_or(60, |d| d.as_secs());
    let mut env = environment(settings, &mesh.spec);
    env.push(metrics_file());
    env.push(field("SERVICE_ACCOUNT", "spec.serviceAccountName"));
    env.push(variable("AMBIT_WAYPOINT", name));
    env.push(variable("AMBIT_DRAIN_DEADLINE", &drain.to_string()));
    let (volumes, mounts) = trust(ROOT_CONFIG_MAP);
    let mut pod_labels = waypoint_labels(name);
    pod_labels[labels::CANONICAL_NAME] = json!(name);
    // It terminates HBONE itself, on its own address.
    pod_labels[labels::DATAPLANE_MODE] = json!(labels::DATAPLANE_MODE_NONE);
    let mut template = json!({
        "metadata": {
            "labels": pod_labels,
            "annotations": scraped(PORT_METRICS),
        },
        "spec": {
            "serviceAccountName": name,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": drain.saturating_add(GRACE_SECONDS),
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": own_pods(name) },
            }],
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": PROXY_UID,
                "runAsGroup": PROXY_UID,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": CONTAINER,
                "image": settings.images.waypoint,
                "imagePullPolicy": settings.images.pull_policy,
                "env": env,
                "ports": [
                    { "name": "hbone", "containerPort": PORT_HBONE },
                    { "name": "metrics", "containerPort": PORT_METRICS },
                    { "name": "ready", "containerPort": PORT_READY },
                ],
                "readinessProbe": { "httpGet": { "path": "/healthz/ready", "port": PORT_READY }, "periodSeconds": 1 },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "resources": desired.resources(mesh),
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    });
    if let Some(gateway) = desired.gateway {
        dress(&mut template["metadata"], gateway);
    }
    let own = desired.pods;
    let secrets = own.and_then(|p| p.image_pull_secrets.as_deref());
    let secrets = settings.pull_secrets(secrets.unwrap_or(&mesh.spec.image_pull_secrets));
    let placement = own.and_then(|p| p.placement.as_ref());
    let placement = placement.unwrap_or(&mesh.spec.waypoint.placement);
    place(&mut template["spec"], placement, &secrets);
    template
}

#[cfg(test)]
mod tests;
