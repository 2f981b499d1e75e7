use ambit_crds::MeshSpec;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodSpec, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::*;
use crate::reconcile::apply::Owned;
use crate::reconcile::testing::{recorded, settings};

fn mesh() -> Mesh {
    let mut mesh = Mesh::new("default", MeshSpec::default());
    mesh.metadata.uid = Some("1234".into());
    mesh
}

fn rendered(mesh: &Mesh, replicas: u32, least: u32) -> Vec<Rendered> {
    let key = Key::new("shop", "edge");
    let desired = Desired {
        key: &key,
        replicas,
        least,
        gateway: None,
        ambient: None,
        waypoint_for: "service",
        pods: None,
    };
    render(&settings(), mesh, &desired)
}

fn the<T: serde::de::DeserializeOwned>(objects: &[Rendered], kind: &str) -> T {
    let found = objects.iter().find(|o| o.gvk.kind == kind).unwrap();
    serde_json::from_value(found.object.clone()).unwrap()
}

fn pod(mesh: &Mesh) -> PodSpec {
    let deployment: Deployment = the(&rendered(mesh, 1, 1), "Deployment");
    deployment.spec.unwrap().template.spec.unwrap()
}

/// As Kubernetes' Pod Security Standards have it.
#[test]
fn its_pods_pass_the_restricted_pod_security_standard() {
    let pod = pod(&mesh());
    let of_pod = pod.security_context.unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_eq!(
        (of_pod.run_as_user, of_pod.run_as_group),
        (Some(65532), Some(65532))
    );
    assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
    for volume in pod.volumes.unwrap() {
        assert!(
            volume.config_map.is_some() || volume.projected.is_some(),
            "{}",
            volume.name
        );
    }
    assert_eq!(pod.containers.len(), 1);
    let security = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.unwrap();
    assert_eq!(
        (capabilities.drop, capabilities.add),
        (Some(vec!["ALL".to_owned()]), None)
    );
    assert!(
        pod.containers[0]
            .ports
            .iter()
            .flatten()
            .all(|p| p.host_port.is_none())
    );
}

#[test]
fn waypoint_has_a_token_for_the_control_plane_only() {
    let pod = pod(&mesh());
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.service_account_name.as_deref(), Some("edge"));
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

