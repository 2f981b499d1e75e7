//! Flags and environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ambit_runtime::{ControlPlaneFlags, HttpFlags, LogFlags, PodFlags, seconds};
use ambit_wire::names;
use clap::Parser;

/// The L7 proxy of Ambit.
#[derive(Debug, Clone, Parser)]
#[command(name = "ambit-waypoint", version)]
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
    /// The waypoint's name.
    #[arg(long = "waypoint", env = "AMBIT_WAYPOINT", default_value = "waypoint")]
    pub name: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: String,
    /// The trust domain of the mesh.
    #[arg(long, env = "AMBIT_TRUST_DOMAIN", default_value = names::TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Seconds after SIGTERM in which requests may end by themselves; also the time for WebSockets and non-HTTP
    /// connections after their destination is no longer served.
    #[arg(long = "drain-deadline", env = "AMBIT_DRAIN_DEADLINE", default_value = "30", value_parser = seconds)]
    pub drain_deadline: Duration,
    /// Requested lifetime of certificates, in seconds.
    #[arg(long = "certificate-lifetime", env = "AMBIT_CERTIFICATE_LIFETIME", default_value = "86400", value_parser = seconds)]
    pub certificate_lifetime: Duration,
    /// HBONE.
    #[arg(long, env = "AMBIT_HBONE_ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, names::PORT_HBONE)))]
    pub hbone_address: SocketAddr,
}
