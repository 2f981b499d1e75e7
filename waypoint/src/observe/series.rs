//! The time series of requests. Looking a series up by 25 labels costs more than the rest of a request's bookkeeping,
//! so the handles of used ones are cached, by source and by what differs between its requests.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use ambit_identity::SpiffeId;
use ambit_runtime::{Counter, Counters, Histogram, Histograms, WeakCounter, WeakHistogram};
use ambit_wire::names::ISTIO_TCP_LABELS;
use parking_lot::RwLock;

use super::baggage::SourceWorkload;
use super::protocol::Protocol;
use super::{Destination, Flag};
use crate::state::Workload;

/// Number of cached handles before expired ones are removed.
const HANDLES: usize = 8;
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
}

/// The same, without keeping it alive.
#[derive(Debug)]
struct Handle {
    requests: WeakCounter,
    duration: WeakHistogram,
}

impl Handle {
    fn upgrade(&self) -> Option<RequestSeries> {
        Some(RequestSeries {
            requests: self.requests.upgrade()?,
            duration: self.duration.upgrade()?,
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
    sources: RwLock<HashMap<(SpiffeId, SourceWorkload), Weak<SourceSeries>>>,
}

impl SeriesTable {
    pub(super) fn new(requests: Counters, duration: Histograms) -> Self {
        Self {
            requests,
            duration,
            sources: RwLock::default(),
        }
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
        };
        if let (Some(requests), Some(duration)) = (series.requests.downgrade(), series.duration.downgrade()) {
            let mut handles = source.handles.write();
            if handles.len() == handles.capacity() {
                handles.retain(|_, handle| handle.upgrade().is_some());
                let room = handles.len().max(HANDLES);
                handles.reserve(room);
            }
            handles.insert(key, Handle { requests, duration });
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
        labels(&self.labels, destination, endpoint, "tcp", None, flag)
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
    source: &'a [String; 8],
    destination: &'a Destination,
    endpoint: Option<&'a Workload>,
    protocol: &'static str,
    code: Option<(u16, Option<u16>)>,
    flag: Flag,
) -> Vec<Label<'a>> {
    let mut labels: Vec<Label<'a>> = Vec::with_capacity(REQUEST_LABELS.len());
    labels.push("waypoint".into());
    labels.extend(source.iter().map(|label| Label::from(label.as_str())));
    labels.extend(match destination {
        Destination::Service(service) => [
            service.hostname.as_str().into(),
            service.namespace.as_str().into(),
            service.name.as_str().into(),
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
