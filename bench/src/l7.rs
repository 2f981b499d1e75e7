//! What the parts of the L7 benchmark agree on: names, ports and files. The load itself is the package
//! `ambit-bench-l7`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Trust domain of all identities.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Namespace of all identities.
pub const NAMESPACE: &str = "bench";
/// Service account of the load.
pub const CLIENT: &str = "client";
/// Service account of the proxy, whichever it is; also the waypoint's name.
pub const WAYPOINT: &str = "waypoint";
/// Service account of the backend; also the Service's name.
pub const SERVER: &str = "server";
/// Full name of the Service, which requests carry as their host.
pub const HOSTNAME: &str = "server.bench.svc.cluster.local";

/// The virtual address of the Service: CONNECT names it, no packet is ever sent there (RFC 5737).
pub const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The Service's port for HTTP/1.1.
pub const SERVICE_PORT: u16 = 80;
/// The Service's port for gRPC.
pub const GRPC_PORT: u16 = 81;
/// Where the backend, and the proxies of the plain rows, answer plain HTTP/1.1; the port that CONNECT to the backend
/// names.
pub const HTTP_PORT: u16 = 8080;
/// Where the backend, and the waypoints, end HBONE.
pub const HBONE_PORT: u16 = 15008;
/// Where our waypoint's control plane is.
pub const CONTROL_PORT: u16 = 15012;

/// Requests are for this; the policy allows callers to read what is under it.
pub const PREFIX: &str = "/orders/";
/// The path of the load's requests; of gRPC it is service and method.
pub const PATH: &str = "/orders/42";
/// Bytes of a POST's body.
pub const POST_BYTES: usize = 16 << 10;
/// Paths of the routes before the one that matches begin with this, followed by their numbers.
pub const OTHER_PREFIX: &str = "/other-";
/// The backend answers it with the SPIFFE id of its peer.
pub const PEER_PATH: &str = "/orders/peer";

/// Tries after the first, of every waypoint.
pub const RETRY_ATTEMPTS: u32 = 2;
/// The response that is retried.
pub const RETRY_STATUS: u32 = 503;
/// Milliseconds before the first retry, at most.
pub const RETRY_BACKOFF_MS: u64 = 25;
/// Milliseconds before a retry, at most.
pub const RETRY_BACKOFF_MAX_MS: u64 = 250;
/// Seconds that one try may take.
pub const TRY_TIMEOUT_S: u64 = 5;
/// Seconds that a request may take with all its tries.
pub const TIMEOUT_S: u64 = 15;

/// The files in the folder that `ambit-bench-l7 setup` fills.
pub mod files {
    /// The root certificate, PEM.
    pub const ROOT: &str = "root-cert.pem";
    /// The root's key, PEM: load and backend issue their certificates themselves.
    pub const ROOT_KEY: &str = "root-key.pem";
    /// A certificate of the proxy's identity, PEM, for proxies that read it from a file.
    pub const CERTIFICATE: &str = "cert.pem";
    /// Its key, PEM.
    pub const KEY: &str = "key.pem";
    /// What our waypoint shows to the control plane, which looks at no token.
    pub const TOKEN: &str = "token";
}

/// The first line that `probe` and the servers print, when they are about to begin.
pub const WAITING: &str = "waiting";
/// The line that `probe` prints when the first request got a response.
pub const ANSWERED: &str = "answered";

/// The SPIFFE id of one of the service accounts.
pub fn spiffe_id(service_account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service_account}")
}

/// What `probe` found; it prints it as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Status of a GET, which every proxy lets pass.
    pub get: u16,
    /// Status of a DELETE, which a policy denies.
    pub delete: u16,
    /// Whom the backend took its peer to be; empty without TLS.
    pub peer: String,
}
