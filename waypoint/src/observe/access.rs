//! The access log.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_identity::SpiffeId;

use super::outcome::Outcome;
use super::{Destination, Source};
use crate::state::Workload;

/// The fields of a line.
pub(super) struct Line<'a> {
    pub(super) source: &'a Source,
    pub(super) destination: &'a Destination,
    pub(super) endpoint: Option<(&'a Workload, SocketAddr)>,
    /// The destination, if no endpoint was chosen.
    pub(super) called: Option<&'a SpiffeId>,
    pub(super) protocol: &'static str,
    pub(super) method: Option<&'a str>,
    pub(super) path: Option<&'a str>,
    pub(super) status: Option<u16>,
    pub(super) grpc_status: Option<u16>,
    pub(super) route: Option<&'a str>,
    pub(super) outcome: &'a Outcome,
    pub(super) retries: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration: Duration,
    pub(super) trace_id: Option<&'a str>,
}

/// One line for one request or connection. A failure, or a denial by an audit rule, is a warning.
pub(super) fn log(line: &Line<'_>) {
    let (source, outcome) = (line.source, line.outcome);
    let workload = Some(source.workload.name.as_str()).filter(|name| !name.is_empty());
    let (service, called) = match line.destination {
        Destination::Service(service) => (Some(service.hostname.as_str()), None),
        Destination::Workload(workload) => (None, Some(&**workload)),
        Destination::Backend(backend) => (Some(backend.hostname.as_str()), None),
    };
    let destination = line.endpoint.map(|(workload, _)| workload).or(called);
    let identity = destination.map(|workload| &workload.identity).or(line.called);
    macro_rules! event {
        ($level:expr, $message:literal) => {
            tracing::event!(
                target: "access",
                parent: None,
                $level,
                src.identity = %source.identity,
                src.addr = %source.address,
                src.workload = workload,
                src.namespace = source.namespace(),
                dst.service = service,
                dst.workload = destination.map(|workload| workload.name.as_str()),
                dst.namespace = destination.map(|workload| workload.namespace.as_str()),
                dst.identity = identity.map(display),
                upstream = line.endpoint.map(|(_, target)| display(target)),
                protocol = line.protocol,
                http.method = line.method,
                http.path = line.path,
                http.status = line.status,
                grpc.status = line.grpc_status,
                route = line.route,
                rule = outcome.rule.as_deref(),
                audit = (!outcome.audited.is_empty()).then(|| display(outcome.audited.join(","))),
                reason = outcome.reason.as_deref(),
                retries = line.retries,
                flags = outcome.flag.name(),
                bytes_recv = line.bytes_in,
                bytes_sent = line.bytes_out,
                duration_ms = line.duration.as_secs_f64() * 1e3,
                trace_id = line.trace_id,
                $message
            )
        };
    }
    match (outcome.is_notable(), line.method.is_some()) {
        (false, true) => event!(tracing::Level::INFO, "request complete"),
        (true, true) => event!(tracing::Level::WARN, "request complete"),
        (false, false) => event!(tracing::Level::INFO, "connection complete"),
        (true, false) => event!(tracing::Level::WARN, "connection complete"),
    }
}
