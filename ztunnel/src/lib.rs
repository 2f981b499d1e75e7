//! The L4 node proxy. It accepts on sockets that the node agent passes, and speaks HBONE with its peers. It needs no
//! privilege.

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
