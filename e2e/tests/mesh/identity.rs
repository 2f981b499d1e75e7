//! Who is who at the destination.

use ambit_e2e::eventually;
use ambit_e2e::mesh::{LogLine, Pod};
use ambit_e2e::sample::{Seen, Shop, millis};
use anyhow::{Context, Result, ensure};

use ambit_e2e::lab::{LIMIT, Lab};

/// What a server has logged since a moment.
fn seen_since(lab: &Lab, server: &Pod, since: u64) -> Result<Vec<Seen>> {
    let log = lab.cluster.logs(&server.namespace, &server.name)?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Seen>(line).ok());
    Ok(lines.filter(|seen| seen.time >= since).collect())
}

/// Fails unless the destination's access log has a connection from `client` to `server` under both identities.
fn ensure_logged(lab: &Lab, shop: &Shop, client: &Pod, server: &Pod) -> Result<()> {
    let ztunnel = lab.ztunnel_of(server)?;
    let from = format!("src.addr={}:", client.ip);
    let lines = LogLine::find(
        &lab.cluster,
        &ztunnel,
        &["connection complete", &from, "direction=\"inbound\""],
    )?;
    let mut to_server = lines
        .iter()
        .filter(|line| line.field("dst.workload") == Some(&server.name));
    let line = to_server
        .next_back()
        .with_context(|| format!("{} has logged nothing from {}", ztunnel.name, client.name))?;
    let id = |account: &str| format!("spiffe://cluster.local/ns/{}/sa/{account}", shop.namespace());
    ensure!(
        line.field("src.identity") == Some(&id(&client.app)),
        "{}",
        line.text()
    );
    ensure!(
        line.field("dst.identity") == Some(&id("server")),
        "{}",
        line.text()
    );
    Ok(())
}

#[test]
fn destination_has_identity_and_address_of_the_caller() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("identity", |shop| {
        shop.enroll()?;
        let since = millis(std::time::SystemTime::now());
        lab.record(shop, 20)?;
        let clients = [shop.pod_of("client-a")?, shop.pod_of("client-b")?];
        for server in shop.pods_of("server")? {
            for client in &clients {
                let what = format!("{} to have served {}", server.name, client.name);
                eventually(&what, LIMIT, || ensure_logged(&lab, shop, client, &server))?;
            }
            let seen = seen_since(&lab, &server, since)?;
            for flow in ["http", "banner"] {
                for seen in seen.iter().filter(|seen| seen.flow == flow) {
                    let known = clients.iter().any(|client| seen.peer.ip() == client.ip);
                    ensure!(
                        known,
                        "the server took {} for the peer of a {flow} connection",
                        seen.peer
                    );
                }
            }
            for (client, flow) in clients
                .iter()
                .flat_map(|client| ["http", "tcp", "banner"].map(|flow| (client, flow)))
            {
                let found = seen
                    .iter()
                    .any(|seen| seen.flow == flow && seen.peer.ip() == client.ip);
                ensure!(
                    found,
                    "{} saw no {flow} connection from {}",
                    server.name,
                    client.name
                );
            }
        }
        Ok(())
    })
}
