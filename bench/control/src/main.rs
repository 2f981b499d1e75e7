//! The control plane's benchmark: a cluster's objects into the index that the control plane serves from, and the
//! streams of its clients, in one process. Prints what came of it as JSON. `cargo xtask bench control` runs it.

mod changes;
mod clients;
mod cluster;
mod usage;

use std::sync::Arc;
use std::time::Instant;

use ambit_bench::Histogram;
use ambit_bench::control::{Memory, Outcome, Phase};
use ambit_operator::control::Sources as _;
use ambit_operator::index::{
    AmbientRecord, Config, Index, MeshRecord, PodRecord, PolicyRecord, ServiceRecord, SharedIndex,
    SliceRecord,
};
use ambit_wire::names::{TYPE_ADDRESS, TYPE_WAYPOINT_POLICY};
use anyhow::{Context, Result};
use clap::Parser;

use changes::Changes;
use clients::{Client, Clients, Log};
use cluster::{Cluster, PodState};
use usage::{Start, memory};

/// The watches give the index so many events at once.
const BATCH: usize = 512;
/// Events of the largest Service's slices.
const SLICE_EVENTS: usize = 200;

/// How to run it.
#[derive(Parser)]
struct Arguments {
    /// Pods of the cluster. Services, nodes and namespaces are in proportion.
    #[arg(long, default_value_t = 10_000)]
    workloads: usize,
    /// Nodes whose ztunnel and agent have a stream open; at most half of all, as of two replicas.
    #[arg(long, default_value_t = 2_500)]
    clients: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long changes go on, in seconds.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(run(&arguments))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<Outcome> {
    let cluster = Cluster::new(arguments.workloads)?;
    let index = Arc::new(SharedIndex::new(Config::default()));
    let mut sizes = Memory {
        start: memory()?.0,
        ..Memory::default()
    };
    let start = Start::now()?;
    read(&cluster, &index)?;
    let read = start.end()?;
    eprintln!("read: {read:?}");
    let start = Start::now()?;
    index.set_ready();
    let flush = start.end()?;
    sizes.flushed = memory()?.0;
    eprintln!("flushed: {flush:?}, {sizes:?}");

    let addresses = Log::new(index.addresses());
    let (cold, bytes) = cold(&index, &addresses).await?;
    eprintln!("cold: {cold:?}, {bytes} bytes");

    let nodes = arguments.clients.min(cluster.nodes.div_ceil(2));
    let mut policies = Vec::new();
    let held = clients::held(&index.addresses())?;
    let start = Start::now()?;
    let mut clients = Clients::new(Arc::clone(&index));
    for node in (0..nodes).map(Cluster::node_name) {
        clients.open(
            Client::Ztunnel(node.clone()),
            TYPE_ADDRESS,
            Arc::clone(&addresses),
            &held,
        );
        clients.open(Client::Agent(node), "", Arc::clone(&addresses), &[]);
    }
    for namespace in cluster.with_waypoint() {
        let name = Cluster::namespace_name(namespace);
        let own = index.waypoint(&name, "waypoint");
        let own = own.with_context(|| format!("namespace {name} has no waypoint"))?;
        let log = Log::new(Arc::clone(&own.policies));
        clients.open(
            Client::Waypoint(name, own),
            TYPE_WAYPOINT_POLICY,
            Arc::clone(&log),
            &[],
        );
        policies.push((namespace, log));
    }
    let waypoints = policies.len();
    clients.in_sync().await;
    let sync = start.end()?;
    sizes.synced = memory()?.0;
    eprintln!("in sync: {sync:?}, {sizes:?}");

    let mut changes = Changes::new(&cluster, &index, Arc::clone(&addresses), policies);
    let responses = clients.responses();
    let start = Start::now()?;
    tokio::task::block_in_place(|| changes.run(arguments.rate, arguments.seconds))?;
    // The last of them have yet to be acknowledged.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let changing = start.end()?;
    (sizes.changed, sizes.peak) = memory()?;
    let acknowledged = clients.acknowledged();
    let responses = clients.responses() - responses;
    let took = changes.took().map(|(kind, took)| (kind.to_owned(), took.into()));
    let took = took.collect();
    clients.close().await;
    let slice = largest(&cluster, &index)?;
    Ok(Outcome {
        pods: cluster.pods,
        services: cluster.services,
        nodes: cluster.nodes,
        clients: nodes,
        waypoints,
        resources: index.addresses().len(),
        read,
        flush,
        sync,
        cold,
        cold_mib: bytes as f64 / f64::from(1 << 20),
        memory: sizes,
        rate: arguments.rate,
        seconds: arguments.seconds,
        changes_cpu: changing.cpu,
        responses,
        acknowledged: (&acknowledged).into(),
        index: took,
        endpoints: cluster.largest,
        slice: (&slice).into(),
    })
}

/// Reads all objects, as the watches do: kind by kind, many at once.
fn read(cluster: &Cluster, shared: &SharedIndex) -> Result<()> {
    let mesh = MeshRecord::of(&Cluster::mesh()?);
    shared.change(|index| index.set_mesh(Some(mesh)));
    batches(shared, 0..cluster.namespaces(), |index, n| {
        let (name, namespace) = Cluster::namespace(n)?;
        index.apply_namespace(&name, &namespace);
        Ok(())
    })?;
    batches(shared, cluster.with_waypoint(), |index, n| {
        let (name, ambient) = Cluster::ambient(n)?;
        index.set_ambient(&name, Some(AmbientRecord::of(&ambient)));
        let (key, policy) = cluster.policy(n, 1)?;
        index.set_policy(&key, Some(PolicyRecord::of(&policy)));
        let (entry, key, service) = Cluster::waypoint(n)?;
        index.set_register(&name, [(key.name.clone(), entry)].into());
        index.set_service(&key, ServiceRecord::of(&service));
        Ok(())
    })?;
    batches(shared, 0..cluster.services, |index, n| {
        let (key, service) = cluster.service(n)?;
        index.set_service(&key, ServiceRecord::of(&service));
        Ok(())
    })?;
    let slices = (0..cluster.services).flat_map(|n| (0..cluster.slices(n)).map(move |part| (n, part)));
    batches(shared, slices, |index, (n, part)| {
        let (key, slice) = cluster.slice(n, part, |_| true)?;
        index.set_slice(&key, SliceRecord::of(&slice));
        Ok(())
    })?;
    let state = PodState {
        ready: true,
        version: 1,
    };
    batches(shared, 0..cluster.pods, |index, n| {
        let (key, pod) = cluster.pod(n, state)?;
        index.set_pod(&key, PodRecord::of(&pod));
        Ok(())
    })?;
    batches(shared, 0..cluster.nodes, |index, n| {
        let (name, node) = Cluster::node(n)?;
        index.set_node(&name, Some(&node));
        Ok(())
    })
}

fn batches<T>(
    shared: &SharedIndex,
    objects: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut Index, T) -> Result<()>,
) -> Result<()> {
    let mut objects = objects.into_iter().peekable();
    while objects.peek().is_some() {
        let mut result = Ok(());
        shared.change(|index| {
            result = objects
                .by_ref()
                .take(BATCH)
                .try_for_each(|object| each(index, object))
        });
        result?;
    }
    Ok(())
}

/// A ztunnel that holds nothing.
async fn cold(index: &Arc<SharedIndex>, addresses: &Arc<Log>) -> Result<(Phase, u64)> {
    let mut clients = Clients::new(Arc::clone(index));
    let start = Start::now()?;
    clients.open(
        Client::Ztunnel(Cluster::node_name(0)),
        TYPE_ADDRESS,
        Arc::clone(addresses),
        &[],
    );
    clients.in_sync().await;
    let phase = start.end()?;
    let bytes = clients.bytes();
    clients.close().await;
    Ok((phase, bytes))
}

/// Events of the largest Service's slices: in each, another pod becomes ready or is no longer.
fn largest(cluster: &Cluster, shared: &SharedIndex) -> Result<Histogram> {
    let mut took = Histogram::default();
    for event in 0..SLICE_EVENTS {
        let part = event % cluster.slices(0);
        let (key, slice) = cluster.slice(0, part, |n| n % 100 != event % 99)?;
        let record = SliceRecord::of(&slice);
        let start = Instant::now();
        shared.change(|index| index.set_slice(&key, record));
        took.record(start.elapsed());
    }
    Ok(took)
}
