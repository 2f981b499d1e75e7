//! Starting a node's programs, one after the other, as its boot would.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Node, config};
use crate::cluster::network;
use crate::cluster::process::{self, Started};
use crate::{shell, wait};

pub(super) const LIMIT: Duration = Duration::from_secs(180);

/// Makes a node of a fresh set of namespaces. Arguments: its hostname, then its disk, then pairs of a folder on the
/// disk and the path it has inside.
const MOUNTS: &str = r#"
hostname "$1"; disk=$2; shift 2
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/ambit /run/lock
while [ $# -gt 1 ]; do
  mkdir -p "$2"
  mount --bind "$disk/$1" "$2"
  mount --make-private "$2"
  mount --make-shared "$2"
  shift 2
done
# The kubelet sets these for the whole kernel. A node is not the whole machine: it finds them set already.
masked() {
  mkdir -p "/run/sysctl/$(dirname "$1")"
  echo "$2" > "/run/sysctl/$1"
  [ ! -e "/proc/sys/$1" ] || mount --bind "/run/sysctl/$1" "/proc/sys/$1"
}
masked vm/overcommit_memory 1
masked vm/panic_on_oom 0
masked kernel/panic 10
masked kernel/panic_on_oops 1
masked kernel/keys/root_maxkeys 1000000
masked kernel/keys/root_maxbytes 25000000
"#;

/// The node's process 1, which reaps orphans and whose end is the end of the node, and its mounts.
pub(super) fn first_process(node: &Node) -> Result<()> {
    let mut words = network::within(&node.netns());
    words.extend(["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc"].map(String::from));
    words.extend([
        "--propagation=private".into(),
        "--".into(),
        node.layout.program("pause").display().to_string(),
    ]);
    let log = node.log("init");
    let started = process::spawn(&node.layout.dir, &node.role("init"), &log, &words)?;
    // Until it is `pause`, the process is still making its namespaces.
    let what = format!("the first process of {}", node.name());
    wait::until_unless(
        &what,
        LIMIT,
        || format!("see {}", log.display()),
        || started.check(),
        || {
            let pid = node.init_pid()?;
            let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
            if !program.ends_with("pause") {
                bail!("process 1 is {}", program.display())
            } else {
                Ok(())
            }
        },
    )?;

    let disk = node.disk().display().to_string();
    let name = node.name();
    let mut words = vec!["sh", "-euc", MOUNTS, "mounts", &name, &disk];
    words.extend(config::DISK.iter().flat_map(|(name, path)| [*name, *path]));
    shell::run(&mut node.exec(&words)?).with_context(|| format!("cannot make the mounts of {name}"))?;
    Ok(())
}

/// containerd, until it answers.
pub(super) fn containerd(node: &Node) -> Result<()> {
    let config = node
        .layout
        .config(node.index)
        .join("containerd.toml")
        .display()
        .to_string();
    let started = start(node, "containerd", &["containerd", "--config", &config])?;
    let socket = format!("/proc/{}/root/run/containerd/containerd.sock", node.init_pid()?);
    awaited(node, "containerd", &started, || {
        UnixStream::connect(&socket).with_context(|| format!("connecting to {socket}"))?;
        Ok(())
    })
}

/// kube-proxy and the kubelet, until the kubelet serves.
pub(super) fn kubernetes(node: &Node) -> Result<()> {
    let layout = &node.layout;
    let name = node.name();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let config = |file: &str| format!("--config={}", path(layout.config(node.index).join(file)));
    start(
        node,
        "kube-proxy",
        &[&path(layout.program("kube-proxy")), &config("kube-proxy.json")],
    )?;
    let kubelet = [
        path(layout.program("kubelet")),
        config("kubelet.json"),
        format!("--kubeconfig={}", path(layout.kubeconfig(&name))),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node.ip()),
    ];
    let started = start(node, "kubelet", &kubelet.each_ref().map(String::as_str))?;
    let address = SocketAddr::from((node.ip(), 10250));
    awaited(node, "kubelet", &started, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1))
            .with_context(|| format!("connecting to {address}"))?;
        Ok(())
    })
}

fn start(node: &Node, program: &str, words: &[&str]) -> Result<Started> {
    let command: Command = node.exec(words)?;
    let mut all = vec![command.get_program().to_string_lossy().into_owned()];
    all.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    process::spawn(&node.layout.dir, &node.role(program), &node.log(program), &all)
}

/// Waits for `probe`, and gives up when the program has ended.
fn awaited(node: &Node, program: &str, started: &Started, probe: impl FnMut() -> Result<()>) -> Result<()> {
    let what = format!("{program} of {} to answer", node.name());
    let hint = || format!("see {}", node.log(program).display());
    wait::until_unless(&what, LIMIT, hint, || started.check(), probe)
}
