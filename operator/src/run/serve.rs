//! The control plane's process. Of the cluster it writes only the reports of agents, and the mesh's root certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_operator::control::{
    CertificateAuthority, ControlPlane, ControlPlaneParts, KubeTokenReviewer, load_or_create, service_names,
};
use ambit_operator::reconcile::{Recorder, publish_root};
use ambit_wire::names;
use kube::Client;
use tokio::sync::watch;
use tracing::warn;

use super::{Common, Process, any, listen};

/// Pause before the certificate authority is read again.
const RETRY: Duration = Duration::from_secs(2);

/// Flags of `serve`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Where the control plane listens.
    #[arg(long, env = "AMBIT_CONTROL_ADDRESS", default_value_t = any(names::PORT_CONTROL))]
    control_address: SocketAddr,
}

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let Common {
        namespace,
        identity,
        cluster_domain,
        metrics_address,
        ..
    } = options.common.clone();
    // Shows in readiness what this replica waits for, from the start.
    let obstacle = "the certificate authority has not been read yet";
    let mut process = Process::begin(&options.common, obstacle).await?;
    let (client, stop) = (process.client.clone(), process.stop.clone());
    let read = authority(&client, &namespace, &process.obstacle);
    let Some(authority) = stop.run_until_cancelled(read).await else {
        return process.tasks.wait().await;
    };
    let authority = Arc::new(authority);
    process.obstacle.send_replace(None);
    process.watch(&namespace, None);

    let root = authority.root_pem().to_owned();
    let (publisher, place, published) = (client.clone(), namespace.clone(), stop.clone());
    process.tasks.spawn("root certificate", async move {
        let publishing = publish_root(&publisher, &place, &root);
        match published.run_until_cancelled(publishing).await {
            // Clients with the new root would refuse certificates of the old one.
            Some(replaced) => Err(replaced.into()),
            None => Ok(()),
        }
    });

    let index = &process.index;
    let parts = ControlPlaneParts {
        system_namespace: namespace.clone(),
        serving_names: service_names(&namespace, &cluster_domain),
        authority,
        reviewer: Arc::new(KubeTokenReviewer::new(client.clone())),
        directory: Arc::clone(index) as _,
        sources: Arc::clone(index) as _,
        sink: Arc::new(Recorder::new(client, Arc::clone(index), &namespace, &identity)),
    };
    let control = ControlPlane::new(parts, &process.registry, stop)?;
    let listener = listen(options.control_address).await?;
    process
        .tasks
        .spawn("control plane", async move { Ok(control.run(listener).await?) });
    process.wait("control", metrics_address).await
}

/// The certificate authority; retries until the API server responds.
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