#[test]
fn its_pods_are_spread_found_by_its_service_and_never_captured() {
    let objects = rendered(&mesh(), 2, 1);
    let deployment: Deployment = the(&objects, "Deployment");
    let spec = deployment.spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    let finds = |selector: Option<std::collections::BTreeMap<String, String>>| {
        selector
            .unwrap()
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    assert!(finds(spec.selector.match_labels));
    let spread = spec
        .template
        .spec
        .unwrap()
        .topology_spread_constraints
        .unwrap()
        .remove(0);
    assert_eq!(
        (
            spread.max_skew,
            spread.topology_key.as_str(),
            spread.when_unsatisfiable.as_str()
        ),
        (1, "kubernetes.io/hostname", "ScheduleAnyway")
    );
    assert!(finds(spread.label_selector.unwrap().match_labels));
    let service: Service = the(&objects, "Service");
    let service = service.spec.unwrap();
    assert!(finds(service.selector));
    assert_eq!(
        (service.type_.as_deref(), service.ports.unwrap()[0].port),
        (Some("ClusterIP"), 15008)
    );
    let budget: PodDisruptionBudget = the(&objects, "PodDisruptionBudget");
    assert!(finds(budget.spec.unwrap().selector.unwrap().match_labels));
    assert_eq!(labels["istio.io/dataplane-mode"], "none");
    assert_eq!(labels["ambit.dev/waypoint"], "edge");
}

/// Kiali takes pods with these labels for a waypoint.
#[test]
fn tools_find_its_pods_and_their_metrics() {
    let deployment: Deployment = the(&rendered(&mesh(), 1, 1), "Deployment");
    let spec = deployment.spec.unwrap();
    let pod = spec.template.metadata.unwrap();
    let (labels, annotations) = (pod.labels.unwrap(), pod.annotations.unwrap());
    for (label, value) in [
        ("gateway.istio.io/managed", "istio.io-mesh-controller"),
        ("gateway.networking.k8s.io/gateway-name", "edge"),
        ("service.istio.io/canonical-name", "edge"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    // A change of the namespace's label must restart nothing.
    assert_eq!(labels.get("istio.io/waypoint-for"), None);
    for (annotation, value) in [("scrape", "true"), ("port", "15020"), ("path", "/metrics")] {
        assert_eq!(annotations[&format!("prometheus.io/{annotation}")], value);
    }
    // What a Deployment is found by cannot be changed: waypoints of earlier versions must stay theirs.
    let selector = spec.selector.match_labels.unwrap();
    let selector: Vec<_> = selector.keys().map(String::as_str).collect();
    assert_eq!(selector, ["ambit.dev/waypoint", "app.kubernetes.io/name"]);
}

#[test]
fn one_replica_has_no_disruption_budget() {
    let budgets = |replicas, least| {
        let objects = rendered(&mesh(), replicas, least);
        objects
            .iter()
            .filter(|o| o.gvk.kind == "PodDisruptionBudget")
            .count()
    };
    assert_eq!((budgets(1, 1), budgets(2, 1), budgets(1, 2)), (0, 1, 1));
}

#[test]
fn objects_are_in_the_users_namespace_without_owner() {
    for rendered in rendered(&mesh(), 2, 2) {
        let metadata = &rendered.object["metadata"];
        assert_eq!(metadata.get("ownerReferences"), None, "{}", rendered.name);
        assert_eq!(metadata["namespace"], "shop");
        let labels = &metadata["labels"];
        assert_eq!(labels["app.kubernetes.io/name"], "ambit-waypoint");
        assert_eq!(labels["app.kubernetes.io/part-of"], "ambit");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "ambit-operator");
        if rendered.gvk.kind == "ConfigMap" {
            assert_eq!(rendered.name, "ambit-ca-root");
            assert!(
                labels.get("ambit.dev/waypoint").is_none(),
                "another waypoint of the namespace has it too"
            );
        } else {
            assert_eq!(
                (rendered.name.as_str(), &labels["ambit.dev/waypoint"]),
                ("edge", &json!("edge"))
            );
            assert_eq!(labels["istio.io/waypoint-for"], "service");
        }
    }
}

#[test]
fn settings_of_the_mesh_reach_it() {
    let mut mesh = mesh();
    mesh.spec.drain_deadline = "90s".into();
    mesh.spec.trust_domain = "example.org".into();
    mesh.spec.waypoint.resources.requests.clear();
    let pod = pod(&mesh);
    let container = &pod.containers[0];
    let env = container.env.clone().unwrap();
    let value = |name: &str| {
        env.iter()
            .find(|v| v.name == name)
            .and_then(|v| v.value.clone())
            .unwrap()
    };
    assert_eq!(value("AMBIT_TRUST_DOMAIN"), "example.org");
    assert_eq!(value("AMBIT_WAYPOINT"), "edge");
    assert_eq!(value("AMBIT_DRAIN_DEADLINE"), "90");
    assert_eq!(
        value("AMBIT_CONTROL_PLANE"),
        "https://ambit-control.ambit-system.svc:15012"
    );
    assert!(
        pod.termination_grace_period_seconds.unwrap() > 90,
        "the kubelet must outwait the drain"
    );
    assert_eq!(
        container.image.as_deref(),
        Some("registry.example/ambit/waypoint:1.2.3")
    );
    assert!(
        container
            .resources
            .clone()
            .unwrap()
            .requests
            .unwrap_or_default()
            .is_empty()
    );
    // By default: it may hold half of it for its callers.
    let limits = container.resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["memory"].0, "512Mi");
}

/// Or every operator that begins would write it once more.
#[test]
fn managed_fields_cover_the_object() {
    for object in rendered(&mesh(), 2, 2) {
        let name = match object.gvk.kind.as_str() {
            "ConfigMap" => ROOT_CONFIG_MAP,
            _ => "waypoint",
        };
        let recorded = Owned::of(&recorded(&object.gvk.kind, name));
        assert!(recorded.covers(&object.object), "{}", object.gvk.kind);
        let mut more = object.object;
        more["spec"]["more"] = json!(1);
        assert!(!recorded.covers(&more), "{}", object.gvk.kind);
    }
}

#[test]
fn namespace_settings_override_the_mesh() {
    let key = Key::new("shop", "edge");
    let mut mesh = mesh();
    mesh.spec.waypoint.placement.node_selector = [("pool".to_owned(), "mesh".to_owned())].into();
    let spec = |pods: Option<&WaypointPods>| -> PodSpec {
        let desired = Desired {
            key: &key,
            replicas: 1,
            least: 1,
            gateway: None,
            ambient: None,
            waypoint_for: "service",
            pods,
        };
        let deployment: Deployment = the(&render(&settings(), &mesh, &desired), "Deployment");
        deployment.spec.unwrap().template.spec.unwrap()
    };
    assert_eq!(spec(None).node_selector.unwrap()["pool"], "mesh");
    let own: WaypointPods = serde_json::from_value(json!({
        "placement": {"tolerations": [{"key": "dedicated", "operator": "Exists"}], "priorityClassName": "high"},
        "resources": {"requests": {"cpu": "1"}},
        "imagePullSecrets": [{"name": "registry"}],
    }))
    .unwrap();
    let pod = spec(Some(&own));
    assert_eq!(pod.tolerations.unwrap()[0].key.as_deref(), Some("dedicated"));
    assert_eq!(pod.priority_class_name.as_deref(), Some("high"));
    assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "registry");
    assert_eq!(pod.node_selector.unwrap().get("pool"), None);
    let requests = pod.containers[0].resources.clone().unwrap().requests.unwrap();
    assert_eq!(requests["cpu"].0, "1");
}

