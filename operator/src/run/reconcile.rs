//! The operator's process: with the lease, it writes the objects of the data plane, waypoints and statuses. It serves
//! only its health and its metrics.

use std::path::PathBuf;
use std::sync::Arc;

use ambit_operator::control::Directory;
use ambit_operator::index::{Key, SharedIndex};
use ambit_operator::reconcile::{
    ControlPlanes, HostSettings, ImageSettings, Leadership, Lease, LoadFollower, LoadTable, Objects,
    Settings, Writer, root_certificate, root_replaced,
};
use ambit_wire::{TokenFile, names};
use anyhow::bail;
use prometheus::IntGauge;

use super::{Common, Process};

/// Flags of `reconcile`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    images: ImageSettings,
    #[command(flatten)]
    host: HostSettings,
    /// The service-account token with audience istio-ca, for the control plane; read again for each call.
    #[arg(long, env = "AMBIT_TOKEN", default_value = "/var/run/ambit/token/token")]
    token: PathBuf,
}

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn reconcile(options: Options, log_format: &str) -> anyhow::Result<()> {
    let Options {
        common,
        images,
        host,
        token,
    } = options;
    // Shows in readiness what this replica waits for, from the start.
    let obstacle = "the mesh's root certificate has not been read yet";
    let mut process = Process::begin(&common, obstacle).await?;
    let (client, stop) = (process.client.clone(), process.stop.clone());
    let namespace = common.namespace;
    let read = root_certificate(&client, &namespace, &process.obstacle);
    let Some(root) = stop.run_until_cancelled(read).await else {
        return process.tasks.wait().await;
    };
    let (asked, place, known, watched) = (client.clone(), namespace.clone(), root.clone(), stop.clone());
    process.tasks.spawn("root certificate", async move {
        match watched
            .run_until_cancelled(root_replaced(&asked, &place, &known))
            .await
        {
            // Everything made from the old root is created anew.
            Some(()) => bail!("the mesh has another root certificate: restarting with that"),
            None => Ok(()),
        }
    });
    let objects = Arc::new(Objects::default());
    process.watch(&namespace, Some(&objects));

    let (lease, leadership) = Lease::new(client.clone(), &namespace, names::OPERATOR, &common.identity);
    let (read, held) = (Arc::clone(&process.index), stop.clone());
    let own = Key::new(namespace.clone(), common.identity.clone());
    process.tasks.spawn("lease", async move {
        // A replica that cannot read everything (a CRD or a right is missing) would write nothing as the leader.
        let may = || !read.read(|index| index.is_outdated(&own.namespace, &own.name));
        lease.run(readiness(&read), may, held).await;
        Ok(())
    });
    export_leadership(&mut process, leadership.clone())?;

    let loads = Arc::new(LoadTable::new(&process.registry)?);
    // The name of the control plane that is valid in every cluster.
    let name = format!("{}.{namespace}.svc", names::CONTROL);
    let planes = ControlPlanes {
        namespace: namespace.clone(),
        name,
        port: names::PORT_CONTROL,
        root_certificate: root.clone(),
        token: TokenFile::new(token),
    };
    let follower = LoadFollower::new(
        planes,
        Arc::clone(&objects),
        Arc::clone(&loads),
        leadership.clone(),
    );
    let following = stop.clone();
    process.tasks.spawn("load", async move {
        follower.run(following).await;
        Ok(())
    });

    let settings = Settings {
        namespace,
        identity: common.identity,
        images,
        host,
        cluster_id: common.cluster_id,
        cluster_domain: common.cluster_domain,
        log_format: log_format.to_owned(),
        root_certificate: root,
    };
    let (index, health) = (Arc::clone(&process.index), process.health.clone());
    let mut writer = Writer::new(client, settings, index, objects, leadership, loads, health);
    writer.register(&process.registry)?;
    process.tasks.spawn("writer", async move {
        writer.run(stop).await;
        Ok(())
    });
    process.wait("operator", common.metrics_address).await
}

/// Until initial sync is done.
async fn readiness(index: &SharedIndex) {
    let mut changed = index.subscribe();
    while !index.is_ready() {
        // The index lives as long as this is waited for.
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn export_leadership(process: &mut Process, mut leadership: Leadership) -> anyhow::Result<()> {
    let gauge = IntGauge::new("ambit_operator_leader", "1 on the replica that holds the lease")?;
    process.registry.register(Box::new(gauge.clone()))?;
    let stop = process.stop.clone();
    process.tasks.spawn("leadership metric", async move {
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
