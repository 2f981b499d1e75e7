use ambit_crds::MeshSpec;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::*;
use crate::reconcile::apply::Owned;
use crate::reconcile::settings::HostSettings;
use crate::reconcile::testing::{recorded, settings};

fn mesh() -> MeshSpec {
    MeshSpec::default()
}

fn pod_of(name: &str, mesh: &MeshSpec) -> (PodSpec, Container) {
    let rendered = render(&settings(), mesh)
        .into_iter()
        .find(|r| r.gvk.kind == "DaemonSet" && r.name == name)
        .unwrap();
    let set: DaemonSet = serde_json::from_value(rendered.object).unwrap();
    let spec = set.spec.unwrap();
    let labels = spec.template.metadata.clone().unwrap().labels.unwrap();
    let selector = spec.selector.match_labels.unwrap();
    assert!(
        selector.iter().all(|(key, value)| labels.get(key) == Some(value)),
        "the selector finds its own pods"
    );
    let pod = spec.template.spec.unwrap();
    let container = pod.containers[0].clone();
    (pod, container)
}

#[test]
fn the_ztunnel_has_no_privilege() {
    let (pod, container) = pod_of(ZTUNNEL, &mesh());
    let security = container.security_context.unwrap();
    assert_eq!(
        security.capabilities.as_ref().unwrap().drop.as_deref(),
        Some(&["ALL".to_owned()][..])
    );
    assert_eq!(security.capabilities.unwrap().add, None);
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.privileged, None);
    let pod_security = pod.security_context.unwrap();
    assert_eq!(pod_security.run_as_user, Some(65532));
    assert_eq!(pod_security.run_as_non_root, Some(true));
    assert_ne!(pod.host_network, Some(true));
    assert_ne!(pod.host_pid, Some(true));
    assert!(
        container
            .volume_mounts
            .unwrap()
            .iter()
            .all(|m| m.read_only == Some(true))
    );
}

#[test]
fn neither_has_a_token_for_the_api_server() {
    for name in [AGENT, ZTUNNEL] {
        let (pod, _) = pod_of(name, &mesh());
        assert_eq!(pod.automount_service_account_token, Some(false));
        let tokens: Vec<_> = pod
            .volumes
            .unwrap()
            .into_iter()
            .filter_map(|v| v.projected?.sources)
            .flatten()
            .filter_map(|s| s.service_account_token?.audience)
            .collect();
        assert_eq!(tokens, ["istio-ca"]);
    }
}

#[test]
fn the_agent_has_three_capabilities_and_is_not_privileged() {
    let (_, container) = pod_of(AGENT, &mesh());
    let security = container.security_context.unwrap();
    assert_eq!(
        security.capabilities.unwrap().add.unwrap(),
        ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]
    );
    assert_eq!(security.privileged, None);
}

#[test]
fn settings_of_the_mesh_reach_the_proxies() {
    let mut mesh = mesh();
    mesh.drain_deadline = "90s".into();
    mesh.telemetry.access_log = AccessLog::Disabled;
    let (pod, container) = pod_of(ZTUNNEL, &mesh);
    let env = container.env.unwrap();
    let value = |name: &str| {
        env.iter()
            .find(|v| v.name == name)
            .and_then(|v| v.value.clone())
            .unwrap()
    };
    assert_eq!(value("AMBIT_DRAIN_DEADLINE"), "90");
    assert_eq!(value("AMBIT_ACCESS_LOG"), "false");
    assert!(
        pod.termination_grace_period_seconds.unwrap() > 90,
        "the kubelet must outwait the drain"
    );
    assert_eq!(
        container.image.as_deref(),
        Some("registry.example/ambit/ztunnel:1.2.3")
    );
}

/// It would delete the agents while they are needed to release pods.
#[test]
fn the_garbage_collector_owns_nothing() {
    for rendered in render(&settings(), &mesh()) {
        let metadata = &rendered.object["metadata"];
        assert_eq!(metadata.get("ownerReferences"), None, "{}", rendered.name);
        assert_eq!(metadata["namespace"], "ambit-system");
    }
}

/// Or every operator that begins would write it once more.
#[test]
fn managed_fields_cover_the_object() {
    for rendered in render(&settings(), &mesh()) {
        // The accounts are alike.
        if rendered.name == ZTUNNEL_ACCOUNT {
            continue;
        }
        let recorded = Owned::of(&recorded(&rendered.gvk.kind, &rendered.name));
        assert!(recorded.covers(&rendered.object), "{}", rendered.name);
        let mut other = rendered.object;
        if let Some(name) = other.pointer_mut("/spec/template/spec/containers/0/name") {
            *name = json!("other");
            assert!(!recorded.covers(&other), "{}", rendered.name);
        }
    }
}

