//! The control plane, on port 15012 over TLS: for agents, ztunnels and waypoints delta xDS, the CA's call, capture reports and reports of load; for
//! the operator's writing process what waypoints reported. Every replica serves all of it. What it serves, and about whom, comes through
//! [`Directory`] and [`Sources`] from the index; what agents report goes to a [`CaptureSink`].

mod auth;
mod by_role;
mod ca;
mod certificates;
mod connection;
mod discovery;
mod ending;
mod interfaces;
mod load_reports;
mod load_watches;
mod loads;
mod metrics;
mod peers;
mod refusal;
mod reports;
mod server;
mod serving;

pub use auth::{KubeTokenReviewer, Review, ReviewError, TokenReviewer};
pub use ca::{
    AuthorityError, CertificateAuthority, IssueError, Issued, RequestError, StoreError, load_or_create,
    stored_root,
};
pub use interfaces::{
    AgentPod, CaptureSink, Directory, MeshSettings, PodInfo, RecordError, Sources, WaypointCollections,
};
pub use server::{ControlPlane, ControlPlaneError, ControlPlaneParts, service_names};

use server::Shared;

#[cfg(test)]
pub(crate) mod testing;
