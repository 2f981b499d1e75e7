//! etcd, the API server, the controller manager and the scheduler, in a network namespace of their own.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::layout::Layout;
use super::process::{self, Started};
use super::{audit, network};
use crate::{shell, wait};

/// The roles of the control plane's processes.
pub(super) const ROLES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The first of them: the others give up where the API server does not answer within some seconds.
const FIRST: usize = 2;

const READY_LIMIT: Duration = Duration::from_secs(180);

/// Starts etcd and the API server, which waits for it.
pub(super) fn start(layout: &Layout) -> Result<Vec<Started>> {
    start_roles(layout, &ROLES[..FIRST])
}

/// Starts the controller manager and the scheduler, once the API server is ready.
pub(super) fn start_controllers(layout: &Layout) -> Result<()> {
    start_roles(layout, &ROLES[FIRST..]).map(drop)
}

fn start_roles(layout: &Layout, roles: &[&str]) -> Result<Vec<Started>> {
    let start = |role: &&str| {
        let mut words = network::within(&layout.control_plane_netns());
        words.push(layout.program(role).display().to_string());
        words.extend(arguments(layout, role));
        process::spawn(&layout.dir, role, &layout.log(role), &words)
    };
    roles.iter().map(start).collect()
}

/// Waits until the API server says that it is ready.
pub(super) fn wait_ready(layout: &Layout, started: &[Started]) -> Result<()> {
    let hint = || format!("see {}", layout.log("kube-apiserver").display());
    let alive = || started.iter().try_for_each(Started::check);
    wait::until_unless("the API server to be ready", READY_LIMIT, hint, alive, || {
        ready(layout)
    })
}

/// Whether the API server is ready now.
pub(super) fn ready(layout: &Layout) -> Result<()> {
    let address = SocketAddr::from((layout.control_plane_ip(), 6443));
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .with_context(|| format!("connecting to {address}"))?;
    shell::run(kubectl(layout).args(["get", "--raw", "/readyz"]))?;
    Ok(())
}

/// kubectl as the cluster's administrator.
pub(super) fn kubectl(layout: &Layout) -> Command {
    let mut command = Command::new(layout.program("kubectl"));
    command.env("KUBECONFIG", layout.kubeconfig("admin"));
    command
}

fn arguments(layout: &Layout, role: &str) -> Vec<String> {
    let pki = |file: &str| layout.pki().join(file).display().to_string();
    let kubeconfig = |user: &str| format!("--kubeconfig={}", layout.kubeconfig(user).display());
    match role {
        "etcd" => vec![
            format!("--data-dir={}", layout.dir.join("etcd").display()),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // A test cluster does not outlive its machine: no write waits for the disk.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
        "kube-apiserver" => [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--advertise-address={}", layout.control_plane_ip()),
            format!("--service-cluster-ip-range={}", layout.service_network()),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--service-account-key-file={}", pki("accounts.pub")),
            format!("--service-account-signing-key-file={}", pki("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("kubelet-client.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
        ]
        .into_iter()
        .chain(audit::arguments(layout))
        .collect(),
        "kube-controller-manager" => vec![
            kubeconfig("controller-manager"),
            format!("--service-account-private-key-file={}", pki("accounts.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--use-service-account-credentials".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
        _ => vec![
            kubeconfig("scheduler"),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    }
}
