//! Common parts of the two processes: a client, an index that the watches fill, health, metrics, and shutdown.

mod reconcile;
mod serve;

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ambit_operator::control::Directory;
use ambit_operator::index::{Config, SharedIndex};
use ambit_operator::reconcile::{Health, Objects, Requests, bounded, watch as watch_cluster};
use ambit_runtime::{Answer, Signals, is_metrics_path, render_metrics};
use ambit_wire::names;
use anyhow::Context;
use kube::Client;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use reconcile::{Options as ReconcileOptions, reconcile};
pub(crate) use serve::{Options as ServeOptions, serve};

/// Flags of both processes.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The namespace of operator and data plane.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME", default_value = names::OPERATOR)]
    identity: String,
    /// The id of this cluster in names of workloads, and in metrics.
    #[arg(long, env = "AMBIT_CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// The cluster's DNS domain.
    #[arg(long, env = "AMBIT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Where metrics are served.
    #[arg(long, env = "AMBIT_METRICS_ADDRESS", default_value_t = any(names::PORT_METRICS))]
    metrics_address: SocketAddr,
    /// Where readiness is served.
    #[arg(long, env = "AMBIT_READY_ADDRESS", default_value_t = any(names::PORT_READY))]
    ready_address: SocketAddr,
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Named tasks that end together: when one ends, all are told to.
struct Tasks {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop: CancellationToken,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    async fn wait(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let early = !self.stop.is_cancelled();
            self.stop.cancel();
            let failure = match ended {
                Ok((name, Err(error))) => Some(error.context(name)),
                Ok((name, Ok(()))) if early => Some(anyhow::anyhow!("{name} ended unexpectedly")),
                Ok(_) => None,
                Err(error) => Some(error.into()),
            };
            if let (Some(failure), Ok(())) = (failure, &result) {
                result = Err(failure);
            }
        }
        info!("stopped");
        result
    }
}

/// A running process, with liveness and readiness.
struct Process {
    tasks: Tasks,
    stop: CancellationToken,
    registry: Registry,
    client: Client,
    health: Health,
    index: Arc<SharedIndex>,
    /// Why it is not ready, before the initial sync.
    obstacle: watch::Sender<Option<String>>,
}

impl Process {
    /// Starts; not ready while there is an `obstacle`.
    async fn begin(common: &Common, obstacle: &str) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut tasks = Tasks {
            tasks: JoinSet::new(),
            stop: stop.clone(),
        };
        let mut signals = Signals::new()?;
        let told = stop.clone();
        tasks.spawn("signals", async move {
            tokio::select! {
                signal = signals.received() => info!("{signal}: stopping"),
                () = told.cancelled() => {}
            }
            told.cancel();
            Ok(())
        });
        let registry = Registry::new();
        let (requests, health) = (Requests::new(&registry)?, Health::default());
        let client = Client::try_default().await.context("no access to a cluster")?;
        let client = bounded(&client, &requests, &health);
        let index = Arc::new(SharedIndex::new(Config {
            cluster_id: common.cluster_id.clone(),
            cluster_domain: common.cluster_domain.clone(),
            system_namespace: common.namespace.clone(),
        }));
        let process = Self {
            tasks,
            stop,
            registry,
            client,
            health,
            index,
            obstacle: watch::Sender::new(Some(obstacle.to_owned())),
        };
        process.serve_health(common.ready_address).await
    }

    /// Serves liveness and readiness.
    async fn serve_health(mut self, address: SocketAddr) -> anyhow::Result<Self> {
        let ready = listen(address).await?;
        let (index, health, obstacles) = (
            Arc::clone(&self.index),
            self.health.clone(),
            self.obstacle.subscribe(),
        );
        let (stopping, ended) = (self.stop.clone(), self.stop.clone());
        self.tasks.spawn("readiness", async move {
            let answer = move |path: &str| match path {
                "/healthz/live" => Some(Answer::ready(health.stuck().as_deref())),
                "/healthz/ready" if stopping.is_cancelled() => Some(Answer::ready(Some("stopping"))),
                "/healthz/ready" => {
                    let unread = || (!index.is_ready()).then(|| "initial sync is not done".to_owned());
                    let obstacle = obstacles.borrow().clone().or_else(unread);
                    Some(Answer::ready(obstacle.as_deref()))
                }
                _ => None,
            };
            ambit_runtime::serve("readiness", ready, ended, answer).await;
            Ok(())
        });
        Ok(self)
    }

    /// Watches the cluster: the objects of the index, and `objects`.
    fn watch(&mut self, namespace: &str, objects: Option<&Arc<Objects>>) {
        let (client, index, stop) = (self.client.clone(), Arc::clone(&self.index), self.stop.clone());
        let (namespace, objects) = (namespace.to_owned(), objects.cloned());
        self.tasks.spawn("watches", async move {
            watch_cluster(client, &namespace, &index, objects.as_ref(), &stop).await;
            Ok(())
        });
        let (clock, stopped) = (Arc::clone(&self.index), self.stop.clone());
        self.tasks.spawn("index timers", async move {
            clock.run_timers(&stopped).await;
            Ok(())
        });
    }

    /// Serves metrics as `component`, until SIGTERM or until a part fails.
    async fn wait(mut self, component: &'static str, metrics: SocketAddr) -> anyhow::Result<()> {
        let metrics = listen(metrics).await?;
        let (ended, registry) = (self.stop.clone(), self.registry.clone());
        self.tasks.spawn("metrics", async move {
            let answer = move |path: &str| {
                let metrics = || render_metrics(component, &registry, &[]);
                is_metrics_path(path).then(|| Answer::text_or_error(metrics()))
            };
            ambit_runtime::serve("metrics", metrics, ended, answer).await;
            Ok(())
        });
        self.tasks.wait().await
    }
}

/// Listens on an address; on IPv4 if the machine has no IPv6.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
    .with_context(|| format!("cannot listen on {address}"))
}
