//! Flags and environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ambit_wire::names;
use clap::{Parser, ValueEnum};

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: key=value.
    Text,
    /// One JSON object a line.
    Json,
}

/// The L7 proxy of Ambit.
#[derive(Debug, Clone, Parser)]
#[command(name = "ambit-waypoint", version)]
pub struct Config {
    /// The control plane: xDS, CA and load reports.
    #[arg(
        long,
        env = "AMBIT_CONTROL_PLANE",
        default_value = "https://ambit-operator.ambit-system.svc:15012"
    )]
    pub control_plane: String,
    /// The mesh root that the control plane's certificate must come from (PEM).
    #[arg(
        long,
        env = "AMBIT_ROOT_CERT",
        default_value = "/var/run/ambit/root/root-cert.pem"
    )]
    pub root_cert: PathBuf,
    /// The service-account token with audience istio-ca; read again for each call.
    #[arg(long, env = "AMBIT_TOKEN", default_value = "/var/run/ambit/token/token")]
    pub token: PathBuf,
    /// The waypoint's name.
    #[arg(long = "waypoint", env = "AMBIT_WAYPOINT", default_value = "waypoint")]
    pub name: String,
    /// This node's name.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// This pod's name.
    #[arg(long, env = "POD_NAME", default_value = "waypoint")]
    pub pod_name: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: String,
    /// The cluster's id.
    #[arg(long, env = "AMBIT_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// The trust domain of the mesh.
    #[arg(long, env = "AMBIT_TRUST_DOMAIN", default_value = names::TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Seconds that requests get to end by themselves after SIGTERM, and WebSockets and connections that are no HTTP once their destination
    /// is no longer served.
    #[arg(long = "drain-deadline", env = "AMBIT_DRAIN_DEADLINE", default_value = "30", value_parser = seconds)]
    pub drain_deadline: Duration,
    /// Seconds that certificates are asked to last.
    #[arg(long = "certificate-lifetime", env = "AMBIT_CERTIFICATE_LIFETIME", default_value = "86400", value_parser = seconds)]
    pub certificate_lifetime: Duration,
    /// What is logged (a tracing filter).
    #[arg(long, env = "AMBIT_LOG", default_value = "info")]
    pub log: String,
    /// How the log is written.
    #[arg(long, env = "AMBIT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// HBONE.
    #[arg(long, env = "AMBIT_HBONE_ADDRESS", default_value_t = at(Ipv4Addr::UNSPECIFIED, names::PORT_HBONE))]
    pub hbone_address: SocketAddr,
    /// Config dump; on localhost only.
    #[arg(long, env = "AMBIT_ADMIN_ADDRESS", default_value_t = at(Ipv4Addr::LOCALHOST, names::PORT_ADMIN))]
    pub admin_address: SocketAddr,
    /// Prometheus metrics.
    #[arg(long, env = "AMBIT_METRICS_ADDRESS", default_value_t = at(Ipv4Addr::UNSPECIFIED, names::PORT_METRICS))]
    pub metrics_address: SocketAddr,
    /// Readiness.
    #[arg(long, env = "AMBIT_READY_ADDRESS", default_value_t = at(Ipv4Addr::UNSPECIFIED, names::PORT_READY))]
    pub ready_address: SocketAddr,
}

const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}
