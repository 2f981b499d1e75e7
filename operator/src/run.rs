//! Puts the operator together.

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_operator::control::{
    CertificateAuthority, ControlPlane, ControlPlaneParts, Directory, KubeTokenReviewer, LoadTable,
    load_or_create, service_names,
};
use ambit_operator::index::{Config, Key, SharedIndex};
use ambit_operator::reconcile::{
    Health, ImageSettings, Lease, Objects, Recorder, Requests, Settings, Writer, bounded,
    watch as watch_cluster,
};
use ambit_runtime::{Answer, Signals, render_metrics};
use ambit_wire::names;
use anyhow::Context;
use kube::Client;
use prometheus::{IntGauge, Registry};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pause before the certificate authority is asked for again.
const RETRY: Duration = Duration::from_secs(2);

/// What `run` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The namespace that the operator and the data plane run in.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME", default_value = "ambit-operator")]
    identity: String,
    #[command(flatten)]
    images: ImageSettings,
    /// The id of this cluster in workloads' names and metrics.
    #[arg(long, env = "AMBIT_CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// What the names of Services end in.
    #[arg(long, env = "AMBIT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Where the control plane listens.
    #[arg(long, env = "AMBIT_CONTROL_ADDRESS", default_value_t = any(names::PORT_CONTROL))]
    control_address: SocketAddr,
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

/// Named tasks that end together: when one ends by itself, all are told to.
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
                Ok((name, Ok(()))) if early => Some(anyhow::anyhow!("{name} ended by itself")),
                Ok(_) => None,
                Err(error) => Some(error.into()),
            };
            if let (Some(failure), Ok(())) = (failure, &result) {
                result = Err(failure);
            }
        }
        result
    }
}

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn run(options: Options, log_format: &str) -> anyhow::Result<()> {
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
        cluster_id: options.cluster_id.clone(),
        cluster_domain: options.cluster_domain.clone(),
        system_namespace: options.namespace.clone(),
    }));
    // What this replica waits for shows from the beginning.
    let (obstacle, obstacles) =
        watch::channel(Some("the certificate authority has yet to be read".to_owned()));
    serve_health(
        &mut tasks,
        options.ready_address,
        &index,
        health.clone(),
        obstacles,
    )
    .await?;
    let Some(authority) = stop
        .run_until_cancelled(authority(&client, &options.namespace, &obstacle))
        .await
    else {
        return tasks.wait().await;
    };
    obstacle.send_replace(None);
    let authority = Arc::new(authority);
    let settings = Settings {
        namespace: options.namespace.clone(),
        identity: options.identity.clone(),
        images: options.images.clone(),
        cluster_id: options.cluster_id,
        cluster_domain: options.cluster_domain,
        log_format: log_format.to_owned(),
        root_certificate: authority.root_pem().to_owned(),
    };
    let objects = Arc::new(Objects::default());

    let watcher = (
        client.clone(),
        options.namespace.clone(),
        Arc::clone(&index),
        Arc::clone(&objects),
        stop.clone(),
    );
    tasks.spawn("watches", async move {
        let (client, namespace, index, objects, stop) = watcher;
        watch_cluster(client, &namespace, &index, &objects, &stop).await;
        Ok(())
    });

    let (clock, stopped) = (Arc::clone(&index), stop.clone());
    tasks.spawn("index timers", async move {
        clock.run_timers(&stopped).await;
        Ok(())
    });

    let (lease, leadership) = Lease::new(
        client.clone(),
        &options.namespace,
        "ambit-operator",
        &options.identity,
    );
    let (read, held) = (Arc::clone(&index), stop.clone());
    let own = Key::new(options.namespace.clone(), options.identity.clone());
    tasks.spawn("lease", async move {
        // A replica that cannot read everything (a CRD is missing, or a right) would write nothing as the leader.
        let may = || !read.read(|index| index.is_outdated(&own.namespace, &own.name));
        lease.run(readiness(&read), may, held).await;
        Ok(())
    });
    export_leadership(&mut tasks, leadership.clone(), &registry)?;

    let loads = Arc::new(LoadTable::new(&registry)?);
    let writer = Writer::new(
        client.clone(),
        settings.clone(),
        Arc::clone(&index),
        Arc::clone(&objects),
        leadership.clone(),
        Arc::clone(&loads),
        health.clone(),
    );
    let writing = stop.clone();
    tasks.spawn("writer", async move {
        writer.run(writing).await;
        Ok(())
    });

    let parts = ControlPlaneParts {
        system_namespace: options.namespace.clone(),
        serving_names: service_names(&options.namespace, &settings.cluster_domain),
        authority,
        reviewer: Arc::new(KubeTokenReviewer::new(client.clone())),
        directory: index.clone(),
        sources: index.clone(),
        sink: Arc::new(Recorder::new(
            client,
            Arc::clone(&index),
            &options.namespace,
            &options.identity,
        )),
        loads,
        leadership,
    };
    let control = ControlPlane::new(parts, &registry, stop.clone())?;
    let listener = listen(options.control_address).await?;
    tasks.spawn("control plane", async move { Ok(control.run(listener).await?) });

    let metrics = listen(options.metrics_address).await?;
    let ended = stop.clone();
    tasks.spawn("metrics", async move {
        let answer = move |path: &str| match path {
            "/metrics" => Some(Answer::text_or_error(render_metrics(&registry, &[]))),
            _ => None,
        };
        ambit_runtime::serve("metrics", metrics, ended, answer).await;
        Ok(())
    });
    let result = tasks.wait().await;
    info!("stopped");
    result
}

