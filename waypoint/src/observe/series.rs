//! The time series of requests. Looking a series up by 25 labels costs more than the rest of a request's bookkeeping,
//! so the handles of used ones are cached, by source and by what differs between its requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ambit_identity::SpiffeId;
use ambit_runtime::{Counter, Counters, Histogram, Histograms, WeakCounter, WeakHistogram};
use ambit_wire::names::ISTIO_TCP_LABELS;
use parking_lot::RwLock;

use super::baggage::SourceWorkload;
use super::metrics::{KEPT, expiring};
use super::protocol::Protocol;
use super::{Destination, Flag};
use crate::state::Workload;

/// Number of cached handles before expired ones are removed.
const HANDLES: usize = 8;
/// In milliseconds, as Istio's.
const DURATION_BUCKETS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// In bytes, each four times the one before.
const SIZE_BUCKETS: &[f64] = &[
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];
/// The code of an invalid gRPC status.
const OTHER_STATUS: u16 = 17;

/// Istio's labels of HTTP metrics: those of TCP metrics, and codes.
pub(super) const REQUEST_LABELS: [&str; 25] = {
    let mut labels = [""; 25];
    labels[CODE] = "response_code";
    labels[GRPC_STATUS] = "grpc_response_status";
    let (mut from, mut to) = (0, 0);
    while to < labels.len() {
        if to != CODE && to != GRPC_STATUS {
            labels[to] = ISTIO_TCP_LABELS[from];
            from += 1;
        }
        to += 1;
    }
    labels
};

const CODE: usize = 21;
const GRPC_STATUS: usize = 22;
const UNKNOWN: &str = "unknown";

/// What distinguishes the series of one source's requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    /// Key of the service, or of the workload that was called directly.
    pub(super) destination: Arc<str>,
    /// Pods of one workload share their series.
    pub(super) workload: Option<Arc<str>>,
    pub(super) protocol: Protocol,
    pub(super) code: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flag: Flag,
    pub(super) reporter: Reporter,
}

/// Whom a request's series is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reporter {
    Waypoint,
    /// As a sidecar of the destination would report it: for tools that know no waypoints.
    Destination,
}

impl Reporter {
    fn name(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Destination => "destination",
        }
    }
}

impl SeriesKey {
    /// gRPC has 17 statuses; an endpoint may send any number.
    pub(super) fn grpc_status(status: Option<u16>) -> Option<u16> {
        status.map(|status| status.min(OTHER_STATUS))
    }
}

/// The handles of one series.
#[derive(Clone)]
pub(super) struct RequestSeries {
    pub(super) requests: Counter,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
    /// Of gRPC.
    pub(super) messages: Option<Messages<Counter>>,
}

/// What counts messages of requests and of responses.
#[derive(Debug, Clone)]
pub(super) struct Messages<T> {
    pub(super) request: T,
    pub(super) response: T,
}

/// The same, without keeping it alive.
#[derive(Debug)]
struct Handle {
    requests: WeakCounter,
    duration: WeakHistogram,
    request_bytes: WeakHistogram,
    response_bytes: WeakHistogram,
    messages: Option<Messages<WeakCounter>>,
}

impl Handle {
    fn upgrade(&self) -> Option<RequestSeries> {
        Some(RequestSeries {
            requests: self.requests.upgrade()?,
            duration: self.duration.upgrade()?,
            request_bytes: self.request_bytes.upgrade()?,
            response_bytes: self.response_bytes.upgrade()?,
            messages: match &self.messages {
                None => None,
                Some(messages) => Some(Messages {
                    request: messages.request.upgrade()?,
                    response: messages.response.upgrade()?,
                }),
            },
        })
    }
}