/// Those of the chart, unless the Mesh names some.
#[test]
fn images_are_pulled_with_secrets() {
    let secrets = |settings: &Settings, mesh: &MeshSpec| {
        let rendered = render(settings, mesh).into_iter();
        let of_pods = rendered.filter(|r| r.gvk.kind == "DaemonSet").map(|r| {
            let set: DaemonSet = serde_json::from_value(r.object).unwrap();
            let secrets = set.spec.unwrap().template.spec.unwrap().image_pull_secrets;
            secrets.map(|all| all.into_iter().map(|s| s.name).collect::<Vec<_>>())
        });
        of_pods.collect::<Vec<_>>()
    };
    let mut settings = settings();
    settings.images.pull_secrets = vec![String::new()];
    assert_eq!(secrets(&settings, &mesh()), [None, None]);
    settings.images.pull_secrets = vec!["chart".into()];
    assert_eq!(
        secrets(&settings, &mesh()),
        [Some(vec!["chart".to_owned()]), Some(vec!["chart".to_owned()])]
    );
    let mut mesh = mesh();
    mesh.image_pull_secrets = vec![ambit_crds::PullSecret { name: "own".into() }];
    let own = Some(vec!["own".to_owned()]);
    assert_eq!(secrets(&settings, &mesh), [own.clone(), own]);
}

/// By a digest, and from another registry than the rest.
#[test]
fn each_part_has_an_image_of_its_own() {
    let mut settings = settings();
    let (agent, ztunnel) = ("a.example/agent@sha256:0a", "b.example/z:1");
    (settings.images.agent, settings.images.ztunnel) = (agent.into(), ztunnel.into());
    let images: Vec<_> = render(&settings, &mesh())
        .iter()
        .filter_map(|r| {
            r.object
                .pointer("/spec/template/spec/containers/0/image")
                .cloned()
        })
        .collect();
    assert_eq!(images, [agent, ztunnel]);
}

/// As k3s has them, with SELinux.
#[test]
fn paths_on_the_nodes_are_the_platforms() {
    let mut settings = settings();
    settings.host = HostSettings {
        cni_conf_dir: "/k3s/net.d".into(),
        cni_bin_dir: "/k3s/bin".into(),
        runtime_socket: "/run/k3s/containerd/containerd.sock".into(),
        agent_selinux_type: "super_t".into(),
    };
    let objects = render(&settings, &mesh());
    let agent = objects
        .iter()
        .find(|r| r.gvk.kind == "DaemonSet" && r.name == AGENT);
    let spec = &agent.unwrap().object["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let of = |list: &Value, name: &str, path: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|item| item["name"] == name)
            .unwrap()
            .pointer(path)
            .cloned()
    };
    for (name, on_node, mounted) in [
        ("cri", "/run/k3s/containerd", "/run/k3s/containerd"),
        ("cni-bin", "/k3s/bin", "/host/cni-bin"),
        ("cni-conf", "/k3s/net.d", "/host/cni-conf"),
    ] {
        assert_eq!(of(&spec["volumes"], name, "/hostPath/path"), Some(json!(on_node)));
        assert_eq!(
            of(&container["volumeMounts"], name, "/mountPath"),
            Some(json!(mounted))
        );
    }
    let socket = of(&container["env"], "AMBIT_CRI_SOCKET", "/value");
    assert_eq!(socket, Some(json!("/run/k3s/containerd/containerd.sock")));
    assert_eq!(container["securityContext"]["seLinuxOptions"]["type"], "super_t");
}

