//! Waypoints come with the first policy and go with the last, and an operator that restarts changes nothing.

use std::collections::BTreeMap;
use std::fs;

use ambit_e2e::cluster::Write;
use ambit_e2e::mesh;
use ambit_e2e::sample::{CLIENTS, Plan, Shop, Web};
use ambit_e2e::{eventually, http::Request};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{WAYPOINT, ambient, condition, enforce, policy, wait_replicas, wait_way};
use crate::failures::{kill_container, operators};
use ambit_e2e::lab::{LIMIT, Lab};

/// The operator and the control plane, to the API server.
const OPERATORS: [&str; 2] = [
    "system:serviceaccount:ambit-system:ambit-operator",
    "system:serviceaccount:ambit-system:ambit-control",
];

const KINDS: &str = "deployments,services,serviceaccounts,configmaps,poddisruptionbudgets";

/// What the operator made for waypoints of a namespace, as `Kind/name`.
pub(super) fn made(lab: &Lab, web: &Web) -> Result<Vec<String>> {
    let ours = "app.kubernetes.io/name=ambit-waypoint";
    let objects = lab
        .cluster
        .list(&[KINDS, "--namespace", web.namespace(), "--selector", ours])?;
    Ok(objects
        .iter()
        .map(|object| format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name")))
        .collect())
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn last_policy_deletes_the_waypoint_without_failures() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("leave", |web| {
        web.load_all(&Plan::get(4, "/slow?ms=5"))?;
        for client in CLIENTS {
            web.wait_more(client, 100)?;
        }
        // It comes under load, too.
        lab.cluster
            .apply(web.namespace(), &ambient(json!({"waypoint": {"minReplicas": 2}})))?;
        let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
        enforce(&lab, web, "gets", json!({"authorization": [rule]}))?;
        wait_replicas(web, WAYPOINT, 2)?;
        let made_now = made(&lab, web)?;
        for kind in ["Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"] {
            ensure!(
                made_now.contains(&format!("{kind}/{WAYPOINT}")),
                "no {kind} in {made_now:?}"
            );
        }
        for client in CLIENTS {
            web.wait_more(client, 200)?;
        }

        let under_policy = web.ensure_no_failure()?;
        lab.cluster
            .run_kubectl(&["delete", "waypointpolicy", "gets", "--namespace", web.namespace()])?;
        wait_way(web, None)?;
        eventually(
            "the waypoint to be gone, and all that belonged to it",
            LIMIT + LIMIT,
            || {
                let left = made(&lab, web)?;
                ensure!(left.is_empty(), "{left:?}");
                ensure!(web.waypoints(WAYPOINT)?.is_empty(), "its pods are there");
                Ok(())
            },
        )?;
        for client in CLIENTS {
            web.wait_more(client, 200)?;
        }
        // When the policy came, connections from before it were closed at the pods; when it goes, none has to be.
        for stats in web.ensure_nothing_cut(&under_policy)? {
            println!("{} requests answered, 0 failed, none made again", stats.ok);
        }
        Ok(())
    })
}

/// The resource version of every object that a restart of the operators must leave alone. What says that the operators
/// themselves were away (their Deployment, pods, endpoints, leases) is not among them.
fn versions(lab: &Lab, namespaces: &[&str]) -> Result<BTreeMap<String, String>> {
    let kinds = "deployments,replicasets,daemonsets,pods,services,serviceaccounts,configmaps,secrets,poddisruptionbudgets,\
                 endpointslices,roles,rolebindings,ambientnamespaces,waypointpolicies";
    let mut objects = lab
        .cluster
        .list(&["meshes,namespaces,nodes,clusterroles,clusterrolebindings"])?;
    // A node's own heartbeat.
    objects.retain(|object| text(object, "/kind") != "Node");
    for namespace in namespaces {
        objects.extend(lab.cluster.list(&[kinds, "--namespace", namespace])?);
    }
    let key = |object: &Value| {
        ["/kind", "/metadata/namespace", "/metadata/name"]
            .map(|path| text(object, path))
            .join("/")
    };
    Ok(objects
        .iter()
        .filter(|object| {
            let own = ["ambit-operator", "ambit-control"].map(|name| format!("{}/{name}", mesh::NAMESPACE));
            !own.iter().any(|own| key(object).contains(own))
        })
        .map(|object| (key(object), text(object, "/metadata/resourceVersion").to_owned()))
        .collect())
}

/// Whether operators that restart may ask for it: to be leader, to know who calls them, to answer what is new.
fn is_expected(write: &Write, witness: &str) -> bool {
    match write.resource.as_str() {
        "leases" => write.namespace == mesh::NAMESPACE,
        "tokenreviews" => true,
        _ => write.namespace == witness,
    }
}

/// Namespaces that were deleted and are not gone yet.
fn terminating(lab: &Lab) -> Result<Vec<String>> {
    let namespaces = lab.cluster.list(&["namespaces"])?;
    let going = namespaces
        .iter()
        .filter(|namespace| namespace.pointer("/metadata/deletionTimestamp").is_some());
    Ok(going
        .map(|namespace| text(namespace, "/metadata/name").to_owned())
        .collect())
}

#[test]
fn restarted_operators_write_only_their_lease() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("quiet", |web| {
        lab.cluster
            .apply(web.namespace(), &ambient(json!({"waypoint": {"minReplicas": 2}})))?;
        let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
        enforce(
            &lab,
            web,
            "gets",
            json!({"authorization": [rule], "timeouts": {"request": "10s"}}),
        )?;
        wait_replicas(web, WAYPOINT, 2)?;
        web.load_all(&Plan::get(2, "/").every(10))?;

        // In a namespace of its own, something that an operator answers to: when it has, it has looked at everything.
        let witness = Shop::create(&lab.cluster, "witness")?;
        let ask = |timeout: &str| -> Result<()> {
            let spec = json!({"targetRefs": [{"kind": "Service", "name": "nobody"}], "timeouts": {"request": timeout}});
            lab.cluster.apply(witness.namespace(), &policy("witness", spec))?;
            eventually("an operator to answer", LIMIT, || {
                let found =
                    lab.cluster
                        .get(&["waypointpolicy", "witness", "--namespace", witness.namespace()])?;
                condition(&found, "Accepted").map(drop)
            })
        };
        let test = || -> Result<()> {
            ask("1s")?;
            let namespaces = [web.namespace(), mesh::NAMESPACE];
            // A namespace that an earlier test left goes still, and the Mesh counts it until it is gone. What all that
            // led to has come to rest when objects stay as they are over some five seconds.
            let before = eventually("all to come to rest", LIMIT + LIMIT, || {
                let going = terminating(&lab)?;
                ensure!(going.is_empty(), "namespaces are going still: {going:?}");
                let first = versions(&lab, &namespaces)?;
                for client in CLIENTS {
                    web.wait_more(client, 1000)?;
                }
                ensure!(first == versions(&lab, &namespaces)?, "objects change still");
                Ok(first)
            })?;
            ensure!(before.len() > 20, "{} objects", before.len());
            let audit = lab.cluster.audit()?;
            let operators = operators(&lab)?;
            for (operator, container) in &operators {
                kill_container(&lab, operator, container)?;
            }
            for timeout in ["2s", "3s"] {
                ask(timeout)?;
            }
            for client in CLIENTS {
                web.wait_more(client, 200)?;
            }
            let after = versions(&lab, &namespaces)?;
            let changed: Vec<_> = after
                .iter()
                .filter(|(key, version)| before.get(*key) != Some(version))
                .collect();
            let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
            ensure!(
                changed.is_empty() && gone.is_empty(),
                "changed: {changed:#?}, gone: {gone:?}"
            );
            // Requests count, too, that left an object as it was.
            let writes: Vec<_> = audit
                .writes()?
                .into_iter()
                .filter(|write| OPERATORS.contains(&write.user.as_str()))
                .collect();
            let (expected, others): (Vec<_>, Vec<_>) = writes
                .into_iter()
                .partition(|write| is_expected(write, witness.namespace()));
            ensure!(others.is_empty(), "the operators asked to write: {others:#?}");
            ensure!(
                expected.iter().any(|write| write.resource == "leases"),
                "not even a lease: {expected:#?}"
            );
            println!(
                "{} objects, {} operators and control planes killed: none was written; {} requests that write, all for leases, to review tokens or \
                 to answer the witness",
                before.len(),
                operators.len(),
                expected.len()
            );
            web.ensure_no_failure().map(drop)
        };
        let result = test();
        witness.delete()?;
        result
    })
}

#[test]
fn a_waypoint_runs_without_any_privilege() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("humble", |web| {
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "10s"}}))?;
        web.echo("load-a", &Request::get("/"))?;
        for waypoint in web.waypoints(WAYPOINT)? {
            ensure!(!waypoint.captured, "a waypoint is captured: {waypoint:?}");
            let pid = waypoint
                .node(&lab.cluster)?
                .container_pid(&waypoint.uid, "waypoint")?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            for wanted in [
                "CapPrm:\t0000000000000000",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "Uid:\t65532\t65532\t65532\t65532",
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
            ] {
                ensure!(status.contains(wanted), "no `{wanted}` in {status}");
            }
            let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
            let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/"));
            let options = root.context("no root")?.split(' ').nth(3).unwrap_or_default();
            ensure!(
                options.split(',').any(|option| option == "ro"),
                "its root can be written"
            );
        }
        Ok(())
    })
}
