//! The L4 node proxy: it accepts on sockets that the node agent passed it, and speaks HBONE with its peers. It needs no
//! privilege at all.

mod broker;
mod config;
mod limits;
mod observe;
mod pod;
mod pods;
mod proxy;
mod sockets;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod xds;
mod ztunnel;

pub use config::Config;
pub use limits::Limits;
pub use proxy::OriginalDestination;
pub use ztunnel::{Parts, Ztunnel};
