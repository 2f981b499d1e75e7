//! The control plane that agents and ztunnels talk to, on port 15012 over TLS: delta xDS, the CA's call, capture reports. Every
//! replica serves it. What it serves, and about whom, comes through [`Directory`] and [`Sources`] from the index; what agents
//! report goes to a [`CaptureSink`].

mod interfaces;

pub use interfaces::{AgentPod, CaptureSink, Directory, MeshSettings, PodInfo, RecordError, Sources};
