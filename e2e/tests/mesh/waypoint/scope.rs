//! A waypoint receives what it serves, and no more.

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, Pod};
use ambit_e2e::sample::Shop;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{WAYPOINT, ambient, enforce, policy, wait_replicas};
use ambit_e2e::lab::{LIMIT, Lab};

const ELSEWHERE: usize = 50;
const ROUNDS: u16 = 20;

/// Configuration resources that all control planes together sent to proxies with this label.
fn sent(lab: &Lab, label: &str) -> Result<f64> {
    let replicas = mesh::control_planes(&lab.cluster)?;
    replicas
        .iter()
        .map(|pod| pod.metric("ambit_config_resources_sent_total", &[label]))
        .sum()
}

/// Services whose port is `port`.
fn services(namespace: &str, count: usize, port: u16) -> String {
    let items: Vec<Value> = (0..count)
        .map(|index| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("away-{index}"), "namespace": namespace},
                "spec": {"selector": {"app": format!("away-{index}")}, "ports": [{"name": "http", "port": port}]},
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// The ports of the Services above, as a ztunnel's dump has them.
fn ports_elsewhere(services: &Value) -> Vec<u64> {
    let all = services.as_object().into_iter().flatten();
    let ours = all.filter(|(name, _)| name.contains("away-"));
    let ports = ours.flat_map(|(_, service)| service["ports"].as_object().into_iter().flatten());
    ports.filter_map(|(port, _)| port.parse().ok()).collect()
}

fn in_namespaces(lab: &Lab, names: &[&str], test: impl FnOnce() -> Result<()>) -> Result<()> {
    let result = names
        .iter()
        .try_for_each(|name| {
            let shop = Shop::create(&lab.cluster, name)?;
            let label = [
                "label",
                "--overwrite",
                "namespace",
                shop.namespace(),
                mesh::ENROLL,
            ];
            lab.cluster.run_kubectl(&label).map(drop)
        })
        .and_then(|()| test());
    for name in names {
        lab.cluster
            .run_kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait=false"])?;
    }
    result
}

#[test]
fn foreign_changes_send_a_waypoint_nothing() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("here", |web| {
        in_namespaces(&lab, &["elsewhere"], || {
            lab.cluster
                .apply("elsewhere", &services("elsewhere", ELSEWHERE, 1000))?;
            let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
            enforce(&lab, web, "gets", json!({"authorization": [rule]}))?;
            let [waypoint] = &wait_replicas(web, WAYPOINT, 1)?[..] else {
                anyhow::bail!("another number of replicas")
            };
            let dump = waypoint.loopback(&lab.cluster, 15000, "/config_dump")?;
            for word in ["web.here.svc.cluster.local", "here/gets"] {
                ensure!(dump.contains(word), "no {word} in {dump}");
            }
            for server in web.servers()? {
                ensure!(dump.contains(&server.name), "{} is not in {dump}", server.name);
            }
            for word in ["elsewhere", "away-", "PRIVATE KEY"] {
                ensure!(!dump.contains(word), "{word} is in {dump}");
            }

            // That ztunnels know of a round of changes shows that the control planes looked at it, and at all that was
            // before it: what the waypoint's own coming led to is sent by then.
            let change = |port: u16| -> Result<()> {
                lab.cluster
                    .apply("elsewhere", &services("elsewhere", ELSEWHERE, port))?;
                for ztunnel in mesh::ztunnels(&lab.cluster)? {
                    eventually(&format!("{} to know port {port}", ztunnel.name), LIMIT, || {
                        let dump = mesh::config_dump(&lab.cluster, &ztunnel)?;
                        let known = ports_elsewhere(&dump["services"]);
                        ensure!(known == vec![u64::from(port); ELSEWHERE], "it knows {known:?}");
                        Ok(())
                    })?;
                }
                Ok(())
            };
            change(1001)?;
            let (us, ztunnel) = (format!("proxy=\"here/{}\"", waypoint.name), "role=\"ztunnel\"");
            let (ours, theirs) = (sent(&lab, &us)?, sent(&lab, ztunnel)?);
            ensure!(ours > 0.0, "nothing is counted for {}", waypoint.name);
            for round in 2..=ROUNDS {
                lab.cluster
                    .apply("elsewhere", &services("elsewhere", ELSEWHERE, 1000 + round))?;
            }
            change(1001 + ROUNDS)?;
            let (to_us, to_ztunnels) = (sent(&lab, &us)? - ours, sent(&lab, ztunnel)? - theirs);
            println!(
                "{} changes: {to_ztunnels} resources to ztunnels, {to_us} to the waypoint",
                ELSEWHERE * usize::from(ROUNDS)
            );
            ensure!(to_us == 0.0, "the waypoint was sent {to_us} resources");
            ensure!(
                to_ztunnels > 0.0,
                "nobody was sent anything: the changes were none"
            );
            let now = waypoint.loopback(&lab.cluster, 15000, "/config_dump")?;
            ensure!(!now.contains("away-"), "its configuration grew");
            Ok(())
        })
    })
}