/// Serves liveness and readiness.
async fn serve_health(
    tasks: &mut Tasks,
    address: SocketAddr,
    index: &Arc<SharedIndex>,
    health: Health,
    obstacles: watch::Receiver<Option<String>>,
) -> anyhow::Result<()> {
    let ready = listen(address).await?;
    let (index, stopping, ended) = (Arc::clone(index), tasks.stop.clone(), tasks.stop.clone());
    tasks.spawn("readiness", async move {
        let answer = move |path: &str| match path {
            "/healthz/live" => Some(Answer::ready(health.stuck().as_deref())),
            "/healthz/ready" if stopping.is_cancelled() => Some(Answer::ready(Some("stopping"))),
            "/healthz/ready" => {
                let unread =
                    || (!index.is_ready()).then(|| "the cluster's objects have yet to be read".to_owned());
                let obstacle = obstacles.borrow().clone().or_else(unread);
                Some(Answer::ready(obstacle.as_deref()))
            }
            _ => None,
        };
        ambit_runtime::serve("readiness", ready, ended, answer).await;
        Ok(())
    });
    Ok(())
}

/// Until the cluster's objects have been read.
async fn readiness(index: &SharedIndex) {
    let mut changed = index.subscribe();
    while !index.is_ready() {
        // The index lives as long as this is waited for.
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The certificate authority, however long the API server takes to answer.
async fn authority(
    client: &Client,
    namespace: &str,
    obstacle: &watch::Sender<Option<String>>,
) -> CertificateAuthority {
    loop {
        match load_or_create(client.clone(), namespace).await {
            Ok(authority) => return authority,
            Err(error) => {
                warn!(%error, "no certificate authority; will try again");
                obstacle.send_replace(Some(format!("no certificate authority: {error}")));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn export_leadership(
    tasks: &mut Tasks,
    mut leadership: ambit_operator::reconcile::Leadership,
    registry: &Registry,
) -> anyhow::Result<()> {
    let gauge = IntGauge::new("ambit_operator_leader", "1 on the replica that holds the lease")?;
    registry.register(Box::new(gauge.clone()))?;
    let stop = tasks.stop.clone();
    tasks.spawn("leadership metric", async move {
        loop {
            gauge.set(i64::from(*leadership.borrow_and_update()));
            match stop.run_until_cancelled(leadership.changed()).await {
                Some(Ok(())) => {}
                // The lease's task ends with this one.
                Some(Err(_)) => stop.cancelled().await,
                None => return Ok(()),
            }
        }
    });
    Ok(())
}

/// Listens on an address; on IPv4 where the machine has no IPv6.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
    .with_context(|| format!("cannot listen on {address}"))
}