impl RequestSeries {
    /// None where any of them has no series of its own: it may have one later.
    fn downgrade(&self) -> Option<Handle> {
        Some(Handle {
            requests: self.requests.downgrade()?,
            duration: self.duration.downgrade()?,
            request_bytes: self.request_bytes.downgrade()?,
            response_bytes: self.response_bytes.downgrade()?,
            messages: match &self.messages {
                None => None,
                Some(messages) => Some(Messages {
                    request: messages.request.downgrade()?,
                    response: messages.response.downgrade()?,
                }),
            },
        })
    }
}

/// The labels of a source, and the handles of its requests.
#[derive(Debug)]
pub(super) struct SourceSeries {
    labels: [String; 8],
    handles: RwLock<HashMap<SeriesKey, Handle>>,
}

/// All series of requests, and the sources that have connections.
pub(super) struct SeriesTable {
    pub(super) requests: Counters,
    pub(super) duration: Histograms,
    pub(super) request_bytes: Histograms,
    pub(super) response_bytes: Histograms,
    pub(super) messages: Messages<Counters>,
    /// Each request is reported as its destination would, too.
    reports_destination: AtomicBool,
    sources: RwLock<HashMap<(SpiffeId, SourceWorkload), Weak<SourceSeries>>>,
}

impl SeriesTable {
    pub(super) fn new() -> Self {
        Self {
            requests: Counters::new(expiring(
                "istio_requests_total",
                "Requests that have ended",
                &REQUEST_LABELS,
                KEPT,
            )),
            duration: Histograms::new(
                expiring(
                    "istio_request_duration_milliseconds",
                    "From the head of a request to the end of its response",
                    &REQUEST_LABELS,
                    KEPT,
                ),
                DURATION_BUCKETS,
            ),
            request_bytes: Histograms::new(
                expiring(
                    "istio_request_bytes",
                    "Bytes of the bodies of requests",
                    &REQUEST_LABELS,
                    KEPT,
                ),
                SIZE_BUCKETS,
            ),
            response_bytes: Histograms::new(
                expiring(
                    "istio_response_bytes",
                    "Bytes of the bodies of responses",
                    &REQUEST_LABELS,
                    KEPT,
                ),
                SIZE_BUCKETS,
            ),
            messages: Messages {
                request: Counters::new(expiring(
                    "istio_request_messages_total",
                    "Messages of gRPC requests that have ended",
                    &REQUEST_LABELS,
                    KEPT,
                )),
                response: Counters::new(expiring(
                    "istio_response_messages_total",
                    "Messages of responses to gRPC requests that have ended",
                    &REQUEST_LABELS,
                    KEPT,
                )),
            },
            reports_destination: AtomicBool::new(false),
            sources: RwLock::default(),
        }
    }

    pub(super) fn reports_destination(&self) -> bool {
        self.reports_destination.load(Ordering::Relaxed)
    }

    pub(super) fn report_destination(&self, on: bool) {
        self.reports_destination.store(on, Ordering::Relaxed);
    }

    pub(super) fn source(&self, identity: &SpiffeId, workload: &SourceWorkload) -> Arc<SourceSeries> {
        let key = (identity.clone(), workload.clone());
        if let Some(series) = self.sources.read().get(&key).and_then(Weak::upgrade) {
            return series;
        }
        let mut sources = self.sources.write();
        if let Some(series) = sources.get(&key).and_then(Weak::upgrade) {
            return series;
        }
        // Only when the table would grow, which is rare.
        if sources.len() == sources.capacity() {
            sources.retain(|_, series| series.strong_count() > 0);
            let room = sources.len().max(HANDLES);
            sources.reserve(room);
        }
        let series = Arc::new(SourceSeries {
            labels: source_labels(identity, workload),
            handles: RwLock::default(),
        });
        sources.insert(key, Arc::downgrade(&series));
        series
    }

