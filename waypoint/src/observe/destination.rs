//! The destination of a request.

use std::sync::Arc;

use crate::state::{Backend, ServiceConfig, Workload};

/// The destination of a request.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    /// A service, by its virtual address.
    Service(Arc<ServiceConfig>),
    /// A pod, by its own address.
    Workload(Arc<Workload>),
    /// The service that a route sends the request to.
    Backend(Arc<Backend>),
}

impl Destination {
    /// As our metrics name it: the hostname of a service, the name of a pod's workload.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Service(service) => &service.hostname,
            Self::Workload(workload) => &workload.workload_name,
            Self::Backend(backend) => &backend.hostname,
        }
    }

    /// The destination, without its configuration.
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Service(service) => &service.key,
            Self::Workload(workload) => workload.series(),
            Self::Backend(backend) => &backend.key,
        }
    }
}
