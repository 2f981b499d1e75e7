//! Output of the demo.

use std::io::Write;

use ambit_e2e::mesh::{LogLine, Pod};
use ambit_e2e::sample::Stats;
use ambit_e2e::wire::Packet;

/// One line, or several.
pub(super) fn line(text: &str) {
    // A closed terminal is not an error.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The title of the next part.
pub(super) fn heading(text: &str) {
    line(&format!("\n━━ {text}"));
}

/// A command as a user would type it.
pub(super) fn command(text: &str) {
    line(&format!("\n   $ {text}"));
}

/// The output of a command.
pub(super) fn output(text: &str) {
    for printed in text.lines() {
        line(&format!("     {printed}"));
    }
}

/// Some packets, with the pods at their ends.
pub(super) fn packets<'a>(packets: impl Iterator<Item = &'a Packet>, pods: &[Pod]) {
    let name = |ip| {
        pods.iter()
            .find(|pod| pod.ip == ip)
            .map_or("?", |pod| pod.app.as_str())
    };
    for packet in packets.take(3) {
        line(&format!("     {packet}"));
        line(&format!(
            "       ({} to {})",
            name(*packet.source.ip()),
            name(*packet.destination.ip())
        ));
    }
}

/// The fields of a pod that must not change.
pub(super) fn pods(pods: &[Pod]) {
    line(&format!(
        "     {:<26} {:<5} {:<38} {:<21} RESTARTS  CAPTURED",
        "POD", "NODE", "UID", "STARTED"
    ));
    for pod in pods {
        let Pod {
            name,
            node,
            uid,
            started,
            restarts,
            ..
        } = pod;
        let captured = if pod.captured { "yes" } else { "no" };
        line(&format!(
            "     {name:<26} {node:<5} {uid:<38} {started:<21} {restarts:<9} {captured}"
        ));
    }
}

/// The counts of a client.
pub(super) fn counts(client: &str, stats: &Stats) {
    let slowest = stats
        .flows
        .values()
        .map(|flow| flow.max_micros)
        .max()
        .unwrap_or_default();
    line(&format!(
        "     {client}: {} requests succeeded, {} failed; the slowest since the namespace joined took {}.{:03} ms",
        stats.total_ok(),
        stats.total_failed(),
        slowest / 1000,
        slowest % 1000
    ));
}

/// A line of a log, field by field.
pub(super) fn log_line(line_of_log: &LogLine, fields: &[&str]) {
    for field in fields {
        if let Some(value) = line_of_log.field(field) {
            line(&format!("     {field:<16} {value}"));
        }
    }
}

/// For a reader who keeps the cluster.
pub(super) fn how_to_go_on(command: &str) {
    line(&format!(
        "
The cluster stays up. In a shell:

   {command}
   kubectl get mesh,ambientnamespaces -A
   kubectl explain ambientnamespace.spec.authorization --recursive
   kubectl -n ambit-system logs daemonset/ztunnel | grep access
   kubectl -n shop edit ambientnamespace ambient       # another rule; mtls.mode: Strict
   kubectl -n shop edit waypointpolicy orders          # another method; a timeout, a retry
   kubectl -n shop logs deployment/waypoint | grep access
   kubectl label namespace shop istio.io/dataplane-mode-    # and out of the mesh again"
    ));
}
