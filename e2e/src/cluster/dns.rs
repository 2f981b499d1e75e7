//! CoreDNS: the cluster's DNS, as pods, with the names and labels that a cluster's users know it by.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::control_plane;
use super::layout::Layout;
use crate::tools::COREDNS_IMAGE;
use crate::{shell, wait};

const LIMIT: Duration = Duration::from_secs(180);

/// Names outside the cluster do not exist in it: tests do not depend on the world.
const COREFILE: &str = "cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
    errors
    health {
        lameduck 2s
    }
    ready
    prometheus :9153
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    reload
}
.:53 {
    errors
    template ANY ANY {
        rcode NXDOMAIN
    }
}
";

/// Gives CoreDNS to Kubernetes.
pub(super) fn apply(layout: &Layout) -> Result<()> {
    let file = layout.dir.join("coredns.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&objects(layout))?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut kubectl = control_plane::kubectl(layout);
    shell::run(
        kubectl
            .args(["apply", "--server-side", "--force-conflicts", "--filename"])
            .arg(&file)
            .stdout(Stdio::null()),
    )
    .context("cannot apply CoreDNS")?;
    Ok(())
}

/// Waits until the DNS Service answers on every node, which says that pods run there and Services work.
pub(super) fn wait_answer(layout: &Layout) -> Result<()> {
    let server = SocketAddr::from((layout.dns_ip(), 53));
    for index in 1..=layout.nodes {
        let netns = layout.node_netns(index);
        let what = format!(
            "the DNS Service {server} to answer on {}",
            layout.node_name(index)
        );
        let hint = || {
            format!(
                "see `cargo xtask cluster kubectl --name {} -- -n kube-system get pods -o wide`",
                layout.name
            )
        };
        wait::until(&what, LIMIT, hint, || {
            in_netns(&netns, || ask(server, "kubernetes.default.svc.cluster.local"))
        })?;
    }
    Ok(())
}

/// Runs `work` on a thread of its own, which enters the network namespace and ends there.
fn in_netns<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(Path::new("/run/netns").join(netns))
        .with_context(|| format!("cannot open netns {netns}"))?;
    let joined = thread::scope(|scope| {
        let entered = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter netns {netns}"))?;
            work()
        });
        entered.join()
    });
    joined.map_err(|_| anyhow!("a thread in netns {netns} panicked"))?
}

fn ask(server: SocketAddr, name: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(server)?;
    socket.send(&query(name)).context("cannot send")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("no answer")?;
    let header = answer
        .get(..12.min(length))
        .filter(|header| header.len() == 12)
        .context("a short answer")?;
    let (code, answers) = (header[3] & 15, u16::from_be_bytes([header[6], header[7]]));
    if code != 0 || answers == 0 {
        bail!("it answers with code {code} and {answers} addresses");
    }
    Ok(())
}

/// A DNS question for an IPv4 address.
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x41, 0x4d, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn objects(layout: &Layout) -> Value {
    let labels = json!({ "k8s-app": "kube-dns" });
    let meta =
        |name: &str| json!({ "name": name, "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } });
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("coredns") },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": "system:coredns" },
            "rules": [
                rule("", &["endpoints", "services", "pods", "namespaces"]),
                rule("discovery.k8s.io", &["endpointslices"]),
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "system:coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system" }],
        },
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("coredns"), "data": { "Corefile": COREFILE },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": meta("kube-dns"),
            "spec": {
                "clusterIP": layout.dns_ip(),
                "selector": labels,
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP" },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
                    { "name": "metrics", "port": 9153, "protocol": "TCP" },
                ],
            },
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("coredns"),
            "spec": {
                "replicas": layout.nodes.min(2),
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": pod() },
            },
        },
    ]})
}

fn pod() -> Value {
    json!({
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
        }],
        "containers": [{
            "name": "coredns",
            "image": COREDNS_IMAGE,
            "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "ports": [
                { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                { "name": "metrics", "containerPort": 9153, "protocol": "TCP" },
            ],
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns", "readOnly": true }],
            "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
            "livenessProbe": { "httpGet": { "path": "/health", "port": 8080 }, "initialDelaySeconds": 10 },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "add": ["NET_BIND_SERVICE"], "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
            },
        }],
        "volumes": [{ "name": "config", "configMap": { "name": "coredns" } }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_well_formed() {
        let message = query("a.bc");
        assert_eq!(&message[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
    }

    #[test]
    fn the_service_has_the_address_that_kubelets_hand_out() {
        let layout = Layout {
            name: "t".into(),
            slot: 2,
            nodes: 1,
            dir: "/s".into(),
            programs: "/p".into(),
        };
        let objects = objects(&layout);
        let items = objects["items"].as_array().unwrap();
        let service = items.iter().find(|item| item["kind"] == "Service").unwrap();
        assert_eq!(service["spec"]["clusterIP"], "10.90.128.10");
        assert_eq!(
            items.iter().find(|item| item["kind"] == "Deployment").unwrap()["spec"]["replicas"],
            1
        );
    }
}
