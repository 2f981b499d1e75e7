//! The agent's settings: flags, each with an environment variable.

use ambit_runtime::{ControlPlaneFlags, LogFlags, PodFlags};
use ambit_wire::names;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The node agent of Ambit: captures pods, passes their sockets to ztunnels. Started by the container runtime
/// (CNI_COMMAND in the environment), the same program is the CNI plugin.
#[derive(Debug, Clone, Parser)]
#[command(version, about)]
pub struct Config {
    /// Address of the control plane.
    #[command(flatten)]
    pub control: ControlPlaneFlags,
    /// Identity of this pod.
    #[command(flatten)]
    pub pod: PodFlags,
    /// The log.
    #[command(flatten)]
    pub log: LogFlags,
    /// Namespace of Ambit's pods, which include the ztunnels.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub pod_namespace: String,
    /// Revision, sent to ztunnels.
    #[arg(long, env = "AMBIT_REVISION", default_value = "default")]
    pub revision: String,
    /// Trust domain until the control plane has sent one.
    #[arg(long, env = "AMBIT_TRUST_DOMAIN", default_value = names::TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Socket of the container runtime.
    #[arg(
        long,
        env = "AMBIT_CRI_SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub cri_socket: PathBuf,
    /// The host's directory of CNI plugins, as mounted here.
    #[arg(long, env = "AMBIT_CNI_BIN", default_value = "/host/cni-bin")]
    pub cni_bin: PathBuf,
    /// The host's directory of CNI configurations, as mounted here.
    #[arg(long, env = "AMBIT_CNI_CONF", default_value = "/host/cni-conf")]
    pub cni_conf: PathBuf,
    /// Socket of the agent for the CNI plugin; the same path here and on the host.
    #[arg(long, env = "AMBIT_CNI_SOCKET", default_value = names::CNI_SOCKET)]
    pub cni_socket: PathBuf,
    /// Socket of the agent for ztunnels.
    #[arg(long, env = "AMBIT_BROKER_SOCKET", default_value = names::BROKER_SOCKET)]
    pub broker_socket: PathBuf,
    /// Directory of state that outlives the agent.
    #[arg(long, env = "AMBIT_STATE", default_value = "/var/lib/ambit")]
    pub state: PathBuf,
    /// Namespaces whose pods start without the agent.
    #[arg(
        long,
        env = "AMBIT_EXEMPT_NAMESPACES",
        value_delimiter = ',',
        default_value = "ambit-system,kube-system"
    )]
    pub exempt_namespaces: Vec<String>,
    /// Address of readiness and metrics.
    #[arg(long, env = "AMBIT_AGENT_ADDRESS", default_value = "127.0.0.1:15031")]
    pub address: SocketAddr,
    /// Threads that work in network namespaces of pods at once.
    #[arg(long, env = "AMBIT_NETNS_THREADS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..))]
    pub netns_threads: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent_and_every_one_has_a_default() {
        Config::command().debug_assert();
        let config = Config::try_parse_from(["ambit-agent"]).expect("defaults");
        assert_eq!(config.exempt_namespaces, ["ambit-system", "kube-system"]);
    }
}
