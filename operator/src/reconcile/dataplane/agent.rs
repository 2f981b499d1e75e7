//! The node agent's pods: the only privileged ones.

use ambit_crds::MeshSpec;
use serde_json::{Value, json};

use super::super::settings::Settings;
use super::{AGENT, DATA_PLANE, environment, pod, trust, variable};

/// Port of the agent's probes and metrics: on the host's network, so different from that of other programs.
const STATUS_PORT: u16 = 15031;

pub(super) fn pod_template(settings: &Settings, mesh: &MeshSpec) -> Value {
    let (mut volumes, mut mounts) = trust(DATA_PLANE);
    let paths = &settings.host;
    let host = [
        ("run", "/run/ambit", "/run/ambit", "DirectoryOrCreate"),
        ("state", "/var/lib/ambit", "/var/lib/ambit", "DirectoryOrCreate"),
        ("cri", paths.runtime_dir(), paths.runtime_dir(), "Directory"),
        (
            "cni-bin",
            &paths.cni_bin_dir,
            "/host/cni-bin",
            "DirectoryOrCreate",
        ),
        (
            "cni-conf",
            &paths.cni_conf_dir,
            "/host/cni-conf",
            "DirectoryOrCreate",
        ),
    ];
    for (name, path, mount, kind) in host {
        volumes.push(json!({ "name": name, "hostPath": { "path": path, "type": kind } }));
        mounts.push(json!({ "name": name, "mountPath": mount }));
    }
    // Network namespaces of later pods appear here only by propagation.
    volumes
        .push(json!({ "name": "netns", "hostPath": { "path": "/run/netns", "type": "DirectoryOrCreate" } }));
    mounts.push(
        json!({ "name": "netns", "mountPath": "/run/netns", "readOnly": true, "mountPropagation": "HostToContainer" }),
    );
    let mut env = environment(settings, mesh);
    env.push(variable("AMBIT_CRI_SOCKET", &paths.runtime_socket));
    env.push(variable("AMBIT_CNI_BIN", "/host/cni-bin"));
    env.push(variable("AMBIT_CNI_CONF", "/host/cni-conf"));
    env.push(variable(
        "AMBIT_EXEMPT_NAMESPACES",
        &format!("{},kube-system", settings.namespace),
    ));
    let probe = |path: &str| json!({ "httpGet": { "host": "127.0.0.1", "path": path, "port": STATUS_PORT } });
    let mut readiness = probe("/healthz/ready");
    readiness["periodSeconds"] = json!(2);
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"] },
    });
    if !paths.agent_selinux_type.is_empty() {
        security["seLinuxOptions"] = json!({ "type": paths.agent_selinux_type });
    }
    pod(
        settings,
        mesh,
        AGENT,
        AGENT,
        json!({
            "hostNetwork": true,
            "hostPID": true,
            "dnsPolicy": "ClusterFirstWithHostNet",
            "terminationGracePeriodSeconds": 10,
            // The group is that of the proxies: the agent gives them the directory of its socket without CAP_CHOWN.
            "securityContext": { "runAsUser": 0, "runAsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "agent",
                "image": settings.images.agent,
                "imagePullPolicy": settings.images.pull_policy,
                "env": env,
                "readinessProbe": readiness,
                "securityContext": security,
                "resources": mesh.agent.resources,
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }),
    )
}
