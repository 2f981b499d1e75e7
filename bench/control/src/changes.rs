//! Changes of a running cluster, on a schedule.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_bench::Histogram;
use ambit_operator::index::{Index, PodRecord, PolicyRecord, SharedIndex, SliceRecord};
use anyhow::Result;

use crate::clients::Log;
use crate::cluster::{Cluster, PodState};

/// What changes, in turns.
const TURN: [Kind; 20] = [
    Kind::Ready,
    Kind::Slice,
    Kind::Label,
    Kind::Pod,
    Kind::Ready,
    Kind::Slice,
    Kind::Label,
    Kind::Ready,
    Kind::Pod,
    Kind::Ready,
    Kind::Slice,
    Kind::Label,
    Kind::Ready,
    Kind::Pod,
    Kind::Ready,
    Kind::Slice,
    Kind::Label,
    Kind::Ready,
    Kind::Pod,
    Kind::Policy,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A pod becomes ready, or is no longer.
    Ready,
    /// Its EndpointSlice says so.
    Slice,
    /// A label of a pod that is its version.
    Label,
    /// A pod comes, or goes.
    Pod,
    /// The rules of a WaypointPolicy.
    Policy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "a pod's readiness",
            Self::Slice => "an EndpointSlice",
            Self::Label => "a pod's label",
            Self::Pod => "a new pod, or one that goes",
            Self::Policy => "a policy",
        }
    }
}

/// Changes of a cluster, and how long the index took for each.
pub(crate) struct Changes<'a> {
    cluster: &'a Cluster,
    index: &'a SharedIndex,
    addresses: Arc<Log>,
    /// By namespace: the policies of its waypoint.
    policies: Vec<(usize, Arc<Log>)>,
    states: HashMap<usize, PodState>,
    /// A pod beyond those of the cluster, while it is there.
    extra: Option<usize>,
    edits: u32,
    random: u64,
    took: BTreeMap<Kind, Histogram>,
}

impl<'a> Changes<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster,
        index: &'a SharedIndex,
        addresses: Arc<Log>,
        policies: Vec<(usize, Arc<Log>)>,
    ) -> Self {
        Self {
            cluster,
            index,
            addresses,
            policies,
            states: HashMap::new(),
            extra: None,
            edits: 1,
            random: 0x9e37_79b9_7f4a_7c15,
            took: BTreeMap::new(),
        }
    }

    /// `rate` changes a second, for `seconds`. A change that is late goes out at once.
    pub(crate) fn run(&mut self, rate: f64, seconds: f64) -> Result<()> {
        let start = Instant::now();
        for number in 0..(rate * seconds) as usize {
            let due = start + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.one(TURN[number % TURN.len()], due)?;
        }
        Ok(())
    }

    /// Time in the index, by kind.
    pub(crate) fn took(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        self.took.iter().map(|(kind, took)| (kind.name(), took))
    }

    fn one(&mut self, kind: Kind, due: Instant) -> Result<()> {
        let number = self.pick();
        let mut state = self.state(number);
        match kind {
            Kind::Ready => {
                state.ready = !state.ready;
                self.pod(kind, number, state, due)
            }
            Kind::Label => {
                state.version += 1;
                self.pod(kind, number, state, due)
            }
            Kind::Slice => {
                state.ready = !state.ready;
                self.states.insert(number, state);
                let (service, part) = (self.cluster.service_of(number), self.cluster.part_of(number));
                let (key, slice) = self.cluster.slice(service, part, |n| self.state(n).ready)?;
                self.publish(kind, &Arc::clone(&self.addresses), due, |index| {
                    index.set_slice(&key, SliceRecord::of(&slice));
                });
                Ok(())
            }
            Kind::Pod => match self.extra.take() {
                Some(extra) => {
                    let (key, _) = self.cluster.pod(extra, state)?;
                    self.publish(kind, &Arc::clone(&self.addresses), due, |index| {
                        index.set_pod(&key, None);
                    });
                    Ok(())
                }
                None => {
                    let extra = self.cluster.pods + number;
                    self.extra = Some(extra);
                    let (key, pod) = self.cluster.pod(
                        extra,
                        PodState {
                            ready: false,
                            version: 1,
                        },
                    )?;
                    self.publish(kind, &Arc::clone(&self.addresses), due, |index| {
                        index.set_pod(&key, PodRecord::of(&pod));
                    });
                    Ok(())
                }
            },
            Kind::Policy => {
                if self.policies.is_empty() {
                    return Ok(());
                }
                self.edits += 1;
                let (namespace, log) = &self.policies[number % self.policies.len()];
                let (key, policy) = self.cluster.policy(*namespace, self.edits)?;
                self.publish(kind, &Arc::clone(log), due, |index| {
                    index.set_policy(&key, Some(PolicyRecord::of(&policy)));
                });
                Ok(())
            }
        }
    }

    fn pod(&mut self, kind: Kind, number: usize, state: PodState, due: Instant) -> Result<()> {
        self.states.insert(number, state);
        let (key, pod) = self.cluster.pod(number, state)?;
        self.publish(kind, &Arc::clone(&self.addresses), due, |index| {
            index.set_pod(&key, PodRecord::of(&pod));
        });
        Ok(())
    }

    fn publish(&mut self, kind: Kind, log: &Log, due: Instant, change: impl FnOnce(&mut Index)) {
        let start = Instant::now();
        log.change(due, || self.index.change(change));
        self.took.entry(kind).or_default().record(start.elapsed());
    }

    fn state(&self, number: usize) -> PodState {
        let first = PodState {
            ready: true,
            version: 1,
        };
        self.states.get(&number).copied().unwrap_or(first)
    }

    /// A pod that is not of the largest Service.
    fn pick(&mut self) -> usize {
        // Xorshift: the same pods in every run.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let others = self.cluster.pods - self.cluster.largest;
        self.cluster.largest + (self.random % others as u64) as usize
    }
}
