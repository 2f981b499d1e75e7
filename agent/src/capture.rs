//! Capturing and releasing pods: one machine a pod (`machine`, pure) and one manager that owns them all and carries their
//! effects out. What is done in one pod's network namespace is done in the order in which it was ordered (`lane`).

mod admission;
mod control;
mod effects;
mod failure;
mod lane;
mod leave;
mod location;
mod machine;
mod manager;
mod pod;
mod redirection;
mod unnamed;
mod ztunnels;

pub use admission::{Admission, AdmissionRequest};
pub use control::ControlEvent;
pub use failure::{Failure, Reason};
pub use machine::{Effect, Event, Machine, Pending, Releasing, State};
pub use manager::{Handle, Leaving, Manager, Settings};
pub use ztunnels::{FromSession, Outgoing, SessionId};
