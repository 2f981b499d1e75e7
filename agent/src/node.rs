//! The whole agent: starts its components, and cleans the node up when the mesh is removed.

use crate::broker::{Broker, ZtunnelPeers};
use crate::capture::{Leaving, Manager, Settings};
use crate::cni::{CniServer, Installation, Installer};
use crate::config::Config;
use crate::control::{Reporter, Updates, subscriptions};
use crate::http;
use crate::metrics::Metrics;
use crate::netns::{Netns, NetnsRunner};
use crate::probes::Probes;
use crate::report::Reports;
use crate::runtime::{CriRuntime, Runtime};
use crate::snapshot::{Snapshot, keep_snapshot};
use ambit_wire::agent::NodeState;
use ambit_wire::discovery::Node;
use ambit_wire::names::PROXY_UID;
use ambit_wire::xds::Client;
use ambit_wire::{TokenFile, control_channel};
use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The time for tasks to end after a signal, within the grace period of the pod. Tasks that remain are aborted.
const SHUTDOWN_TIME: Duration = Duration::from_secs(15);
/// How long a connected agent still receives updates after a signal, since the removal of the mesh may arrive at the
/// same moment.
const LAST_WORD: Duration = Duration::from_secs(2);
const UNINSTALL_RETRY: Duration = Duration::from_secs(2);

/// Runs the agent until `stop`. Pods stay captured, and rules and plugin stay in place: an upgrade or a restart
/// releases nothing. Only if the control plane has reported that the mesh is being removed, all of them are removed
/// before the agent ends.
///
/// # Errors
/// When a socket or a directory cannot be created, or the address of the control plane is malformed.
pub async fn run(config: Config, signal: CancellationToken) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    // A pod needs eight descriptors, so the soft limit of 1024 is too low.
    ambit_runtime::raise_descriptor_limit();
    std::fs::create_dir_all(&config.state)
        .with_context(|| format!("state directory {}", config.state.display()))?;
    let snapshot = Snapshot::load(&snapshot_path(&config));
    tracing::info!(
        node = config.pod.node_name,
        pod = config.pod.pod_name,
        known_pods = snapshot.as_ref().map(|snapshot| snapshot.pods.len()),
        "agent starts"
    );

    let metrics = Metrics::new()?;
    let reports = Reports::default();
    let probes = Arc::new(Probes::default());
    let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new(&config.cri_socket, &config.pod_namespace));
    let snapshots = watch::Sender::new(Arc::new(snapshot.clone().unwrap_or_default()));
    let (leaving, is_leaving) = watch::channel(Leaving::No);
    let (told, is_told) = watch::channel(false);
    let settings = Settings {
        runtime: Arc::clone(&runtime),
        netns: NetnsRunner::new(config.netns_threads.into()),
        host_netns_inode: Netns::current()?.inode(),
        trust_domain: config.trust_domain.clone(),
        probes: Arc::clone(&probes),
        reports: reports.clone(),
        snapshot: snapshots.clone(),
        leaving,
        told,
        metrics: metrics.clone(),
    };
    let (manager, handle) = Manager::new(settings, snapshot.as_ref());

    let peers = Arc::new(ZtunnelPeers::new(runtime));
    let broker = Broker::bind(
        &config.broker_socket,
        PROXY_UID,
        peers,
        handle.clone(),
        metrics.clone(),
        config.revision.clone(),
    )
    .with_context(|| format!("broker socket {}", config.broker_socket.display()))?;
    let cni = CniServer::bind(&config.cni_socket, handle.clone())
        .with_context(|| format!("CNI socket {}", config.cni_socket.display()))?;
    let web = TcpListener::bind(config.address)
        .await
        .with_context(|| format!("address {}", config.address))?;
    let channel = control_channel(&config.control.url, &config.control.root_cert)?;
    let token = TokenFile::new(&config.control.token);
    let updates = Updates::new(handle.clone());
    let mut client = Client::new(
        channel.clone(),
        token.clone(),
        xds_node(&config),
        subscriptions(),
        updates,
    );
    client.register(metrics.registry())?;
    let mut connection = client.state();
    let reporter = Reporter::new(channel, token, reports.clone(), handle.clone());
    let installer = Arc::new(Installer::new(installation(&config), metrics.clone()));
    let (obstacle, obstacles) = watch::channel(Some(
        "the CNI plugin is not installed yet: it is installed after the initial sync with the control plane",
    ));

    let mut tasks = JoinSet::new();
    tasks.spawn(named(
        "snapshot",
        keep_snapshot(snapshot_path(&config), snapshots.subscribe()),
    ));
    drop(snapshots);
    tasks.spawn(named("manager", manager.run(stop.clone())));
    tasks.spawn(named("broker", broker.run(stop.clone())));
    tasks.spawn(named("cni", cni.run(stop.clone())));
    tasks.spawn(named("http", http::serve(web, metrics, obstacles, stop.clone())));
    tasks.spawn(named("control plane", client.run(stop.clone())));
    tasks.spawn(named("reports", reporter.run(stop.clone())));
    let presence = Presence {
        installer,
        probes,
        reports,
        leaving: is_leaving.clone(),
        told: is_told,
        obstacle,
    };
    tasks.spawn(named("node", presence.keep(stop.clone())));
    let mut last_word = (is_leaving.clone(), connection.clone());
    let ending = stop.clone();
    tasks.spawn(named("signal", async move {
        ending.run_until_cancelled(signal.cancelled()).await;
        let (leaving, connection) = &mut last_word;
        if connection.borrow().is_connected() && !ending.is_cancelled() {
            let removed = leaving.wait_for(|leaving| *leaving != Leaving::No);
            _ = tokio::time::timeout(LAST_WORD, removed).await;
        }
        ending.cancel();
    }));
    let watched = stop.clone();
    tasks.spawn(named("connection", async move {
        loop {
            let connected = connection.borrow_and_update().is_connected();
            handle.control(crate::capture::ControlEvent::Connected(connected));
            tokio::select! {
                () = watched.cancelled() => return,
                changed = connection.changed() => if changed.is_err() { return },
            }
        }
    }));
    finish(tasks, stop, &is_leaving, &config).await
}

