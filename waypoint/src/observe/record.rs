//! One request, or one connection that is no HTTP: its metrics, and its line in the access log.

mod connection;
mod outcome;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_runtime::Share;
use http::{HeaderMap, Method, Request, StatusCode, Version};

use super::access::{self, Line};
use super::load::RequestInFlight;
use super::series::SeriesKey;
use super::trace::trace_id;
use super::{Flag, Observer, Source};
use crate::account::Held;
use crate::retries::InFlight;
use crate::state::{Endpoint, ServiceConfig, Workload};

pub(crate) use connection::ConnectionRecord;
use outcome::CUT;
pub(super) use outcome::Outcome;

/// Why a request was not tried again.
pub(crate) const RETRY_LIMIT: &str =
    "not tried again: the service has as many retries under way as it may have";

/// What was called.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    /// A service, by its virtual address.
    Service(Arc<ServiceConfig>),
    /// A pod, by its own.
    Workload(Arc<Workload>),
}

impl Destination {
    /// As our metrics name it: `namespace/name`'s hostname of a service, the name of a pod's workload.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Service(service) => &service.hostname,
            Self::Workload(workload) => &workload.workload_name,
        }
    }

    /// Of what is called, whatever its configuration.
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Service(service) => &service.key,
            Self::Workload(workload) => workload.series(),
        }
    }
}

/// What a request is, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

impl Protocol {
    fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            Self::Grpc
        } else if request.version() == Version::HTTP_2 {
            Self::Http2
        } else {
            Self::Http1
        }
    }

    /// Istio's `request_protocol`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 => "http",
            Self::Grpc => "grpc",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
        }
    }
}

/// Bytes of a path that are logged.
const LOGGED_PATH: usize = 1024;

/// The beginning of a path: a client may send as much as a head has room for.
fn clip(path: &str) -> &str {
    let end = (0..=LOGGED_PATH.min(path.len()))
        .rev()
        .find(|end| path.is_char_boundary(*end));
    &path[..end.unwrap_or(0)]
}

/// A request from its head to the end of its answer, which is when this is dropped. It counts as in flight until then.
pub(crate) struct RequestRecord {
    observer: Arc<Observer>,
    source: Arc<Source>,
    destination: Destination,
    in_flight: RequestInFlight,
    /// What the request takes of the waypoint, until it has ended.
    place: Option<(Share<SpiffeId>, Held, InFlight)>,
    method: Method,
    path: Box<str>,
    protocol: Protocol,
    trace_id: Option<Box<str>>,
    endpoint: Option<(Arc<Workload>, SocketAddr)>,
    /// Who is called, where the request was refused before it was sent to an endpoint.
    called: Option<SpiffeId>,
    /// 0 as long as there is no answer.
    status: u16,
    grpc_status: Option<u16>,
    outcome: Outcome,
    route: Option<Arc<str>>,
    retries: u32,
    bytes_in: Arc<AtomicU64>,
    bytes_out: u64,
    ended: bool,
}

impl RequestRecord {
    pub(super) fn new<B>(
        observer: &Arc<Observer>,
        source: &Arc<Source>,
        destination: Destination,
        request: &Request<B>,
    ) -> Self {
        Self {
            in_flight: observer.load.request(),
            place: None,
            observer: Arc::clone(observer),
            source: Arc::clone(source),
            destination,
            method: request.method().clone(),
            // Without the query, which may hold secrets.
            path: clip(request.uri().path()).into(),
            protocol: Protocol::of(request),
            trace_id: trace_id(request.headers()),
            endpoint: None,
            called: None,
            status: 0,
            grpc_status: None,
            outcome: Outcome::default(),
            route: None,
            retries: 0,
            bytes_in: Arc::default(),
            bytes_out: 0,
            ended: false,
        }
    }

    /// The request takes this place, and these bytes, until it has ended, and counts as in flight.
    pub(crate) fn takes(&mut self, place: Share<SpiffeId>, held: Held, in_flight: InFlight) {
        self.place = Some((place, held, in_flight));
    }

    /// It takes so many bytes more.
    pub(crate) fn holds(&mut self, bytes: usize) {
        if let Some((_, held, _)) = &mut self.place {
            held.grow_anyway(bytes);
        }
    }