    /// The handles for a request of `source`.
    pub(super) fn of(
        &self,
        source: &SourceSeries,
        key: SeriesKey,
        destination: &Destination,
        endpoint: Option<&Workload>,
    ) -> RequestSeries {
        if let Some(series) = source.handles.read().get(&key).and_then(Handle::upgrade) {
            return series;
        }
        let labels = labels(
            key.reporter,
            &source.labels,
            destination,
            endpoint,
            key.protocol.label(),
            Some((key.code, key.grpc_status)),
            key.flag,
        );
        let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        let series = RequestSeries {
            requests: self.requests.with(&labels),
            duration: self.duration.with(&labels),
            request_bytes: self.request_bytes.with(&labels),
            response_bytes: self.response_bytes.with(&labels),
            messages: (key.protocol == Protocol::Grpc).then(|| Messages {
                request: self.messages.request.with(&labels),
                response: self.messages.response.with(&labels),
            }),
        };
        if let Some(handle) = series.downgrade() {
            let mut handles = source.handles.write();
            if handles.len() == handles.capacity() {
                handles.retain(|_, handle| handle.upgrade().is_some());
                let room = handles.len().max(HANDLES);
                handles.reserve(room);
            }
            handles.insert(key, handle);
        }
        series
    }
}

impl SourceSeries {
    /// The labels of a non-HTTP connection of this source.
    pub(super) fn tcp_labels<'a>(
        &'a self,
        destination: &'a Destination,
        endpoint: Option<&'a Workload>,
        flag: Flag,
    ) -> Vec<Label<'a>> {
        let reporter = Reporter::Waypoint;
        labels(reporter, &self.labels, destination, endpoint, "tcp", None, flag)
    }
}

type Label<'a> = std::borrow::Cow<'a, str>;

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

fn source_labels(identity: &SpiffeId, workload: &SourceWorkload) -> [String; 8] {
    [
        or_unknown(&workload.name),
        or_unknown(&workload.service),
        or_unknown(&workload.version),
        identity.namespace(),
        &identity.to_string(),
        or_unknown(&workload.service),
        or_unknown(&workload.version),
        or_unknown(&workload.cluster),
    ]
    .map(str::to_owned)
}

fn labels<'a>(
    reporter: Reporter,
    source: &'a [String; 8],
    destination: &'a Destination,
    endpoint: Option<&'a Workload>,
    protocol: &'static str,
    code: Option<(u16, Option<u16>)>,
    flag: Flag,
) -> Vec<Label<'a>> {
    let mut labels: Vec<Label<'a>> = Vec::with_capacity(REQUEST_LABELS.len());
    labels.push(reporter.name().into());
    labels.extend(source.iter().map(|label| Label::from(label.as_str())));
    labels.extend(match destination {
        Destination::Service(service) => [
            service.hostname.as_str().into(),
            service.namespace.as_str().into(),
            service.name.as_str().into(),
        ],
        Destination::Backend(backend) => [
            backend.hostname.as_str().into(),
            backend.namespace.as_str().into(),
            backend.name.as_str().into(),
        ],
        Destination::Workload(_) => [UNKNOWN; 3].map(Label::from),
    });
    match endpoint {
        Some(workload) => labels.extend([
            or_unknown(&workload.workload_name).into(),
            or_unknown(&workload.canonical_name).into(),
            or_unknown(&workload.canonical_revision).into(),
            or_unknown(&workload.namespace).into(),
            workload.identity.to_string().into(),
            or_unknown(&workload.canonical_name).into(),
            or_unknown(&workload.canonical_revision).into(),
            or_unknown(&workload.cluster).into(),
        ]),
        None => labels.extend([UNKNOWN; 8].map(Label::from)),
    }
    labels.push(protocol.into());
    if let Some((code, grpc_status)) = code {
        labels.push(code.to_string().into());
        labels.push(match grpc_status {
            None => Label::Borrowed(""),
            Some(OTHER_STATUS..) => Label::Borrowed("other"),
            Some(status) => status.to_string().into(),
        });
    }
    labels.push(flag.name().into());
    labels.push("mutual_tls".into());
    labels
}
