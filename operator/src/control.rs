//! The control plane that agents, ztunnels and waypoints talk to, on port 15012 over TLS: delta xDS, the CA's call, capture reports,
//! waypoints' load. Every replica serves it; load is taken by the one that leads. What it serves, and about whom, comes through [`Directory`] and [`Sources`] from the index; what agents
//! report goes to a [`CaptureSink`].

mod auth;
mod by_role;
mod ca;
mod certificates;
mod connection;
mod discovery;
mod ending;
mod interfaces;
mod load_reports;
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
};
pub use interfaces::{
    AgentPod, CaptureSink, Directory, MeshSettings, PodInfo, RecordError, Sources, WaypointCollections,
};
pub use loads::{LoadTable, ReplicaLoad};
pub use server::{ControlPlane, ControlPlaneError, ControlPlaneParts, service_names};

use server::Shared;

#[cfg(test)]
mod testing;
