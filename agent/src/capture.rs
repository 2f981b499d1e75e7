//! Capturing and releasing pods: one machine a pod (`machine`, pure) and one manager that owns them all and carries their
//! effects out. What is done in one pod's network namespace is done in the order in which it was ordered (`lane`).

mod effects;
mod failure;
mod lane;
mod location;
mod machine;
mod manager;
mod pod;
mod redirection;

pub use failure::{Failure, Reason};
pub use machine::{Effect, Event, Machine, Pending, Releasing, State};
pub use manager::{
    AdmissionRequest, ControlEvent, FromSession, Handle, Leaving, Manager, Outgoing, SessionId, Settings,
};
pub use pod::Admission;
