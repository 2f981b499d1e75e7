//! The manager with a kernel, a runtime and a ztunnel that take their time: whatever the order of events and answers, at the end the
//! rules are as reported.

use super::*;
use crate::netlink::PodTable;
use crate::netns::{Listeners, Netns};
use crate::runtime::{RuntimeError, Sandbox};
use ambit_wire::agent::{CaptureState, PodCapture};
use ambit_wire::broker::from_agent::Message as ToZtunnel;
use ambit_wire::broker::{Ack, AddPod, RemovePod};
use std::sync::{Mutex, MutexGuard, PoisonError};

const POD: &str = "pod";

/// A world that is the same for the same seed.
#[derive(Debug)]
struct World(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    random: u64,
    table: PodTable,
    /// A job is under way in the pod.
    busy: bool,
    /// Whether jobs may fail.
    failing: bool,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            random: seed,
            table: PodTable::Absent,
            busy: false,
            failing: true,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound` (splitmix64).
    fn random(&self, bound: u64) -> u64 {
        let mut inner = self.lock();
        inner.random = inner.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = inner.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    async fn pause(&self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.random(most_ms))).await;
    }

    /// One job in the pod, which takes a while and sometimes fails.
    async fn job<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> Result<T, Failure> {
        let before = std::mem::replace(&mut self.lock().busy, true);
        assert!(!before, "two jobs at once in one pod");
        self.pause(300).await;
        let fails = self.random(10) == 0 && self.lock().failing;
        let done = if fails {
            Err(Failure::new(Reason::RulesRejected, "not now"))
        } else {
            Ok(act(&mut self.lock()))
        };
        self.pause(50).await;
        self.lock().busy = false;
        done
    }
}

#[async_trait::async_trait]
impl Redirection for World {
    async fn look(&self, _: &Netns) -> Result<PodTable, Failure> {
        self.job(|inner| inner.table).await
    }

    async fn make_listeners(&self, _: &Netns) -> Result<Listeners, Failure> {
        self.job(|_| Listeners::anywhere()).await
    }

    async fn apply(&self, _: &Netns) -> Result<Arc<InForce>, Failure> {
        self.job(|inner| inner.table = PodTable::Redirecting).await?;
        Ok(Arc::new(InForce::default()))
    }

    async fn missing(&self, _: &Netns, _: Arc<InForce>) -> Result<Vec<&'static str>, Failure> {
        self.job(|inner| match inner.table {
            PodTable::Redirecting => vec![],
            _ => vec!["table"],
        })
        .await
    }

    async fn watch(&self, _: &Netns) -> Option<Changes> {
        None
    }

    async fn drain(&self, _: &Netns) -> Result<(), Failure> {
        self.job(|inner| {
            if inner.table == PodTable::Redirecting {
                inner.table = PodTable::Draining;
            }
        })
        .await
    }

    async fn waiting(&self, _: &Netns) -> Result<u64, Failure> {
        self.pause(10).await;
        Ok(0)
    }

    async fn undelivered(&self, _: &Netns) -> Result<usize, Failure> {
        self.pause(10).await;
        Ok(0)
    }

    async fn remove(&self, _: &Netns) -> Result<(), Failure> {
        self.job(|inner| inner.table = PodTable::Absent).await
    }
}

#[derive(Debug)]
struct SlowRuntime(Arc<World>);

#[async_trait::async_trait]
impl Runtime for SlowRuntime {
    async fn sandbox(&self, _: &str) -> Result<Option<Sandbox>, RuntimeError> {
        self.0.pause(200).await;
        Ok(Some(Sandbox {
            id: "sandbox".to_owned(),
            netns_paths: vec!["/proc/self/ns/net".into()],
        }))
    }

    async fn is_ztunnel(&self, _: i32) -> Result<bool, RuntimeError> {
        Ok(true)
    }
}

/// A ztunnel that acknowledges late; it goes with the returned token.
fn connect(world: &Arc<World>, handle: &Handle, id: u64) -> CancellationToken {
    let (id, gone) = (super::super::SessionId(id), CancellationToken::new());
    let (outbox, mut messages) = mpsc::unbounded_channel();
    handle.ztunnel(FromSession::Ready {
        id,
        revision: String::new(),
        outbox,
        held: vec![],
    });
    let (world, handle, ending) = (Arc::clone(world), handle.clone(), gone.clone());
    tokio::spawn(async move {
        let serve = async {
            while let Some(outgoing) = messages.recv().await {
                let (ToZtunnel::AddPod(AddPod { sequence, .. })
                | ToZtunnel::RemovePod(RemovePod { sequence, .. })) = outgoing.message
                else {
                    continue;
                };
                world.pause(100).await;
                handle.ztunnel(FromSession::Ack(
                    id,
                    Ack {
                        sequence,
                        error: String::new(),
                    },
                    None,
                ));
            }
        };
        ending.run_until_cancelled(serve).await;
        handle.ztunnel(FromSession::Gone(id));
    });
    gone
}

fn settings(world: &Arc<World>) -> Settings {
    Settings {
        runtime: Arc::new(SlowRuntime(Arc::clone(world))),
        netns: NetnsRunner::new(1),
        host_netns_inode: 0,
        trust_domain: "cluster.local".to_owned(),
        probes: Arc::new(Probes::disabled()),
        reports: Reports::default(),
        snapshot: watch::Sender::new(Arc::default()),
        leaving: watch::Sender::new(Leaving::No),
        told: watch::Sender::new(false),
        metrics: Metrics::new().expect("metrics"),
    }
}

fn record(capture: bool) -> ControlEvent {
    ControlEvent::Pods(vec![PodCapture {
        uid: POD.to_owned(),
        capture,
        ..Default::default()
    }])
}

/// A manager at work.
struct Running {
    reports: Reports,
    handle: Handle,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

/// One that the control plane has told to capture the pod.
fn start(world: &Arc<World>) -> Running {
    let settings = settings(world);
    let reports = settings.reports.clone();
    let (mut manager, handle) = Manager::new(settings, None);
    manager.redirection = Arc::clone(world) as Arc<dyn Redirection>;
    let stop = CancellationToken::new();
    let running = tokio::spawn(manager.run(stop.clone()));
    handle.control(ControlEvent::Connected(true));
    handle.control(record(true));
    handle.control(ControlEvent::Synced {
        pods: [POD.to_owned()].into(),
        namespaces: BTreeSet::new(),
    });
    Running {
        reports,
        handle,
        stop,
        running,
    }
}

async fn live(seed: u64) {
    let world = World::new(seed);
    let Running {
        reports,
        handle,
        stop,
        running,
    } = start(&world);
    let mut ztunnel = connect(&world, &handle, 0);
    let mut wanted = true;
    for step in 1..25 {
        world.pause(3000).await;
        match world.random(8) {
            0 => {
                ztunnel.cancel();
                ztunnel = connect(&world, &handle, step);
            }
            1 => handle.reported(POD.to_owned(), CaptureState::Releasing.into()),
            // Something in the pod flushes its rules.
            2 => world.lock().table = PodTable::Absent,
            _ => {
                wanted = world.random(2) == 0;
                handle.control(record(wanted));
            }
        }
    }
    world.lock().failing = false;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let report = reports
        .subscribe()
        .borrow()
        .pods
        .get(POD)
        .map(|(_, report)| report.state());
    let found = (report.unwrap_or(CaptureState::Released), world.lock().table);
    let expected = if wanted {
        (CaptureState::Captured, PodTable::Redirecting)
    } else {
        (CaptureState::Released, PodTable::Absent)
    };
    assert_eq!(found, expected, "seed {seed}");
    stop.cancel();
    running.await.expect("the manager ends");
}

/// Captures, releases, lost rules, ztunnels that come and go, jobs that fail and answers that come late, in random orders.
#[test]
fn rules_end_up_as_reported_whatever_the_order() {
    for seed in 0..150 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(live(seed));
    }
}

/// A ztunnel takes the pod, says nothing, and goes; what is left of its time is not the next one's.
#[tokio::test(start_paused = true)]
async fn a_later_hand_over_has_a_time_of_its_own() {
    let world = World::new(1);
    world.lock().failing = false;
    let Running {
        reports,
        handle,
        stop,
        running,
    } = start(&world);
    let take = async |id| {
        let (outbox, mut messages) = mpsc::unbounded_channel();
        handle.ztunnel(FromSession::Ready {
            id: SessionId(id),
            revision: String::new(),
            outbox,
            held: vec![],
        });
        loop {
            if let ToZtunnel::AddPod(add) = messages.recv().await.expect("the pod").message {
                return (add.sequence, messages);
            }
        }
    };
    let (_, silent) = take(0).await;
    tokio::time::sleep(ACK_TIME - Duration::from_secs(1)).await;
    handle.ztunnel(FromSession::Gone(SessionId(0)));
    drop(silent);
    let (mut sequence, mut messages) = take(1).await;
    // The first one's time ends.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while let Ok(outgoing) = messages.try_recv() {
        if let ToZtunnel::AddPod(add) = outgoing.message {
            sequence = add.sequence;
        }
    }
    let state = || reports.subscribe().borrow().pods[POD].1.state();
    assert_eq!(state(), CaptureState::Pending);
    let ack = Ack {
        sequence,
        error: String::new(),
    };
    handle.ztunnel(FromSession::Ack(SessionId(1), ack, None));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(), CaptureState::Captured);
    stop.cancel();
    running.await.expect("the manager ends");
}
