//! The state of the mesh that both proxies share, and load balancing.
//!
//! A proxy has one [`Mesh`]: workloads by UID and address, and services by key and virtual address. The content of a
//! service, apart from its addresses, differs between the proxies, so each provides it as a [`Frontend`].
//! [`Authorizations`] are the policies for connections. [`subscription`] applies the resources of delta xDS to both.
//!
//! A lookup holds a read lock only for a hash lookup. Updates are converted before any lock is taken, and applied in
//! slices; dumps read in slices, too.

mod addresses;
mod affinity;
mod authorizations;
mod balance;
mod balancing;
mod frontend;
mod invalid;
mod load;
mod membership;
mod mesh;
pub mod sketch;
mod skew;
pub mod subscription;
mod tables;
mod waypoint;
mod workload;

pub use authorizations::Authorizations;
pub use balance::{Client, Endpoint, Query};
pub use balancing::{Balancing, Via};
pub use frontend::{Frontend, ServiceEntry, external_addresses};
pub use invalid::{Invalid, check_requires, ip, service_key};
pub use load::InUse;
pub use membership::{Membership, ServicePort};
pub use mesh::Mesh;
pub use skew::{GUARD_TIMEOUT, GuardPauses, MOST_GUARDED, SKEW_TIMEOUT, Skew};
pub use tables::Applied;
pub use waypoint::Waypoint;
pub use workload::{Protocol, Workload};
