//! Network namespaces joined by a bridge. They end with the last descriptor of them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ambit_agent::netlink::{
    drain_pod_table, install_redirection, raise_loopback, remove_pod_table, remove_redirection_route,
    undelivered_connections, waiting_connections,
};
use ambit_agent::netns::{Netns, NetnsError, NetnsRunner, make_listeners};

use ambit_wire::broker::PodIdentity;
use ambit_wire::workload::{TunnelProtocol, Workload};

use crate::agent::identity;
use crate::control_plane::workload;
use crate::node::{Node, until};

#[derive(Clone)]
pub(crate) struct Net {
    hub: Arc<Held>,
    runner: NetnsRunner,
}

/// A namespace, and a path to it for `ip`.
struct Held {
    netns: Netns,
    file: std::fs::File,
}

impl Held {
    fn new() -> Self {
        let make = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let file = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            Self {
                netns: Netns::current().unwrap(),
                file,
            }
        };
        std::thread::spawn(make).join().unwrap()
    }

    fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    pub(crate) net: Net,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Failed(String);

impl From<NetnsError> for Failed {
    fn from(error: NetnsError) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn command(line: &str) -> std::io::Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("{line}: {stderr}")))
    }
}

impl Net {
    pub(crate) fn new() -> Self {
        Self {
            hub: Arc::new(Held::new()),
            runner: NetnsRunner::new(64),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        held: &Held,
        job: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let answer = self.runner.run(&held.netns, move || Ok::<_, Failed>(job())).await;
        answer.unwrap_or_else(|Failed(why)| panic!("{why}"))
    }

    /// A pod at 10.9.0.`last` and fd09::`last`.
    pub(crate) async fn pod(&self, name: &'static str, last: u8) -> Pod {
        let (held, ip) = (Arc::new(Held::new()), Ipv4Addr::new(10, 9, 0, last));
        let ip6 = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last.into());
        let path = held.path();
        let hub = move || {
            if !Path::new("/sys/class/net/br0").exists() {
                command("ip link add br0 type bridge").ok();
                command("ip link set br0 up")?;
            }
            command(&format!(
                "ip link add p{last} type veth peer name eth0 netns {path}"
            ))?;
            command(&format!("ip link set p{last} master br0 up"))
        };
        self.run(&self.hub, hub).await.unwrap();
        let pod = Pod {
            name,
            ip,
            ip6,
            net: self.clone(),
            held,
        };
        let network = move || {
            raise_loopback().map_err(std::io::Error::other)?;
            command(&format!("ip addr add {ip}/24 dev eth0"))?;
            // Nobody else has it.
            command(&format!("ip -6 addr add {ip6}/64 dev eth0 nodad"))?;
            command("ip link set eth0 up")?;
            // Addresses elsewhere are asked for on the link too: nobody answers, and none is needed.
            command("ip route add default dev eth0")
        };
        pod.run(network).await.unwrap();
        pod
    }
}

impl Pod {
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        self.net.run(&self.held, job).await
    }

    pub(crate) async fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_owned();
        self.run(move || std::fs::write(path, value)).await.unwrap();
    }

    fn identity(&self) -> PodIdentity {
        let mut identity = identity(self.name, self.ip);
        identity.addresses.push(self.ip6.to_string());
        identity
    }

    /// What the control plane tells of it.
    pub(crate) fn workload(&self, protocol: TunnelProtocol) -> Workload {
        let mut workload = workload(self.name, self.ip, protocol);
        workload.addresses.push(self.ip6.octets().to_vec());
        workload
    }

    /// Listeners, the ztunnel's acknowledgement, then the rules, as the agent does it.
    pub(crate) async fn capture(&self, node: &mut Node) {
        let listeners = self
            .run(|| make_listeners().map_err(std::io::Error::other))
            .await
            .unwrap();
        let listeners: Vec<OwnedFd> = listeners
            .as_fds()
            .iter()
            .map(|fd| fd.as_fd().try_clone_to_owned().unwrap())
            .collect();
        node.agent.add(self.identity(), &listeners).await;
        let redirect = || install_redirection().map_err(std::io::Error::other);
        self.run(redirect).await.unwrap();
    }

    /// From now on no further connection is redirected.
    pub(crate) async fn begin_release(&self) {
        let drain = || drain_pod_table().map_err(std::io::Error::other);
        self.run(drain).await.unwrap();
    }

    /// Waits until the last redirected connection has ended, and leaves nothing.
    pub(crate) async fn end_release(&self, node: &mut Node) {
        until("nothing waits to be accepted", async || {
            let waiting = || waiting_connections().map_err(std::io::Error::other);
            self.run(waiting).await.unwrap() == 0
        })
        .await;
        node.agent.remove(&self.identity().uid, false).await;
        assert_eq!(node.agent.ack().await.error, "");
        until("the application has it all", async || {
            let undelivered = || undelivered_connections().map_err(std::io::Error::other);
            self.run(undelivered).await.unwrap() == 0
        })
        .await;
        let undo = || {
            remove_pod_table().map_err(std::io::Error::other)?;
            remove_redirection_route().map_err(std::io::Error::other)
        };
        self.run(undo).await.unwrap();
    }
}