/// 25 applications of 10 pods each, behind a Service each: the objects, and the pods' statuses. No node runs these
/// pods; what there is to know of them is said here instead, and that is all that the control plane looks at.
fn applications(namespace: &str, net: u8) -> (String, String) {
    let (mut objects, mut statuses) = (Vec::new(), Vec::new());
    for app in 0..25_u8 {
        let name = format!("app-{app}");
        let mut endpoints = Vec::new();
        for index in 0..10_u8 {
            let pod = format!("{name}-{index}");
            let ip = format!("198.18.{net}.{}", app * 10 + index);
            let metadata = json!({"name": pod, "namespace": namespace});
            objects.push(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "spec": {"schedulerName": "nobody", "containers": [{"name": "app", "image": "app"}]},
            }));
            statuses.push(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "status": {
                    "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }));
            endpoints.push(json!({
                "addresses": [ip], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
            }));
        }
        let ports = json!([{"name": "http", "port": 8080}]);
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": ports},
        }));
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }));
    }
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    (list(objects), list(statuses))
}

#[test]
fn reference_case_sends_100_configurations() -> Result<()> {
    let lab = Lab::enter()?;
    let namespaces = ["reference-a", "reference-b"];
    in_namespaces(&lab, &namespaces, || {
        for (net, namespace) in namespaces.iter().enumerate() {
            let (objects, statuses) = applications(namespace, u8::try_from(net)?);
            lab.cluster.apply(namespace, &objects)?;
            lab.cluster.apply_status(namespace, &statuses)?;
            lab.cluster
                .apply(namespace, &ambient(json!({"waypoint": {"minReplicas": 2}})))?;
            let all = json!({"targetRefs": [{"kind": "Namespace", "name": namespace}], "timeouts": {"request": "10s"}});
            lab.cluster.apply(namespace, &policy("all", all))?;
        }
        for namespace in namespaces {
            let shop = Shop::create(&lab.cluster, namespace)?;
            let waypoints = eventually("two waypoints", LIMIT, || {
                let pods = Pod::list(&lab.cluster, shop.namespace(), "ambit.dev/waypoint=waypoint")?;
                ensure!(pods.len() == 2 && pods.iter().all(|pod| pod.ready), "{pods:?}");
                Ok(pods)
            })?;
            for waypoint in waypoints {
                eventually(&format!("the configuration of {}", waypoint.name), LIMIT, || {
                    let dump = waypoint.loopback(&lab.cluster, 15000, "/config_dump")?;
                    let own = (0..25)
                        .filter(|app| dump.contains(&format!("app-{app}.{namespace}.svc.cluster.local")));
                    ensure!(own.count() == 25, "not all of its Services are in it");
                    let all: Value = serde_json::from_str(&dump)?;
                    let pods = all["workloads"].as_object().map_or(0, serde_json::Map::len);
                    ensure!(pods == 250, "{pods} endpoints are in it");
                    let other = namespaces.iter().find(|other| **other != namespace);
                    ensure!(
                        other.is_none_or(|other| !dump.contains(other)),
                        "another namespace is in it"
                    );
                    Ok(())
                })?;
            }
        }
        eventually("the Mesh to count", LIMIT, || {
            let mesh = lab.cluster.get(&["mesh", "default"])?;
            let counted = &mesh["status"]["configuration"];
            ensure!(counted["sent"] == 100, "{counted}");
            println!("{counted}");
            Ok(())
        })
    })
}
