//! The configuration of a node's programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::layout::Layout;
use crate::preflight::KUBELET_RESERVE_PERCENT;
use crate::tools::PAUSE_IMAGE;

/// Folders that are private to a node and survive a power cut: name on its disk, path inside.
pub(super) const DISK: &[(&str, &str)] = &[
    ("containerd", "/var/lib/containerd"),
    ("kubelet", "/var/lib/kubelet"),
    ("ambit", "/var/lib/ambit"),
    ("cni-state", "/var/lib/cni"),
    ("cni", "/etc/cni/net.d"),
    ("cni-bin", "/opt/cni/bin"),
    ("pod-logs", "/var/log/pods"),
    ("container-logs", "/var/log/containers"),
];

/// Writes all of it; the CNI configuration only where there is none yet, since others may have chained themselves into
/// it.
pub(super) fn write(layout: &Layout, index: usize) -> Result<()> {
    let (config, disk) = (layout.config(index), layout.disk(index));
    for (name, _) in DISK {
        let dir = disk.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    for dir in [config.clone(), layout.manifests(index)] {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    put(
        &config.join("containerd.toml"),
        CONTAINERD.replace("PAUSE_IMAGE", PAUSE_IMAGE).as_bytes(),
    )?;
    put(
        &config.join("kubelet.json"),
        &serde_json::to_vec_pretty(&kubelet(layout, index))?,
    )?;
    put(
        &config.join("kube-proxy.json"),
        &serde_json::to_vec_pretty(&proxy(layout, index))?,
    )?;
    put(
        &config.join("resolv.conf"),
        b"# Names outside the cluster are not resolved.\n",
    )?;
    if fs::read_dir(disk.join("cni"))?.next().is_none() {
        put(
            &disk.join("cni/10-bridge.conflist"),
            &serde_json::to_vec_pretty(&cni(layout, index))?,
        )?;
    }
    plugins(&disk.join("cni-bin"))
}

const CONTAINERD: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE_IMAGE"
  # A machine may lack the right to lower the score, and then no sandbox would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#;

fn kubelet(layout: &Layout, index: usize) -> Value {
    let reserve = format!("{KUBELET_RESERVE_PERCENT}%");
    let pki = layout.pki();
    let node = layout.node_name(index);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": pki.join("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": pki.join(format!("{node}.crt")),
        "tlsPrivateKeyFile": pki.join(format!("{node}.key")),
        "clusterDomain": "cluster.local",
        "clusterDNS": [layout.dns_ip()],
        "resolvConf": layout.config(index).join("resolv.conf"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // Each node of each cluster has a cgroup of its own: no kubelet touches another's pods.
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", layout.node_cgroup(index)),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["none"],
        "failSwapOn": false,
        "staticPodPath": layout.manifests(index),
        "oomScoreAdj": 0,
        // `kubectl logs` shows the present file only: a line that a test looks for must not go with an earlier one.
        "containerLogMaxSize": "1Gi",
        // The nodes share a machine's disk: its filling up is no reason to evict or to forget images.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "100Mi", "nodefs.available": reserve, "imagefs.available": reserve },
    })
}

fn proxy(layout: &Layout, index: usize) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": layout.pod_networks(),
        "hostnameOverride": layout.node_name(index),
        "clientConnection": { "kubeconfig": layout.kubeconfig("proxy") },
        // The size of the table is the machine's, not this network namespace's.
        "conntrack": { "maxPerCore": 0 },
        "oomScoreAdj": 0,
    })
}

fn cni(layout: &Layout, index: usize) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": layout.pod_network(index) }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// Copies the distribution's plugins, so that more can be put beside them on this node alone.
fn plugins(to: &Path) -> Result<()> {
    for name in ["bridge", "host-local", "loopback", "portmap"] {
        let (from, to) = (Path::new("/usr/lib/cni").join(name), to.join(name));
        if !to.exists() {
            fs::copy(&from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
    }
    Ok(())
}

fn put(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
