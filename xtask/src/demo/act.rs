//! The demonstration itself.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ambit_e2e::cluster::Cluster;
use ambit_e2e::mesh::{self, LogLine, Pod};
use ambit_e2e::sample::{MARKER, Shop};
use ambit_e2e::wire::{self, Packet, Recording};
use ambit_e2e::{eventually, sample::Stats};
use anyhow::{Context, Result, bail, ensure};

use super::{show, waypoint};
use crate::progress::{Progress, seconds};
use crate::workspace;

const CLIENTS: [&str; 2] = ["client-a", "client-b"];
const LIMIT: Duration = Duration::from_secs(30);

/// The object of the namespace, with a rule.
pub(super) const DENY: &str = r#"apiVersion: ambit.dev/v1alpha1
kind: AmbientNamespace
metadata:
  name: ambient
spec:
  authorization:
    - name: no-client-a
      action: Deny
      podSelector:
        matchLabels: {app: server}
      from:
        - principals: [cluster.local/ns/shop/sa/client-a]
"#;

/// Before, the change, after, a rule, and a waypoint.
pub(super) fn play(cluster: &Cluster, shop: &Shop, progress: &Progress) -> Result<()> {
    let before = plain(cluster, shop, progress)?;
    enroll(cluster, shop, progress)?;
    encrypted(cluster, shop, &before, progress)?;
    deny(cluster, shop, progress)?;
    waypoint::play(cluster, shop, progress)?;
    show::heading(&format!("All of it took {}", seconds(progress.elapsed())));
    Ok(())
}

fn plain(cluster: &Cluster, shop: &Shop, progress: &Progress) -> Result<Vec<Pod>> {
    show::heading("Before: no mesh. Two clients call a Service over HTTP and plain TCP");
    let pods = shop.pods()?;
    show::pods(&pods);
    if !cluster.is_here() {
        show::line("\n   (Packets between the nodes are not recorded: that needs the network of the nodes.)");
        return reset_slowest(shop).map(|()| pods);
    }
    let packets = progress.step("record the wire between the nodes", || record(cluster, shop))?;
    let readable: Vec<&Packet> = wire::in_clear(&packets, MARKER).collect();
    ensure!(
        !readable.is_empty(),
        "no payload of the application crossed the wire"
    );
    show::line(&format!(
        "\n   On the wire between the nodes, {} packets can be read by anyone:",
        readable.len()
    ));
    // One of each kind of traffic.
    let kinds = [8080, 9090, 9091].into_iter();
    let examples = kinds.filter_map(|port| {
        readable
            .iter()
            .copied()
            .find(|packet| packet.source.port() == port)
    });
    show::packets(examples, &pods);
    reset_slowest(shop).map(|()| pods)
}

fn reset_slowest(shop: &Shop) -> Result<()> {
    CLIENTS.iter().try_for_each(|client| shop.reset_slowest(client))
}

fn enroll(cluster: &Cluster, shop: &Shop, progress: &Progress) -> Result<()> {
    show::heading("Ambit: a Mesh for the cluster, a label for the namespace; nothing is restarted");
    if cluster.get(&["mesh", "default"]).is_ok() {
        show::line("   (The Mesh was there before, and stays as it is.)");
    } else {
        show::command("kubectl apply -f - <<EOF");
        show::output(mesh::MESH);
        progress.step("the Mesh becomes Ready on every node", || {
            mesh::apply(cluster, mesh::MESH)
        })?;
    }
    show::output(&cluster.run_kubectl(&["get", "mesh"])?);
    show::command(&format!("kubectl label namespace shop {}", mesh::ENROLL));
    let start = Instant::now();
    progress.step("running pods are captured", || shop.enroll())?;
    show::line(&format!(
        "     captured, and every node is updated, {} after the label",
        seconds(start.elapsed())
    ));
    show::command("kubectl get mesh,ambientnamespaces -A");
    show::output(&cluster.run_kubectl(&["get", "mesh,ambientnamespaces", "--all-namespaces"])?);
    Ok(())
}