/// Runs the tasks to their end. If the node was cleaned up by then, removes the agent's own files, too.
async fn finish(
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
    leaving: &watch::Receiver<Leaving>,
    config: &Config,
) -> anyhow::Result<()> {
    let outcome = supervise(tasks, stop).await;
    if *leaving.borrow() == Leaving::Released {
        remove_own_files(config);
    }
    outcome
}

/// A task that ends early ends the agent: the kubelet then restarts it as a whole.
async fn supervise(mut tasks: JoinSet<&'static str>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    tokio::select! {
        () = stop.cancelled() => tracing::info!("agent stops; captured pods stay as they are"),
        Some(ended) = tasks.join_next() => {
            outcome = Err(match ended {
                Ok(name) => anyhow::anyhow!("the task {name:?} ended unexpectedly"),
                Err(e) => anyhow::anyhow!("a task panicked: {e}"),
            });
            stop.cancel();
        }
    }
    let drained = tokio::time::timeout(SHUTDOWN_TIME, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        tracing::warn!(
            "tasks did not end within {}s and are aborted",
            SHUTDOWN_TIME.as_secs()
        );
    }
    outcome
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// The agent's changes to the node itself: plugin and probe rules.
struct Presence {
    installer: Arc<Installer>,
    probes: Arc<Probes>,
    reports: Reports,
    leaving: watch::Receiver<Leaving>,
    told: watch::Receiver<bool>,
    obstacle: watch::Sender<Option<&'static str>>,
}

impl Presence {
    /// Keeps both in place while the mesh exists. Removes both after all pods are released, and restores them when the
    /// mesh returns. If the agent has to end while the mesh is being removed, it removes them after the redirections.
    async fn keep(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if *self.leaving.borrow_and_update() == Leaving::Released {
                self.leave(&stop).await;
            } else {
                self.stay(&stop).await;
            }
        }
        if *self.leaving.borrow() == Leaving::No {
            return;
        }
        // An error means that the manager has ended. The manager reports what it could not release, and no other agent
        // will serve the plugin.
        _ = self
            .leaving
            .wait_for(|leaving| *leaving == Leaving::Released)
            .await;
        if let Err(e) = self.undo().await {
            tracing::error!(error = format!("{e:#}"), "the node could not be restored");
        }
    }

    async fn stay(&mut self, stop: &CancellationToken) {
        let staying = stop.child_token();
        let mut installed = self.installer.installed();
        self.probes.restore();
        let mut tasks = JoinSet::new();
        let (installer, probes) = (Arc::clone(&self.installer), Arc::clone(&self.probes));
        let of_probes = staying.clone();
        tasks.spawn(keep_plugin(installer, self.told.clone(), staying.clone()));
        tasks.spawn(async move { probes.keep(of_probes).await });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = becomes(&mut self.leaving, |leaving| leaving == Leaving::Released) => break,
                changed = installed.changed() => {
                    let there = changed.is_ok() && *installed.borrow_and_update();
                    self.obstacle.send_replace(if there { None } else { Some("the CNI plugin is not installed") });
                    if there {
                        self.reports.set_node(NodeState::Installed);
                    }
                }
            }
        }
        staying.cancel();
        while tasks.join_next().await.is_some() {}
    }

    async fn leave(&mut self, stop: &CancellationToken) {
        while let Err(e) = self.undo().await {
            tracing::warn!(
                error = format!("{e:#}"),
                "the node could not be restored; trying again"
            );
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UNINSTALL_RETRY) => {}
            }
        }
        tracing::info!("the mesh is removed from this node, except for this agent");
        self.reports.set_node(NodeState::Uninstalled);
        self.obstacle.send_replace(None);
        tokio::select! {
            () = stop.cancelled() => {}
            () = becomes(&mut self.leaving, |leaving| leaving != Leaving::Released) => {}
        }
    }

    async fn undo(&self) -> anyhow::Result<()> {
        self.installer.uninstall().await?;
        self.probes.remove().await?;
        Ok(())
    }
}

