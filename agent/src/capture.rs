//! Capturing and releasing pods: one machine a pod (`machine`, pure) and one manager that owns them all and carries their
//! effects out.

mod admission;
mod control;
mod effects;
mod failure;
mod location;
mod machine;
mod manager;
mod pod;
mod unnamed;
mod ztunnels;

pub use admission::{Admission, AdmissionRequest};
pub use control::ControlEvent;
pub use failure::{Failure, Reason};
pub use machine::{Effect, Event, Machine, Pending, Releasing, State};
pub use manager::{Handle, Manager, Settings};
pub use ztunnels::{FromSession, Outgoing, SessionId};