fn encrypted(cluster: &Cluster, shop: &Shop, before: &[Pod], progress: &Progress) -> Result<()> {
    show::heading("After: the same pods, mutual TLS between them");
    let pods = shop.pods()?;
    if cluster.is_here() {
        unreadable(cluster, shop, &pods, progress)?;
    }

    show::line("\n   The ztunnel of the server's node has the identity of the caller (its access log):");
    let line = eventually("the access log of a connection", LIMIT, || {
        access(cluster, shop, "connection complete")
    })?;
    show::log_line(
        &line,
        &[
            "src.workload",
            "src.identity",
            "dst.workload",
            "dst.identity",
            "dst.hbone_addr",
        ],
    );

    show::line("\n   The pods are the same as before:");
    show::pods(&pods);
    let lives = |pods: &[Pod]| -> Vec<(String, String, i64)> {
        pods.iter()
            .map(|pod| (pod.uid.clone(), pod.started.clone(), pod.restarts))
            .collect()
    };
    ensure!(
        lives(before) == lives(&pods),
        "pods were replaced or started again"
    );
    show::line("\n   and no request has failed:");
    for client in CLIENTS {
        let stats = shop.stats(client)?;
        show::counts(client, &stats);
        ensure!(
            stats.total_failed() == 0,
            "{client} had failures: {:?}",
            stats.failures
        );
    }
    Ok(())
}

/// Shows that no packet between these pods can be read.
fn unreadable(cluster: &Cluster, shop: &Shop, pods: &[Pod], progress: &Progress) -> Result<()> {
    let packets = progress.step("record the wire between the nodes", || record(cluster, shop))?;
    let addresses: Vec<Ipv4Addr> = pods.iter().map(|pod| pod.ip).collect();
    let readable = wire::in_clear(&packets, MARKER).count();
    ensure!(readable == 0, "{readable} packets can still be read");
    let records = wire::only_hbone(&packets, &addresses)?;
    show::line(&format!(
        "   On the wire, {} packets with payload between these pods, all of them TLS to or from port {}; 0 can be read:",
        records.len(),
        mesh::PORT_HBONE
    ));
    show::packets(
        records.into_iter().filter(|packet| packet.begins_tls_record()),
        pods,
    );
    Ok(())
}

fn deny(cluster: &Cluster, shop: &Shop, progress: &Progress) -> Result<()> {
    show::heading("A rule: client-a may no longer call the server");
    show::command("kubectl apply -n shop -f - <<EOF");
    show::output(DENY);
    let before = shop.stats("client-a")?;
    cluster.apply("shop", DENY)?;
    let start = Instant::now();
    let refused = progress.step("client-a is refused", || wait_failure(shop, "client-a", &before))?;
    let took = start.elapsed();
    let failure = refused.failures.back().context("a failure leaves a record")?;
    show::line(&format!(
        "     in force {} after `kubectl apply`; client-a's own error:",
        seconds(took)
    ));
    show::output(&format!("{}: {}", failure.flow, failure.error));
    let words = "no-client-a";
    let line = eventually("the refusal in the log", LIMIT, || access(cluster, shop, words))?;
    show::line("\n   The ztunnel of the server's node logs the rule and both identities:");
    show::log_line(&line, &["src.identity", "dst.identity"]);
    if let Some((_, error)) = line.text().split_once(" error=") {
        show::line(&format!("     {:<16} {error}", "error"));
    }
    shop.wait_more("client-b", 5)?;
    show::line("\n   client-b continues:");
    let other = shop.stats("client-b")?;
    show::counts("client-b", &other);
    ensure!(
        other.total_failed() == 0,
        "client-b had failures: {:?}",
        other.failures
    );
    show::command("kubectl get ambientnamespace ambient -n shop -o jsonpath='{.status.rules}'");
    let rules = eventually("the rule in the status", LIMIT, || {
        let rules = &shop.ambient()?["status"]["rules"];
        ensure!(rules[0]["name"] == words, "{rules}");
        Ok(rules.to_string())
    })?;
    show::output(&rules);
    Ok(())
}

/// The packets on the wire while every client gets ten responses for each kind of traffic.
fn record(cluster: &Cluster, shop: &Shop) -> Result<Vec<Packet>> {
    let recording = Recording::start(cluster, &workspace::target().join("demo/wire.pcap"))?;
    for client in CLIENTS {
        shop.wait_more(client, 10)?;
    }
    recording.stop()
}

/// The latest line of the server's ztunnel about a connection of client-a, with `words` in it.
fn access(cluster: &Cluster, shop: &Shop, words: &str) -> Result<LogLine> {
    let id = format!("ns/{}/sa/client-a", shop.namespace());
    for ztunnel in mesh::ztunnels(cluster)? {
        let lines = LogLine::find(cluster, &ztunnel, &[words, "direction=\"inbound\"", &id])?;
        if let Some(line) = lines.into_iter().next_back() {
            return Ok(line);
        }
    }
    bail!("no ztunnel has logged it")
}

fn wait_failure(shop: &Shop, client: &str, before: &Stats) -> Result<Stats> {
    eventually("a request to be refused", LIMIT, || {
        let now = shop.stats(client)?;
        ensure!(
            now.total_failed() > before.total_failed(),
            "{client} still gets responses"
        );
        Ok(now)
    })
}
