//! Captures and releases pods. Each pod has a state machine (`machine`, pure). One manager owns all of them and
//! performs their effects. Jobs in the network namespace of a pod run in the order of their requests (`lane`).

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