/// Keeps the plugin in place after pods and namespaces are known. Before that, the plugin could only delay every pod of
/// the node, as the plugin of an earlier agent does.
async fn keep_plugin(installer: Arc<Installer>, mut told: watch::Receiver<bool>, stop: CancellationToken) {
    let told = stop.run_until_cancelled(becomes(&mut told, |told| told)).await;
    if told.is_some() {
        installer.keep(stop).await;
    }
}

/// Never resolves after the manager has ended, since the agent is then ending.
async fn becomes<T: Copy>(receiver: &mut watch::Receiver<T>, wanted: impl Fn(T) -> bool) {
    if receiver.wait_for(|value| wanted(*value)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// After an uninstallation, removes the agent's own files. The sockets have no use without the agent. This runs after
/// every task has ended, as one of them writes the snapshot.
fn remove_own_files(config: &Config) {
    for file in [&config.broker_socket, &config.cni_socket, &snapshot_path(config)] {
        _ = std::fs::remove_file(file);
    }
    for directory in [config.broker_socket.parent(), config.cni_socket.parent()]
        .into_iter()
        .flatten()
    {
        _ = std::fs::remove_dir(directory);
    }
}

fn snapshot_path(config: &Config) -> PathBuf {
    config.state.join("snapshot.json")
}

fn installation(config: &Config) -> Installation {
    Installation {
        binaries: config.cni_bin.clone(),
        configs: config.cni_conf.clone(),
        backup: config.state.join("cni-original.json"),
        exempt_namespaces: config.exempt_namespaces.clone(),
        socket: config.cni_socket.clone(),
    }
}

/// Only for the logs of the control plane, which takes the identity of the caller from its token.
fn xds_node(config: &Config) -> Node {
    let id = format!("agent~{}~{}", config.pod_namespace, config.pod.pod_name);
    let metadata: &[(&str, &str)] = &[
        ("NODE_NAME", &config.pod.node_name),
        ("CLUSTER_ID", &config.control.cluster_id),
    ];
    Node {
        cluster: "ambit-agent".to_owned(),
        ..Node::new(id, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[tokio::test]
    async fn the_plugin_comes_to_a_node_once_there_is_something_to_decide_by() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["bin", "net.d", "state"] {
            std::fs::create_dir(path(name)).expect("a directory");
        }
        let plugin = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
        std::fs::write(path("net.d").join("10-bridge.conflist"), plugin).expect("written");
        let installation = Installation {
            binaries: path("bin"),
            configs: path("net.d"),
            backup: path("state").join("cni-original.json"),
            exempt_namespaces: vec![],
            socket: path("cni.sock"),
        };
        let metrics = Metrics::new().expect("metrics");
        let installer = Arc::new(Installer::new(installation, metrics));
        let told = watch::Sender::new(false);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_plugin(
            Arc::clone(&installer),
            told.subscribe(),
            stop.clone(),
        ));
        let mut installed = installer.installed();
        // It takes a few milliseconds.
        let early = installed.wait_for(|there| *there);
        let early = tokio::time::timeout(Duration::from_millis(300), early)
            .await
            .is_ok();
        assert!(!early, "it is there before anything is known");
        told.send_replace(true);
        installed.wait_for(|there| *there).await.expect("installed");
        stop.cancel();
        task.await.expect("it ends");
    }

    #[tokio::test]
    async fn what_is_written_last_goes_with_an_uninstalled_agent_and_stays_with_another() {
        for uninstalled in [true, false] {
            let directory = tempfile::tempdir().expect("a directory");
            let state = directory.path().display();
            let config = Config::try_parse_from([
                "ambit-agent".to_owned(),
                format!("--state={state}"),
                format!("--broker-socket={state}/run/broker.sock"),
                format!("--cni-socket={state}/run/cni.sock"),
            ])
            .expect("a configuration");
            let leaving = watch::Sender::new(if uninstalled {
                Leaving::Released
            } else {
                Leaving::No
            });
            let stop = CancellationToken::new();
            let mut tasks = JoinSet::new();
            let (stopped, snapshot) = (stop.clone(), snapshot_path(&config));
            tasks.spawn(named("node", stop.clone().cancelled_owned()));
            tasks.spawn(named("snapshot", async move {
                stopped.cancelled().await;
                // The others have ended by then, as a disk is slow.
                tokio::task::yield_now().await;
                std::fs::write(snapshot, "{}").expect("written");
            }));
            stop.cancel();
            finish(tasks, stop, &leaving.subscribe(), &config)
                .await
                .expect("the tasks end as they are told");
            assert_eq!(snapshot_path(&config).exists(), !uninstalled);
        }
    }
}
