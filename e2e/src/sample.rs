//! The sample applications: what they say, what they count, and how they stand on a cluster. The program itself is the
//! crate `ambit-sample`.

mod load;
mod shop;
mod stats;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

pub use load::{LoadStats, Plan, Second};
pub use shop::Shop;
pub use stats::{Failure, Flow, Stats, millis};
pub use web::{CLIENTS, Web};

/// Reference of the application's image.
pub const IMAGE: &str = "localhost/ambit/sample:dev";

/// Part of everything the application says, so that a packet capture shows whether it went in clear.
pub const MARKER: &str = "ambit-sample-payload-in-clear";

/// A manifest with the application's image as the cluster's nodes get it.
fn with_image(manifest: &str, cluster: &Cluster) -> String {
    manifest.replace(IMAGE, &cluster.image("sample"))
}

/// What the server logs of a connection, and answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// [`MARKER`].
    pub payload: String,
    /// In milliseconds since 1970.
    pub time: u64,
    /// The kind of traffic.
    pub flow: String,
    /// The address that the server takes for its peer's.
    pub peer: SocketAddr,
    /// Name of the server's pod.
    pub server: String,
}

/// What the web server answers with: the request as it came to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// [`MARKER`].
    pub payload: String,
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Its headers, names in lower case; of several with one name, the values joined by a comma.
    pub headers: BTreeMap<String, String>,
    /// Bytes of its body.
    pub body: usize,
    /// The address that the server takes for its peer's.
    pub peer: SocketAddr,
    /// Name of the server's pod.
    pub server: String,
}

/// What the web server counted since it started. Probes and looks at the counts are not among it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebCounts {
    /// Requests, gRPC calls among them.
    pub requests: u64,
    /// By method and path, without the query: `GET /flaky`. The first thousand of them.
    pub seen: BTreeMap<String, u64>,
    /// Answers with 503 that `/flaky` gave.
    pub flaked: u64,
    /// gRPC calls whose callers went before the response.
    pub cancelled: u64,
}
