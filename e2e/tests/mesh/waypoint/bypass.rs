//! Nothing goes round a waypoint that authorizes.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ambit_e2e::eventually;
use ambit_e2e::http::{Answer, Request};
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::Web;
use anyhow::{Result, ensure};
use serde_json::json;

use super::{WAYPOINT, enforce};
use ambit_e2e::lab::{LIMIT, Lab};

/// A request to the pod's own address from a captured pod.
fn directly(lab: &Lab, web: &Web, server: &Pod) -> Result<Answer> {
    let target = SocketAddr::from((server.ip, Web::HTTP));
    let stream = web.client("load-a")?.dial(&lab.cluster, target)?;
    Request::get("/direct").send(stream, "web")
}

/// A request to the pod's own address from this machine, which is in no pod and has no identity.
fn in_clear(server: &Pod) -> Result<Answer> {
    let target = SocketAddr::from((server.ip, Web::HTTP));
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Request::get("/in-clear").send(stream, "web")
}

/// Fails unless both ways to every server are closed, and no server received anything.
pub(super) fn ensure_closed(lab: &Lab, web: &Web) -> Result<()> {
    let before = web.reached()?;
    for server in web.servers()? {
        for (way, result) in [
            ("directly", directly(lab, web, &server)),
            ("in clear", in_clear(&server)),
        ] {
            if let Ok(answer) = result {
                anyhow::bail!("{} is reached {way}: {}", server.name, answer.head());
            }
        }
    }
    let after = web.reached()?;
    ensure!(
        after == before,
        "{} requests went past the waypoint",
        after - before
    );
    Ok(())
}

#[test]
fn authorization_closes_pods_to_others() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("round", |web| {
        // Without authorization, nothing is closed.
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "10s"}}))?;
        for server in web.servers()? {
            ensure!(directly(&lab, web, &server)?.status == 200, "directly");
            ensure!(in_clear(&server)?.status == 200, "in clear");
        }
        let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
        enforce(&lab, web, "gets", json!({"authorization": [rule]}))?;
        eventually("the pods to be closed", LIMIT, || ensure_closed(&lab, web))?;
        web.echo("load-a", &Request::get("/"))?;

        // New pods become Ready only by their probes, and are closed from the begin.
        lab.cluster.run_kubectl(&[
            "rollout",
            "restart",
            "deployment/web",
            "--namespace",
            web.namespace(),
        ])?;
        let wait = [
            "rollout",
            "status",
            "deployment/web",
            "--timeout=180s",
            "--namespace",
            web.namespace(),
        ];
        lab.cluster.run_kubectl(&wait)?;
        eventually("the new pods to be Ready alone", LIMIT, || {
            let servers = web.servers()?;
            ensure!(
                servers.len() == 2 && servers.iter().all(|pod| pod.ready && pod.captured),
                "{servers:?}"
            );
            Ok(())
        })?;
        ensure_closed(&lab, web)?;
        for client in ["load-a", "load-b"] {
            web.echo(client, &Request::get("/"))?;
        }

        // The last policy with authorization goes, and so does the guard.
        lab.cluster
            .run_kubectl(&["delete", "waypointpolicy", "gets", "--namespace", web.namespace()])?;
        eventually("the pods to be open again", LIMIT, || {
            for server in web.servers()? {
                ensure!(directly(&lab, web, &server)?.status == 200, "directly");
            }
            Ok(())
        })?;
        ensure!(
            !web.waypoints(WAYPOINT)?.is_empty(),
            "the waypoint went with one of two policies"
        );
        Ok(())
    })
}
