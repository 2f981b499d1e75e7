//! The control plane, on port 15012 over TLS: delta xDS, the CA call, capture reports and load reports for agents,
//! ztunnels and waypoints; the load of waypoints for the operator. Every replica serves everything. Configuration and
//! pods come from the index through [`Directory`] and [`Sources`]; reports of agents go to a [`CaptureSink`].

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
mod role;
mod server;
mod serving;

pub use auth::{KubeTokenReviewer, Review, ReviewError, TokenReviewer};
pub use ca::{
    AuthorityError, CertificateAuthority, IssueError, Issued, RequestError, StoreError, load_or_create,
    stored_root,
};
pub use discovery::{rank, removes_last};
pub use interfaces::{
    AgentPod, CaptureSink, Directory, MeshSettings, PodInfo, RecordError, Sources, WaypointCollections,
};
pub use server::{ControlPlane, ControlPlaneError, ControlPlaneParts, service_names};

use server::Shared;

#[cfg(test)]
pub(crate) mod testing;