    /// What the rules say; of a denial, flag and reason too. May be told several decisions, of which the first denial counts.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        self.outcome
            .decided(&self.observer.metrics, &self.destination, decision);
    }

    /// Why the answer is not the application's: what `x-ambit-reason` says.
    pub(crate) fn failed(&mut self, flag: Flag, reason: impl Into<String>) {
        self.outcome.failed(flag, reason);
    }

    /// The client broke off what the request had become (a WebSocket).
    pub(crate) fn left(&mut self, reason: impl Into<String>) {
        self.outcome.left(reason);
    }

    /// Who would have been sent the request that the rules refuse.
    pub(crate) fn refused_for(&mut self, endpoint: &Endpoint) {
        self.called = Some(endpoint.workload.identity.clone());
    }

    /// Where the latest try was sent.
    pub(crate) fn sent_to(&mut self, endpoint: &Endpoint) {
        self.endpoint = Some((Arc::clone(&endpoint.workload), endpoint.target));
    }

    /// It is tried again, by this policy; by none where its endpoint had not looked at it.
    pub(crate) fn retried(&mut self, policy: Option<&Arc<str>>) {
        self.retries += 1;
        self.observer
            .metrics
            .retried(&self.destination, policy.map_or("", |policy| policy));
        if let Some(policy) = policy {
            self.route = Some(Arc::clone(policy));
        }
    }

    /// It would have been tried again, had the service not had as many retries under way as it may have: what there is is passed on.
    pub(crate) fn not_retried(&mut self) {
        self.observer.metrics.not_retried(&self.destination);
        self.outcome.failed(Flag::RetryLimit, RETRY_LIMIT);
    }

    /// A policy has shaped the answer (its timeout, say).
    pub(crate) fn governed_by(&mut self, policy: &Arc<str>) {
        self.route = Some(Arc::clone(policy));
    }

    /// The head of the answer is on its way.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        // An answer that is trailers only.
        self.trailers(headers);
    }

    /// The trailers of the answer.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        let status = trailers
            .get("grpc-status")
            .filter(|_| self.protocol == Protocol::Grpc);
        if let Some(status) = status.and_then(|value| value.to_str().ok()?.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    /// So many bytes of the answer's body are on their way.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    /// Counts the bytes of the request's body.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_in)
    }

    /// The answer has ended as it should. A record that is dropped without this counts as one whose client went away.
    pub(crate) fn end(mut self) {
        self.ended = true;
    }

    fn line(&self) -> Line<'_> {
        Line {
            source: &self.source,
            destination: &self.destination,
            endpoint: self
                .endpoint
                .as_ref()
                .map(|(workload, target)| (&**workload, *target)),
            called: self.called.as_ref(),
            protocol: self.protocol.name(),
            method: Some(self.method.as_str()),
            path: Some(&self.path),
            status: Some(self.status),
            grpc_status: self.grpc_status,
            route: self.route.as_deref(),
            outcome: &self.outcome,
            retries: self.retries,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            duration: self.in_flight.elapsed(),
            trace_id: self.trace_id.as_deref(),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.ended && self.outcome.flag == Flag::None {
            let (flag, reason) = match self.observer.is_cut() {
                true => (Flag::Cut, CUT),
                false => (
                    Flag::ClientGone,
                    "the client went away before its answer had ended",
                ),
            };
            self.failed(flag, reason);
        }
        let endpoint = self.endpoint.as_ref().map(|(workload, _)| &**workload);
        let key = SeriesKey {
            destination: Arc::clone(self.destination.key()),
            workload: endpoint.map(|workload| Arc::clone(workload.series())),
            protocol: self.protocol,
            code: self.status,
            grpc_status: SeriesKey::grpc_status(self.grpc_status),
            flag: self.outcome.flag,
        };
        let table = &self.observer.metrics.series;
        let series = table.of(&self.source.series, key, &self.destination, endpoint);
        series.requests.inc();
        series
            .duration
            .observe(self.in_flight.elapsed().as_secs_f64() * 1e3);
        if self.outcome.is_notable() || self.observer.access_log.load(Ordering::Relaxed) {
            access::log(&self.line());
        }
    }
}