#[test]
fn a_changed_log_level_restarts_nothing() {
    let mut louder = mesh();
    louder.spec.telemetry.log_level = "debug".into();
    let (before, after) = (rendered(&mesh(), 1, 1), rendered(&louder, 1, 1));
    let differs = before.iter().zip(&after).filter(|(b, a)| b.object != a.object);
    let differs: Vec<_> = differs.map(|(_, a)| a).collect();
    assert_eq!(differs.len(), 1);
    assert_eq!(differs[0].gvk.kind, "ConfigMap");
    assert_eq!(differs[0].object["data"]["log-filter"], "debug");
}

/// Only what concerns all waypoints makes them wait for one another.
#[test]
fn the_shared_template_is_the_meshs_alone() {
    let template = |mesh: &Mesh, replicas, pods: Option<&WaypointPods>| {
        let key = Key::new("shop", "edge");
        let desired = Desired {
            key: &key,
            replicas,
            least: 1,
            gateway: None,
            ambient: None,
            waypoint_for: "service",
            pods,
        };
        let objects = render(&settings(), mesh, &desired);
        let deployment: Deployment = the(&objects, "Deployment");
        deployment.metadata.annotations.unwrap()[labels::TEMPLATE_HASH].clone()
    };
    let own = WaypointPods {
        image_pull_secrets: Some(Vec::new()),
        placement: Some(ambit_crds::Placement {
            node_selector: [("pool".to_owned(), "own".to_owned())].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let one = template(&mesh(), 1, None);
    assert_eq!(one, template(&mesh(), 3, Some(&own)));
    let mut changed = mesh();
    changed.spec.waypoint.placement.node_selector = [("pool".to_owned(), "mesh".to_owned())].into();
    assert_ne!(one, template(&changed, 1, None));
}
