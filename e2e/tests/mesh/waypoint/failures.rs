//! Waypoints die: nothing is lost that can be made again, and nothing goes past them.

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::mesh::{self, Pod};
use ambit_e2e::sample::{CLIENTS, Heard, Plan, Web};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::bypass::ensure_closed;
use super::{WAYPOINT, ambient, enforce, wait_replicas, wait_way};
use crate::failures::{
    kill, kill_container, operators, wait_operators, wait_started_again, without_operators,
};
use ambit_e2e::lab::{LIMIT, Lab};

fn authorize(lab: &Lab, web: &Web) -> Result<()> {
    let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
    enforce(lab, web, "gets", json!({"authorization": [rule]})).map(drop)
}

#[test]
fn killed_replicas_fail_no_idempotent_request() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("killw", |web| {
        lab.cluster.apply(
            web.namespace(),
            &ambient(json!({"waypoint": {"minReplicas": 2, "maxReplicas": 2}})),
        )?;
        authorize(&lab, web)?;
        let replicas = wait_replicas(web, WAYPOINT, 2)?;
        ensure!(
            replicas[0].node != replicas[1].node,
            "both are on {}",
            replicas[0].node
        );
        web.load_all(&Plan::get(8, "/slow?ms=5"))?;
        for client in CLIENTS {
            web.wait_more(client, 100)?;
        }
        for replica in &replicas {
            kill_container(&lab, replica, "waypoint")?;
            for client in CLIENTS {
                web.wait_more(client, 200)?;
            }
        }
        for stats in web.ensure_no_failure()? {
            println!(
                "{} requests answered, 0 failed; {} connections were cut and their requests made again",
                stats.ok, stats.retried
            );
        }
        Ok(())
    })
}

/// Fails unless every request is refused, and none of them, nor any past the waypoint, reaches a server.
fn ensure_refused(lab: &Lab, web: &Web) -> Result<()> {
    let before = web.reached()?;
    for client in CLIENTS {
        for _ in 0..5 {
            if let Ok(answer) = web.request(client, &Request::get("/")) {
                bail!(
                    "{client} is answered without a waypoint: {}\n{}",
                    answer.head(),
                    answer.body
                );
            }
        }
    }
    let after = web.reached()?;
    ensure!(after == before, "{} requests reached a server", after - before);
    ensure_closed(lab, web)
}

/// Waits until none of these is left, and none of their processes: one that was told to end may serve for a moment
/// still.
fn wait_gone(lab: &Lab, web: &Web, replicas: &[Pod]) -> Result<()> {
    eventually("the last replica to be gone", LIMIT, || {
        let left = web.waypoints(WAYPOINT)?;
        ensure!(left.is_empty(), "{left:?}");
        for replica in replicas {
            let process = replica
                .node(&lab.cluster)?
                .container_pid(&replica.uid, "waypoint");
            ensure!(process.is_err(), "{} runs still", replica.name);
        }
        Ok(())
    })
}

/// Ends every operator and control plane with SIGKILL, and waits until they are back.
pub(super) fn restart_operators(lab: &Lab) -> Result<()> {
    for (operator, container) in operators(lab)? {
        kill_container(lab, &operator, container)?;
    }
    wait_operators(lab)?;
    mesh::wait_ready(&lab.cluster)
}

#[test]
fn no_replica_refuses_even_after_operators_were_killed() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("gone", |web| {
        authorize(&lab, web)?;
        web.load_all(&Plan::get(2, "/").every(20))?;
        for client in CLIENTS {
            web.wait_more(client, 20)?;
        }
        // A quota that is used up: what is deleted does not come back.
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}});
        lab.cluster.apply(web.namespace(), &quota.to_string())?;
        let replicas = wait_replicas(web, WAYPOINT, 1)?;
        for replica in &replicas {
            kill(&lab, replica, "waypoint")?;
            let delete = ["delete", "pod", &replica.name, "--force", "--grace-period=0", "--namespace", web.namespace()];
            lab.cluster.run_kubectl(&delete)?;
        }
        wait_gone(&lab, web, &replicas)?;
        ensure_refused(&lab, web)?;

        // Operators that come new have nothing but what is in the cluster to know it from.
        restart_operators(&lab)?;
        ensure_refused(&lab, web)?;

        lab.cluster
            .run_kubectl(&["delete", "resourcequota", "full", "--namespace", web.namespace()])?;
        // The ReplicaSet's controller tries again ever more seldom; a change of its object makes it look now. The first
        // look may come before the API server has taken note that the quota is gone.
        let mut looks = 0;
        eventually("the replica to come back", LIMIT, || {
            looks += 1;
            let look = format!("look={looks}");
            let annotate = ["annotate", "--overwrite", "replicaset", "--selector", "ambit.dev/waypoint", &look, "--namespace", web.namespace()];
            lab.cluster.run_kubectl(&annotate)?;
            let pods = web.waypoints(WAYPOINT)?;
            ensure!(pods.len() == 1 && pods[0].ready, "{pods:?}");
            Ok(())
        })?;
        for client in CLIENTS {
            web.wait_more(client, 20)?;
        }
        Ok(())
    })
}

#[test]
fn no_operator_and_no_waypoint_refuses() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("alone", |web| {
        authorize(&lab, web)?;
        without_operators(&lab, || {
            // The waypoint works on without them.
            for client in CLIENTS {
                web.echo(client, &Request::get("/"))?;
                ensure!(
                    web.request(client, &Request::new("PUT", "/"))?.status == 403,
                    "a PUT passes"
                );
            }
            let replicas = wait_replicas(web, WAYPOINT, 1)?;
            lab.cluster
                .run_kubectl(&["delete", "deployment", WAYPOINT, "--namespace", web.namespace()])?;
            wait_gone(&lab, web, &replicas)?;
            ensure_refused(&lab, web)
        })?;
        wait_replicas(web, WAYPOINT, 1)?;
        for client in CLIENTS {
            eventually(&format!("{client} to be answered again"), LIMIT, || {
                web.echo(client, &Request::get("/")).map(drop)
            })?;
        }
        Ok(())
    })
}

#[test]
fn restarted_ztunnel_bypasses_no_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("anew", |web| {
        // No authorization: the pods themselves refuse nobody.
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "60s"}}))?;
        let [client, _] = CLIENTS;
        let mut waiting = None;
        without_operators(&lab, || {
            let ztunnel = lab.ztunnel_of(&web.client(client)?)?;
            kill(&lab, &ztunnel, "ztunnel")?;
            wait_started_again(&lab, &ztunnel, false)?;
            let before = web.reached()?;
            for _ in 0..3 {
                if let Ok(answer) = web.request(client, &Request::get("/")) {
                    bail!("{client} is answered: {}\n{}", answer.head(), answer.body);
                }
            }
            let after = web.reached()?;
            ensure!(
                after == before,
                "{} requests went past the waypoint",
                after - before
            );
            waiting = Some(web.dial(client, Web::HTTP)?);
            Ok(())
        })?;
        let waiting = waiting.context("nothing waits")?;
        waiting.set_read_timeout(Some(LIMIT))?;
        let answer = Request::get("/").send(waiting, "web")?;
        ensure!(answer.status == 200, "what had waited got {}", answer.head());
        let waypoints = wait_replicas(web, WAYPOINT, 1)?;
        let received: Heard = serde_json::from_str(&answer.body)?;
        ensure!(
            received.peer.ip() == waypoints[0].ip,
            "what had waited came from {}, not through {waypoints:?}",
            received.peer
        );
        wait_way(web, Some(WAYPOINT))
    })
}
