//! One request, or one non-HTTP connection: its metrics, and its line in the access log.

mod connection;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_runtime::Share;
use http::{HeaderMap, Method, Request, StatusCode};

use super::access::{self, Line};
use super::body::{BodyMeter, Counts, Messages};
use super::load::RequestInFlight;
use super::outcome::{CUT, Outcome};
use super::protocol::Protocol;
use super::series::{Reporter, SeriesKey};
use super::trace::trace_id;
use super::{Destination, Flag, Observer, Source};
use crate::account::Held;
use crate::retries::InFlight;
use crate::state::{Endpoint, Workload};

pub(crate) use connection::ConnectionRecord;

/// Why a request was not retried.
pub(crate) const RETRY_LIMIT: &str = "not retried: the service has its maximum of retries in flight";

/// Maximum length of a logged path, in bytes.
const LOGGED_PATH: usize = 1024;

/// The beginning of a path: a client may send as much as a head has room for.
fn clip(path: &str) -> &str {
    let end = (0..=LOGGED_PATH.min(path.len()))
        .rev()
        .find(|end| path.is_char_boundary(*end));
    &path[..end.unwrap_or(0)]
}

/// A request from its head to the end of its response, which is when this is dropped. It counts as in flight until
/// then.
pub(crate) struct RequestRecord {
    observer: Arc<Observer>,
    source: Arc<Source>,
    destination: Destination,
    in_flight: RequestInFlight,
    /// The request's admission, until it has ended.
    place: Option<(Share<SpiffeId>, Held, InFlight)>,
    method: Method,
    path: Box<str>,
    protocol: Protocol,
    trace_id: Option<Box<str>>,
    endpoint: Option<(Arc<Workload>, SocketAddr)>,
    /// The destination, if the request was refused before it was sent to an endpoint.
    called: Option<SpiffeId>,
    /// 0 while there is no response.
    status: u16,
    grpc_status: Option<u16>,
    outcome: Outcome,
    route: Option<Arc<str>>,
    retries: u32,
    request_body: Arc<Counts>,
    bytes_out: u64,
    /// Of gRPC alone: where the response's messages end, and how many have.
    messages: Option<Messages>,
    messages_out: u64,
    ended: bool,
}

impl Observer {
    /// A request has arrived. The caller reports its progress to the record; dropping the record is the end of the
    /// request.
    pub(crate) fn request<B>(
        self: &Arc<Self>,
        source: &Arc<Source>,
        destination: Destination,
        request: &Request<B>,
    ) -> RequestRecord {
        RequestRecord::new(self, source, destination, request)
    }
}

