//! An agent without a cluster: pods are network namespaces, the ztunnel is a few lines, the operator is the test.

use ambit_agent::broker::{Broker, PeerCheck, Refusal};
use ambit_agent::capture::{ControlEvent, Handle, Leaving, Manager, Settings};
use ambit_agent::metrics::Metrics;
use ambit_agent::netns::{Netns, NetnsRunner};
use ambit_agent::probes::Probes;
use ambit_agent::report::Reports;
use ambit_agent::runtime::{Runtime, RuntimeError, Sandbox};
use ambit_agent::snapshot::Snapshot;
use ambit_wire::agent::{CaptureState, PodCapture, PodReport};
use ambit_wire::broker_channel::{Channel, PeerCredentials};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it, for as long as this lives.
pub(crate) struct Pod {
    pub(crate) uid: String,
    jobs: mpsc::Sender<Job>,
    pub(crate) netns: Netns,
    pub(crate) path: PathBuf,
}

impl Pod {
    /// A pod with a loopback device and a route to the world that leads nowhere.
    pub(crate) fn new(uid: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let set_up = [
                "link set lo up",
                "address add 10.0.1.7/32 dev lo",
                "route add 10.0.0.0/8 dev lo",
            ];
            for arguments in set_up {
                let status = std::process::Command::new("ip")
                    .args(arguments.split(' '))
                    .status();
                assert!(status.expect("ip runs").success());
            }
            let path = format!(
                "/proc/{}/task/{}/ns/net",
                std::process::id(),
                rustix::thread::gettid()
            );
            ready.send(PathBuf::from(path)).expect("awaited");
            queue.into_iter().for_each(|job| job());
        });
        let path = is_ready.recv().expect("the thread starts");
        Self {
            uid: uid.to_owned(),
            jobs,
            netns: Netns::open(&path).expect("opened"),
            path,
        }
    }

    /// Runs `job` in the pod.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.jobs
            .send(Box::new(move || _ = send.send(job())))
            .expect("the pod lives");
        receive.recv().expect("the job ends")
    }

    pub(crate) fn ruleset(&self) -> String {
        self.output("nft", &["list", "ruleset"])
    }

    pub(crate) fn output(&self, program: &'static str, arguments: &'static [&'static str]) -> String {
        let output = self.run(move || std::process::Command::new(program).args(arguments).output());
        String::from_utf8(output.expect("runs").stdout).expect("UTF-8")
    }

    /// Connects as the application does, to an address outside.
    pub(crate) fn connect(&self) -> std::io::Result<std::net::TcpStream> {
        let address = "10.1.2.3:80".parse().expect("an address");
        let stream =
            self.run(move || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub(crate) fn record(&self, capture: bool) -> PodCapture {
        PodCapture {
            uid: self.uid.clone(),
            name: "web".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
            capture,
            addresses: vec!["10.0.1.7".into()],
            ..Default::default()
        }
    }
}

/// A container runtime that knows these sandboxes, by pod UID.
#[derive(Debug, Default)]
pub(crate) struct Sandboxes(Mutex<BTreeMap<String, Sandbox>>);

impl Sandboxes {
    pub(crate) fn add(&self, pod: &Pod) {
        let sandbox = Sandbox {
            id: format!("sandbox-{}", pod.uid),
            netns_paths: vec![pod.path.clone()],
        };
        self.0
            .lock()
            .expect("unpoisoned")
            .insert(pod.uid.clone(), sandbox);
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.0.lock().expect("unpoisoned").remove(uid);
    }
}

#[async_trait::async_trait]
impl Runtime for Sandboxes {
    async fn sandbox(&self, uid: &str) -> Result<Option<Sandbox>, RuntimeError> {
        Ok(self.0.lock().expect("unpoisoned").get(uid).cloned())
    }

    async fn is_ztunnel(&self, _: i32) -> Result<bool, RuntimeError> {
        Ok(true)
    }
}

/// Lets anybody in: the rule in force is tested by itself.
#[derive(Debug)]
struct AnyPeer;

#[async_trait::async_trait]
impl PeerCheck for AnyPeer {
    async fn check(&self, _: &Channel, _: PeerCredentials) -> Result<(), Refusal> {
        Ok(())
    }
}

/// What outlives an agent.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    pub(crate) sandboxes: Arc<Sandboxes>,
}

impl Node {
    pub(crate) fn new(pods: &[&Pod]) -> Self {
        let sandboxes = Sandboxes::default();
        pods.iter().for_each(|pod| sandboxes.add(pod));
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            sandboxes: Arc::new(sandboxes),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("broker").join("ztunnel.sock")
    }

    /// Starts an agent with what was on disk.
    pub(crate) fn agent(&self, snapshot: &Snapshot) -> Agent {
        self.start(Some(snapshot))
    }

    /// Starts an agent where none was before, or whose snapshot cannot be read.
    pub(crate) fn first_agent(&self) -> Agent {
        self.start(None)
    }

    fn start(&self, snapshot: Option<&Snapshot>) -> Agent {
        let metrics = Metrics::new().expect("metrics");
        let reports = Reports::default();
        let snapshots = watch::Sender::new(Arc::new(snapshot.cloned().unwrap_or_default()));
        let (leaving, is_leaving) = watch::channel(Leaving::No);
        let settings = Settings {
            runtime: Arc::clone(&self.sandboxes) as Arc<dyn Runtime>,
            netns: NetnsRunner::new(4),
            host_netns_inode: Netns::current().expect("a namespace").inode(),
            trust_domain: "cluster.local".into(),
            probes: Arc::new(Probes::disabled()),
            reports: reports.clone(),
            snapshot: snapshots.clone(),
            leaving,
            told: watch::Sender::new(false),
            metrics: metrics.clone(),
        };
        let (manager, handle) = Manager::new(settings, snapshot);
        let gid = rustix::process::getgid().as_raw();
        let broker = Broker::bind(
            &self.socket(),
            gid,
            Arc::new(AnyPeer),
            handle.clone(),
            metrics,
            "test".into(),
        );
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.run(stop.clone()));
        tasks.spawn(broker.expect("bound").run(stop.clone()));
        Agent {
            handle,
            reports,
            leaving: is_leaving,
            snapshots,
            stop,
            tasks,
        }
    }
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) handle: Handle,
    pub(crate) reports: Reports,
    pub(crate) leaving: watch::Receiver<Leaving>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    /// The operator's word on all pods of the node.
    pub(crate) fn tell(&self, records: Vec<PodCapture>) {
        let pods = records.iter().map(|record| record.uid.clone()).collect();
        self.handle.control(ControlEvent::Connected(true));
        self.handle.control(ControlEvent::Pods(records));
        self.handle.control(ControlEvent::Synced {
            pods,
            namespaces: ["shop".to_owned()].into(),
        });
    }

    /// Waits for a state of the pod.
    pub(crate) async fn reaches(&self, pod: &Pod, state: CaptureState) -> PodReport {
        self.reports_that(pod, |report| report.state() == state).await
    }

    pub(crate) async fn reports_that(&self, pod: &Pod, wanted: impl Fn(&PodReport) -> bool) -> PodReport {
        let mut reports = self.reports.subscribe();
        let found =
            reports.wait_for(|state| state.pods.get(&pod.uid).is_some_and(|(_, report)| wanted(report)));
        let found = tokio::time::timeout(PATIENCE, found).await;
        let state = match found {
            Ok(state) => state.expect("the agent runs").clone(),
            Err(_) => panic!(
                "the pod's report is {:?}",
                self.reports.subscribe().borrow().pods.get(&pod.uid)
            ),
        };
        state.pods[&pod.uid].1.clone()
    }

    /// Waits for what is to be on disk.
    pub(crate) async fn keeps(&self, wanted: impl Fn(&Snapshot) -> bool) {
        let mut snapshots = self.snapshots.subscribe();
        let kept = tokio::time::timeout(PATIENCE, snapshots.wait_for(|snapshot| wanted(snapshot))).await;
        if kept.is_err() {
            panic!("the snapshot is {:?}", self.snapshots.borrow());
        }
    }

    /// Plays the operator that records the pod's release.
    pub(crate) fn record_release(&self, pod: &Pod) {
        self.handle
            .reported(pod.uid.clone(), CaptureState::Releasing.into());
    }

    /// Ends it as a signal does; returns what it left on disk.
    pub(crate) async fn stop(mut self) -> Snapshot {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let snapshot = Arc::clone(&self.snapshots.borrow());
        (*snapshot).clone()
    }
}
