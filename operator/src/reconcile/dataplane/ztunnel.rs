//! The ztunnels' pods: no privilege of any kind.

use ambit_crds::MeshSpec;
use ambit_wire::names::{PORT_METRICS, PORT_READY, PROXY_UID};
use serde_json::{Value, json};

use super::super::settings::Settings;
use super::{
    DATA_PLANE, ZTUNNEL, ZTUNNEL_ACCOUNT, access_log, environment, metrics_file, pod, scraped, trust,
    variable,
};

pub(super) fn pod_template(settings: &Settings, mesh: &MeshSpec) -> Value {
    let (mut volumes, mut mounts) = trust(DATA_PLANE);
    // Made by the agent; until then the ztunnel waits for its socket.
    volumes
        .push(json!({ "name": "broker", "hostPath": { "path": "/run/ambit", "type": "DirectoryOrCreate" } }));
    mounts.push(json!({
        "name": "broker", "mountPath": "/run/ambit", "readOnly": true, "mountPropagation": "HostToContainer",
    }));
    let drain = ambit_crds::parse_duration(&mesh.drain_deadline).map_or(60, |d| d.as_secs());
    let mut env = environment(settings, mesh);
    env.push(metrics_file());
    env.push(variable("AMBIT_ACCESS_LOG", access_log(mesh)));
    env.push(variable("AMBIT_DRAIN_DEADLINE", &drain.to_string()));
    let mut template = pod(
        settings,
        mesh,
        ZTUNNEL,
        ZTUNNEL_ACCOUNT,
        json!({
            "terminationGracePeriodSeconds": drain.saturating_add(5),
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": PROXY_UID,
                "runAsGroup": PROXY_UID,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "ztunnel",
                "image": settings.images.ztunnel,
                "imagePullPolicy": settings.images.pull_policy,
                "env": env,
                "ports": [
                    { "name": "metrics", "containerPort": PORT_METRICS },
                    { "name": "ready", "containerPort": PORT_READY },
                ],
                "readinessProbe": { "httpGet": { "path": "/healthz/ready", "port": PORT_READY }, "periodSeconds": 2 },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "resources": mesh.ztunnel.resources,
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }),
    );
    template["metadata"]["annotations"] = scraped(PORT_METRICS);
    template
}
