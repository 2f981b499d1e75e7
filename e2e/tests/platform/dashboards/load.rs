//! Traffic of every kind that the dashboards show: through ztunnels alone and through a waypoint, let in, denied, audited, tried again, refused.

use std::cell::Cell;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ambit_e2e::eventually;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh::{self, Pod};
use ambit_e2e::sample::{Plan, Shop, Web};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// Where the load is.
pub(super) const NAMESPACE: &str = "dash";

/// One that is called over HTTP, one that is called over TCP, one that only calls.
pub(super) const WORKLOADS: [&str; 3] = ["web", "server", "load-a"];

/// More idle connections than a control plane takes from one address.
const IDLE: usize = 40;

/// The sample applications at work.
pub(super) struct Load<'a> {
    lab: &'a Lab,
    web: Web,
    control: Pod,
    /// A port where nothing listens, and one that speaks TLS.
    server: Pod,
    stirred: Cell<u16>,
}

impl<'a> Load<'a> {
    /// Starts it: in the mesh, with rules, and with a waypoint that serves.
    pub(super) fn start(lab: &'a Lab, shop: &Shop) -> Result<Self> {
        let web = Web::deploy(&lab.cluster, shop.clone())?;
        shop.enroll()?;
        rules(lab, 9090)?;
        lab.cluster.apply(
            NAMESPACE,
            &object(
                "WaypointPolicy",
                "web",
                json!({
                    "targetRefs": [{"kind": "Service", "name": "web"}],
                    "authorization": [
                        {"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]},
                        {"name": "watch", "action": "Deny", "mode": "Audit", "paths": [{"prefix": "/flaky"}]},
                    ],
                    "retry": {"codes": [503]},
                }),
            ),
        )?;
        web.load("load-a", &Plan::get(6, "/flaky").every(20))?;
        web.load(
            "load-b",
            &Plan {
                method: "DELETE".to_owned(),
                ..Plan::get(1, "/orders").every(100)
            },
        )?;
        // Denied by the rule of the policy: a waypoint serves.
        eventually("requests to be denied by a waypoint", LIMIT, || {
            let stats = web.load_stats("load-b")?;
            ensure!(
                stats.statuses.get(&403).is_some_and(|count| *count > 0),
                "{:?}",
                stats.statuses
            );
            Ok(())
        })?;
        let pods = web.waypoints("waypoint")?;
        ensure!(!pods.is_empty() && pods.iter().all(|pod| pod.ready), "{pods:?}");
        let [server, control] =
            [shop.pods_of("server")?, mesh::control_planes(&lab.cluster)?].map(|pods| pods[0].clone());
        Ok(Self {
            lab,
            web,
            control,
            server,
            stirred: Cell::new(0),
        })
    }

    /// Does what no application does by itself, once.
    pub(super) fn stir(&self) -> Result<()> {
        // Something for the operator to reconcile, and for ztunnels to acknowledge.
        self.stirred.set(self.stirred.get() + 1);
        rules(self.lab, 9090 + self.stirred.get() % 2)?;
        // No TLS where HBONE is spoken.
        let mut stream = TcpStream::connect((self.server.ip, mesh::PORT_HBONE))?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        // Plaintext, from outside of the mesh.
        TcpStream::connect((self.server.ip, 8080))?.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        // Nothing listens there.
        let closed = SocketAddr::from((self.server.ip, 4));
        for stream in self
            .web
            .client("load-a")?
            .dial_many(&self.lab.cluster, closed, 1)?
            .into_iter()
            .flatten()
        {
            // The ztunnel accepts first, and resets then.
            _ = (&stream).write_all(b"x");
        }
        // Callers without a call.
        let address = SocketAddr::from((self.control.ip, 15012));
        let idle: Vec<_> = (0..IDLE)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
            .collect();
        ensure!(
            idle.iter().any(Result::is_ok),
            "{address} does not listen: {:?}",
            idle.first()
        );
        Ok(())
    }

    /// The address of the Service that is asked over HTTP, as Istio names it.
    pub(super) fn service(&self) -> String {
        format!("web.{NAMESPACE}.svc.cluster.local")
    }
}

/// Rules for TCP: one that denies, and one that only counts, on this port.
fn rules(lab: &Lab, watched: u16) -> Result<()> {
    let principal = format!("cluster.local/ns/{NAMESPACE}/sa/client-b");
    let server = json!({"matchLabels": {"app": "server"}});
    let rules = json!([
        {"name": "no-banner", "action": "Deny", "podSelector": server, "ports": [9091], "from": [{"principals": [principal]}]},
        {"name": "watch", "action": "Deny", "mode": "Audit", "podSelector": server, "ports": [watched]},
    ]);
    lab.cluster.apply(
        NAMESPACE,
        &object("AmbientNamespace", "ambient", json!({"authorization": rules})),
    )
}

fn object(kind: &str, name: &str, spec: Value) -> String {
    json!({"apiVersion": "ambit.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        .to_string()
}
