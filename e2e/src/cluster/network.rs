//! The networks of a cluster: a network namespace for the control plane and one for each node, joined by the bridge
//! `wire`, which lies in the control plane's namespace. The machine itself gets one interface and one route.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::layout::{Layout, slot_overlaps};
use crate::shell::{self, ip};

/// Makes the wire, the control plane's place on it and the machine's.
pub(super) fn create_wire(layout: &Layout) -> Result<()> {
    let netns = layout.control_plane_netns();
    let host = layout.host_interface();
    ip(&format!("netns add {netns}"))?;
    ip(&format!("-n {netns} link set lo up"))?;
    ip(&format!("-n {netns} link add wire type bridge"))?;
    ip(&format!(
        "-n {netns} addr add {}/24 dev wire",
        layout.control_plane_ip()
    ))?;
    ip(&format!("-n {netns} link set wire up"))?;
    ip(&format!("link add {host} type veth peer name host netns {netns}"))?;
    ip(&format!("-n {netns} link set host master wire up"))?;
    ip(&format!("addr add {}/24 dev {host}", layout.host_ip()))?;
    ip(&format!("link set {host} up"))?;
    for index in 1..=layout.nodes {
        let route = format!(
            "route replace {} via {}",
            layout.pod_network(index),
            layout.node_ip(index)
        );
        ip(&format!("-n {netns} {route}"))?;
        ip(&route)?;
    }
    Ok(())
}

/// Makes the network namespace of node `index` and plugs it into the wire.
pub(super) fn create_node(layout: &Layout, index: usize) -> Result<()> {
    let (netns, wire) = (layout.node_netns(index), layout.control_plane_netns());
    let plug = layout.node_name(index);
    ip(&format!("netns add {netns}"))?;
    ip(&format!("-n {netns} link set lo up"))?;
    // A machine keeps its hardware address over a restart: its peers need not find it anew.
    let address = hardware_address(layout.node_ip(index));
    ip(&format!(
        "-n {wire} link add {plug} type veth peer name eth0 address {address} netns {netns}"
    ))?;
    ip(&format!("-n {wire} link set {plug} master wire up"))?;
    ip(&format!(
        "-n {netns} addr add {}/24 dev eth0",
        layout.node_ip(index)
    ))?;
    ip(&format!("-n {netns} link set eth0 up"))?;
    ip(&format!("-n {netns} route add default via {}", layout.host_ip()))?;
    for other in (1..=layout.nodes).filter(|other| *other != index) {
        ip(&format!(
            "-n {netns} route add {} via {}",
            layout.pod_network(other),
            layout.node_ip(other)
        ))?;
    }
    // What an administrator of a node sets, in this namespace only: it forwards, and answers may take another way.
    // Bridged packets pass through netfilter, else a Service's answer on the same node would not be translated back.
    let settings = [
        ("ipv4/ip_forward", 1),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
    ];
    set(&netns, &settings)?;
    if !Path::new("/proc/sys/net/bridge").exists() {
        shell::run(Command::new("modprobe").arg("br_netfilter")).context(
            "the kernel module br_netfilter is needed: Services on the pod's own node do not work without",
        )?;
    }
    set(&netns, &[("bridge/bridge-nf-call-iptables", 1)])
}

/// Unplugs node `index` without a word to its peers, as a power cut does.
pub(super) fn unplug_node(layout: &Layout, index: usize) -> Result<()> {
    let (wire, plug) = (layout.control_plane_netns(), layout.node_name(index));
    if exists(&wire) && ip(&format!("-n {wire} link show dev {plug}")).is_ok() {
        ip(&format!("-n {wire} link delete {plug}"))?;
    }
    Ok(())
}

/// Removes the network namespace of node `index`, if it is there.
pub(super) fn remove_node(layout: &Layout, index: usize) -> Result<()> {
    remove_netns(&layout.node_netns(index))
}

/// Removes the wire and the machine's place on it, where they are there.
pub(super) fn remove_wire(layout: &Layout) -> Result<()> {
    let host = layout.host_interface();
    if Path::new("/sys/class/net").join(&host).exists() {
        ip(&format!("link delete {host}"))?;
    }
    remove_netns(&layout.control_plane_netns())
}

/// Whether the network of `slot` is used by something else on this machine.
pub(super) fn slot_in_use(slot: u8) -> Result<bool> {
    let routes = ip("-4 route show table all")?;
    let words = routes.lines().filter_map(|line| {
        line.split_whitespace()
            .find(|word| !matches!(*word, "local" | "broadcast" | "unreachable" | "blackhole"))
    });
    Ok(words
        .into_iter()
        .any(|destination| slot_overlaps(slot, destination)))
}

/// The network namespaces of a cluster that exist.
pub(super) fn namespaces(layout: &Layout) -> Vec<String> {
    let mut names = vec![layout.control_plane_netns()];
    names.extend((1..=layout.nodes).map(|index| layout.node_netns(index)));
    names.into_iter().filter(|name| exists(name)).collect()
}

/// The words that start a program in a network namespace. `ip netns exec` would hide the cgroups: it mounts /sys anew.
pub(super) fn within(netns: &str) -> Vec<String> {
    vec!["nsenter".into(), format!("--net=/run/netns/{netns}"), "--".into()]
}

/// A locally administered hardware address for an IP address.
fn hardware_address(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn exists(netns: &str) -> bool {
    Path::new("/run/netns").join(netns).exists()
}

fn remove_netns(netns: &str) -> Result<()> {
    if !exists(netns) {
        return Ok(());
    }
    if ip(&format!("netns delete {netns}")).is_err() {
        // A run killed between its two steps leaves a plain file that the tool does not take for a namespace.
        let file = Path::new("/run/netns").join(netns);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

/// Sets kernel settings of a network namespace.
fn set(netns: &str, settings: &[(&str, u8)]) -> Result<()> {
    for (name, value) in settings {
        let words = within(netns);
        let write = format!("echo {value} > /proc/sys/net/{name}");
        shell::run(
            Command::new(&words[0])
                .args(&words[1..])
                .args(["sh", "-c", &write]),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_follows_from_the_ip() {
        assert_eq!(
            hardware_address(Ipv4Addr::new(10, 88, 0, 11)),
            "02:00:0a:58:00:0b"
        );
    }
}