#[test]
fn placement_and_resources_of_the_mesh_reach_agents_and_ztunnels() {
    for name in [AGENT, ZTUNNEL] {
        let (pod, _) = pod_of(name, &mesh());
        assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
        assert_eq!(
            pod.tolerations.unwrap()[0].key,
            None,
            "whatever taints a node has"
        );
    }
    let mesh: MeshSpec = serde_json::from_value(json!({
        "placement": {
            "nodeSelector": {"pool": "mesh", "kubernetes.io/os": "windows"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "priorityClassName": "high",
        },
        "agent": {"resources": {"requests": {"cpu": "1"}}},
        "ztunnel": {"resources": {"requests": {"cpu": 2}}},
    }))
    .unwrap();
    for (name, cpu) in [(AGENT, "1"), (ZTUNNEL, "2")] {
        let (pod, container) = pod_of(name, &mesh);
        let nodes = pod.node_selector.unwrap();
        assert_eq!((&*nodes["pool"], &*nodes["kubernetes.io/os"]), ("mesh", "linux"));
        let tolerations = pod.tolerations.unwrap();
        assert_eq!(tolerations.len(), 1);
        assert_eq!(tolerations[0].key.as_deref(), Some("dedicated"));
        assert!(pod.affinity.unwrap().node_affinity.is_some());
        assert_eq!(pod.priority_class_name.as_deref(), Some("high"));
        let requests = container.resources.unwrap().requests.unwrap();
        assert_eq!(requests["cpu"].0, cpu);
    }
}

/// One node after another would take days in a large cluster.
#[test]
fn rollouts_go_by_percentage_or_number() {
    let update = |mesh: &MeshSpec, name: &str| {
        let set = render(&settings(), mesh).into_iter();
        let mut set = set.filter(|r| r.gvk.kind == "DaemonSet" && r.name == name);
        set.next().unwrap().object["spec"]["updateStrategy"]["rollingUpdate"].clone()
    };
    assert_eq!(
        update(&mesh(), AGENT),
        json!({"maxUnavailable": "10%", "maxSurge": 0})
    );
    let mut mesh = mesh();
    mesh.ztunnel.rollout.nodes_at_once = "3".into();
    assert_eq!(
        update(&mesh, ZTUNNEL),
        json!({"maxUnavailable": 0, "maxSurge": 3})
    );
}

#[test]
fn changed_settings_of_metrics_restart_nothing() {
    let mut changed = mesh();
    changed.telemetry.metrics.drop_labels = vec![ambit_crds::MetricLabel::SourcePrincipal];
    changed.telemetry.metrics.waypoint_reports_destination = ambit_crds::DestinationReports::Enabled;
    let (before, after) = (render(&settings(), &mesh()), render(&settings(), &changed));
    let differs = before.iter().zip(&after).filter(|(b, a)| b.object != a.object);
    let differs: Vec<_> = differs.map(|(_, a)| a).collect();
    assert_eq!(differs.len(), 1);
    assert_eq!(differs[0].gvk.kind, "ConfigMap");
    let text = differs[0].object["data"]["metrics.json"].as_str().unwrap();
    let read: ambit_runtime::MetricsSettings = serde_json::from_str(text).unwrap();
    assert_eq!(read.drop_labels, ["source_principal"]);
    assert!(read.waypoint_reports_destination);
    let (_, container) = pod_of(ZTUNNEL, &changed);
    let mounts = container.volume_mounts.unwrap();
    let mut file = container.env.unwrap().into_iter();
    let file = file
        .find(|v| v.name == "AMBIT_METRICS_FILE")
        .and_then(|v| v.value)
        .unwrap();
    assert!(
        mounts
            .iter()
            .any(|m| file == format!("{}/metrics.json", m.mount_path)),
        "{file}"
    );
}

/// What the Mesh can drop is what the proxies have.
#[test]
fn every_label_but_the_reporter_can_be_dropped() {
    let had = ambit_wire::names::ISTIO_TCP_LABELS.into_iter();
    let had = had
        .chain(["response_code", "grpc_response_status"])
        .filter(|label| *label != "reporter");
    for label in had.clone() {
        let parsed: Result<ambit_crds::MetricLabel, _> = serde_json::from_value(json!(label));
        assert!(parsed.is_ok(), "{label}");
    }
    let unknown = serde_json::from_value::<ambit_crds::MetricLabel>(json!(""))
        .unwrap_err()
        .to_string();
    assert_eq!(unknown.matches('`').count() / 2 - 1, had.count(), "{unknown}");
}

#[test]
fn a_changed_log_level_restarts_nothing() {
    let mut louder = mesh();
    louder.telemetry.log_level = "debug".into();
    let (before, after) = (render(&settings(), &mesh()), render(&settings(), &louder));
    let differs = before.iter().zip(&after).filter(|(b, a)| b.object != a.object);
    let differs: Vec<_> = differs.map(|(_, a)| a).collect();
    assert_eq!(differs.len(), 1);
    assert_eq!(differs[0].gvk.kind, "ConfigMap");
    assert_eq!(differs[0].object["data"]["log-filter"], "debug");
    for name in [AGENT, ZTUNNEL] {
        let (_, container) = pod_of(name, &louder);
        let mounts = container.volume_mounts.unwrap();
        let file = container.env.unwrap().into_iter();
        let mut file = file
            .filter(|v| v.name == "AMBIT_LOG_FILTER_FILE")
            .filter_map(|v| v.value);
        let file = file.next().unwrap();
        assert!(
            mounts
                .iter()
                .any(|m| file == format!("{}/log-filter", m.mount_path)),
            "{file}"
        );
    }
}
