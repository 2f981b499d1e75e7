//! Flags and environment.

use std::path::PathBuf;
use std::time::Duration;

use ambit_runtime::{ControlPlaneFlags, HttpFlags, LogFlags, PodFlags, seconds};
use ambit_wire::names;
use clap::Parser;

/// The L4 node proxy of Ambit.
#[derive(Debug, Clone, Parser)]
#[command(name = "ambit-ztunnel", version)]
pub struct Config {
    /// Address of the control plane.
    #[command(flatten)]
    pub control: ControlPlaneFlags,
    /// Identity of this pod.
    #[command(flatten)]
    pub pod: PodFlags,
    /// HTTP ports.
    #[command(flatten)]
    pub http: HttpFlags,
    /// The log.
    #[command(flatten)]
    pub log: LogFlags,
    /// Where the node agent listens.
    #[arg(long, env = "AMBIT_BROKER_SOCKET", default_value = names::BROKER_SOCKET)]
    pub broker_socket: PathBuf,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub pod_namespace: String,
    /// The revision of Ambit of this ztunnel.
    #[arg(long, env = "AMBIT_REVISION", default_value = "default")]
    pub revision: String,
    /// Whether each connection is logged when it ends; denials and errors are logged in any case.
    #[arg(long, env = "AMBIT_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    pub access_log: bool,
    /// Mebibytes that connections may borrow in total for wide windows and large buffers. Default: a quarter of the
    /// container's memory limit; 256 without a limit.
    #[arg(long = "memory-budget", env = "AMBIT_MEMORY_BUDGET")]
    pub memory_budget: Option<usize>,
    /// Seconds after SIGTERM in which open connections may end by themselves.
    #[arg(long = "drain-deadline", env = "AMBIT_DRAIN_DEADLINE", default_value = "30", value_parser = seconds)]
    pub drain_deadline: Duration,
    /// Requested lifetime of certificates, in seconds.
    #[arg(long = "certificate-lifetime", env = "AMBIT_CERTIFICATE_LIFETIME", default_value = "86400", value_parser = seconds)]
    pub certificate_lifetime: Duration,
}
