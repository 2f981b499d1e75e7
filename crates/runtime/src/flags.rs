//! Flags that several programs have, each with an environment variable. Programs include them with clap's `flatten`.

use std::net::SocketAddr;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people: key=value.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The value of the flag.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Flags of the log.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// What is logged: a level, or levels by module as in `info,ambit_ztunnel=debug` (a tracing filter).
    #[arg(long = "log", env = "AMBIT_LOG", default_value = "info", global = true)]
    pub filter: String,
    /// A file with such a filter, which is used instead of it and followed while the program runs.
    #[arg(long = "log-filter-file", env = "AMBIT_LOG_FILTER_FILE", global = true)]
    pub filter_file: Option<PathBuf>,
    /// How the log is written.
    #[arg(
        long = "log-format",
        env = "AMBIT_LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub format: LogFormat,
}

/// How the control plane is reached.
#[derive(Debug, Clone, Args)]
pub struct ControlPlaneFlags {
    /// The control plane: xDS, CA and reports.
    #[arg(
        long = "control-plane",
        env = "AMBIT_CONTROL_PLANE",
        default_value = "https://ambit-control.ambit-system.svc:15012"
    )]
    pub url: String,
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
    /// The cluster's id.
    #[arg(long, env = "AMBIT_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
}

/// Which pod this is. For logs: the control plane takes it from the token.
#[derive(Debug, Clone, Args)]
pub struct PodFlags {
    /// This node's name.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// This pod's name.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
}

/// Where a proxy serves HTTP about itself.
#[derive(Debug, Clone, Args)]
pub struct HttpFlags {
    /// Config dump; on localhost only.
    #[arg(long, env = "AMBIT_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Prometheus metrics.
    #[arg(long, env = "AMBIT_METRICS_ADDRESS", default_value = "0.0.0.0:15020")]
    pub metrics_address: SocketAddr,
    /// A file with settings of metrics (JSON), which is followed while the program runs.
    #[arg(long = "metrics-file", env = "AMBIT_METRICS_FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Readiness.
    #[arg(long, env = "AMBIT_READY_ADDRESS", default_value = "0.0.0.0:15021")]
    pub ready_address: SocketAddr,
}

/// Parses a number of seconds.
///
/// # Errors
/// When the text is not a whole number.
pub fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}
