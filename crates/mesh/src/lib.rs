//! What both proxies know of the mesh, and how they choose among it.
//!
//! A proxy keeps one [`Mesh`]: workloads by UID and address, and services by key and virtual address. What a service is besides its
//! addresses differs between the proxies, so they give it as a [`Frontend`]. [`Authorizations`] are the rules for connections.
//! [`subscription`] turns what delta xDS delivers into both.
//!
//! Lookups hold a read lock for as long as a hash lookup lasts. Updates are converted before any lock is taken, and applied in slices;
//! dumps read in slices too.

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
pub use skew::{SKEW_TIMEOUT, Skew};
pub use tables::Applied;
pub use waypoint::Waypoint;
pub use workload::{Protocol, Workload};