impl RequestRecord {
    fn new<B>(
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
            request_body: Arc::default(),
            bytes_out: 0,
            messages: Messages::of(request),
            messages_out: 0,
            ended: false,
        }
    }

    /// The request's admission and bytes, until it has ended; it counts as in flight.
    pub(crate) fn takes(&mut self, place: Share<SpiffeId>, held: Held, in_flight: InFlight) {
        self.place = Some((place, held, in_flight));
    }

    /// The request takes this number of further bytes.
    pub(crate) fn holds(&mut self, bytes: usize) {
        if let Some((_, held, _)) = &mut self.place {
            held.grow_anyway(bytes);
        }
    }

    /// The decision of the rules; for a denial flag and reason, too. It may be called with several decisions, of which
    /// the first denial counts.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        self.outcome
            .decided(&self.observer.metrics, &self.destination, decision);
    }

    /// Why the response is not the application's: the text of `x-ambit-reason`.
    pub(crate) fn failed(&mut self, flag: Flag, reason: impl Into<String>) {
        self.outcome.failed(flag, reason);
    }

    /// The client aborted a connection that the request had become (a WebSocket).
    pub(crate) fn left(&mut self, reason: impl Into<String>) {
        self.outcome.left(reason);
    }

    /// The endpoint of a request that the rules denied.
    pub(crate) fn refused_for(&mut self, endpoint: &Endpoint) {
        self.called = Some(endpoint.workload.identity.clone());
    }

    /// The endpoint of the latest attempt.
    pub(crate) fn sent_to(&mut self, endpoint: &Endpoint) {
        self.endpoint = Some((Arc::clone(&endpoint.workload), endpoint.target));
    }

    /// The request is retried, by this policy; without a policy if its endpoint had not processed it.
    pub(crate) fn retried(&mut self, policy: Option<&Arc<str>>) {
        self.retries += 1;
        self.observer
            .metrics
            .retried(&self.destination, policy.map_or("", |policy| policy));
        if let Some(policy) = policy {
            self.route = Some(Arc::clone(policy));
        }
    }

    /// The request was not retried, since the service had its maximum of retries in flight: the response is forwarded.
    pub(crate) fn not_retried(&mut self) {
        self.observer.metrics.not_retried(&self.destination);
        self.outcome.failed(Flag::RetryLimit, RETRY_LIMIT);
    }

    /// A route sends the request to this destination, by this rule.
    pub(crate) fn routed(&mut self, rule: Arc<str>, destination: Destination) {
        self.route = Some(rule);
        self.destination = destination;
    }

    /// A policy has changed the response (its timeout, for instance).
    pub(crate) fn governed_by(&mut self, policy: &Arc<str>) {
        self.route = Some(Arc::clone(policy));
    }

    /// The head of the response is being sent.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        // A response of trailers only.
        self.trailers(headers);
    }

    /// The trailers of the response.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        let status = trailers
            .get("grpc-status")
            .filter(|_| self.protocol == Protocol::Grpc);
        if let Some(status) = status.and_then(|value| value.to_str().ok()?.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    /// This part of the response's body is being sent.
    pub(crate) fn sent(&mut self, data: &[u8]) {
        self.sent_bytes(data.len() as u64);
        if let Some(messages) = &mut self.messages {
            self.messages_out += messages.end_in(data);
        }
    }

    /// This number of bytes of a response without messages is being sent.
    pub(crate) fn sent_bytes(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    /// Counts the request's body as it is read. There is one reader.
    pub(crate) fn request_body(&self) -> BodyMeter {
        BodyMeter::new(&self.request_body, self.messages.map(|_| Messages::default()))
    }

    /// The response has ended correctly. A record that is dropped without this counts as one whose client disconnected.
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
            bytes_in: self.request_body.bytes.load(Ordering::Relaxed),
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
                    "the client disconnected before the end of the response",
                ),
            };
            self.failed(flag, reason);
        }
        self.source.was_busy(self.in_flight.elapsed());
        let endpoint = self.endpoint.as_ref().map(|(workload, _)| &**workload);
        let bytes_in = self.request_body.bytes.load(Ordering::Relaxed);
        let messages_in = self.request_body.messages.load(Ordering::Relaxed);
        let mut key = SeriesKey {
            reporter: Reporter::Waypoint,
            destination: Arc::clone(self.destination.key()),
            workload: endpoint.map(|workload| Arc::clone(workload.series())),
            protocol: self.protocol,
            code: self.status,
            grpc_status: SeriesKey::grpc_status(self.grpc_status),
            flag: self.outcome.flag,
        };
        let table = &self.observer.metrics.series;
        let count = |key: SeriesKey| {
            let series = table.of(&self.source.series, key, &self.destination, endpoint);
            series.requests.inc();
            series
                .duration
                .observe(self.in_flight.elapsed().as_secs_f64() * 1e3);
            series.request_bytes.observe(bytes_in as f64);
            series.response_bytes.observe(self.bytes_out as f64);
            if let Some(messages) = &series.messages {
                messages.request.inc_by(messages_in);
                messages.response.inc_by(self.messages_out);
            }
        };
        if table.reports_destination() {
            count(key.clone());
            key.reporter = Reporter::Destination;
        }
        count(key);
        if self.outcome.is_notable() || self.observer.access_log.load(Ordering::Relaxed) {
            access::log(&self.line());
        }
    }
}
