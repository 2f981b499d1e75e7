//! The web application on a cluster.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Heard, LoadStats, Plan, Shop, WebCounts, with_image};
use crate::cluster::Cluster;
use crate::eventually;
use crate::http::{Answer, Request};
use crate::mesh::Pod;

const MANIFEST: &str = include_str!("../../manifests/web.yaml");
const READY_LIMIT: Duration = Duration::from_secs(180);
/// When a few more responses are no longer waited for: many times what they take.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Where the load generators serve their counts.
const STATS: u16 = 8081;

/// The load generators, one on each node.
pub const CLIENTS: [&str; 2] = ["load-a", "load-b"];

/// Two servers behind the Service `web`, and two load generators, one of each on either node, in a namespace.
#[derive(Debug, Clone)]
pub struct Web {
    cluster: Cluster,
    shop: Shop,
}

impl Web {
    /// Where the Service is reached over HTTP.
    pub const HTTP: u16 = 8080;
    /// Where the Service is reached over gRPC.
    pub const GRPC: u16 = 9000;

    /// Puts the application into a namespace that is there, and waits until every pod of it is Ready.
    ///
    /// # Errors
    /// When that does not happen; the error tells the pods.
    pub fn deploy(cluster: &Cluster, shop: Shop) -> Result<Self> {
        cluster.apply(shop.namespace(), &with_image(MANIFEST, cluster))?;
        let web = Self {
            cluster: cluster.clone(),
            shop,
        };
        eventually("the web application to be Ready", READY_LIMIT, || {
            for app in ["web", "load-a", "load-b"] {
                let pods = web.shop.pods_of(app)?;
                let wanted = if app == "web" { 2 } else { 1 };
                ensure!(
                    pods.len() == wanted && pods.iter().all(|pod| pod.ready),
                    "{pods:?}"
                );
            }
            Ok(())
        })
        .with_context(|| {
            let pods = cluster.run_kubectl(&["get", "pods", "--namespace", web.namespace(), "--output=wide"]);
            pods.unwrap_or_else(|error| format!("{error:#}"))
        })?;
        Ok(web)
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        self.shop.namespace()
    }

    /// The namespace, and what else may be done in it.
    pub fn shop(&self) -> &Shop {
        &self.shop
    }

    /// The one pod of a load generator.
    ///
    /// # Errors
    /// When it does not run.
    pub fn client(&self, client: &str) -> Result<Pod> {
        self.shop.pod_of(client)
    }

    /// The servers.
    ///
    /// # Errors
    /// When none runs.
    pub fn servers(&self) -> Result<Vec<Pod>> {
        self.shop.pods_of("web")
    }

    /// The live replicas of the namespace's waypoint of this name, Ready or not; none if there is no such waypoint. One
    /// that has no address yet is left out.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn waypoints(&self, name: &str) -> Result<Vec<Pod>> {
        let selector = format!("ambit.dev/waypoint={name}");
        let pods = ["pods", "--namespace", self.namespace(), "--selector", &selector];
        let addressed = self.cluster.list(&pods)?;
        if addressed.iter().any(|pod| pod["status"]["podIP"].is_null()) {
            bail!("a replica of waypoint {name} has no address yet");
        }
        Pod::list(&self.cluster, self.namespace(), &selector)
    }

    /// The virtual address of the Service.
    ///
    /// # Errors
    /// When it has none.
    pub fn vip(&self) -> Result<Ipv4Addr> {
        let service = self
            .cluster
            .get(&["service", "web", "--namespace", self.namespace()])?;
        let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        ip.parse()
            .with_context(|| format!("Service web has no address: `{ip}`"))
    }

    /// Opens a connection to the Service, as a process of the client would.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn dial(&self, client: &str, port: u16) -> Result<TcpStream> {
        let target = SocketAddr::from((self.vip()?, port));
        self.client(client)?.dial(&self.cluster, target)
    }

    /// Makes a request to the Service on a connection of its own, as a process of the client would.
    ///
    /// # Errors
    /// When no response comes.
    pub fn request(&self, client: &str, request: &Request) -> Result<Answer> {
        let host = format!("web.{}:{}", self.namespace(), Self::HTTP);
        request.send(self.dial(client, Self::HTTP)?, &host)
    }

    /// What the server received of a request that it answered.
    ///
    /// # Errors
    /// When no server answered it.
    pub fn echo(&self, client: &str, request: &Request) -> Result<Heard> {
        let answer = self.request(client, request)?;
        ensure!(
            answer.status == 200,
            "answered {}: {}",
            answer.head(),
            answer.body
        );
        serde_json::from_str(&answer.body).with_context(|| format!("no server answered: {}", answer.body))
    }

    /// Tells a load generator what to ask for from now on.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn load(&self, client: &str, plan: &Plan) -> Result<()> {
        let Plan {
            connections,
            interval,
            method,
            path,
        } = plan;
        let path = format!("/plan/{connections}/{interval}/{method}{path}");
        self.client(client)?
            .loopback(&self.cluster, STATS, &path)
            .map(drop)
    }

    /// The same for both load generators.
    ///
    /// # Errors
    /// When one cannot be told.
    pub fn load_all(&self, plan: &Plan) -> Result<()> {
        CLIENTS.iter().try_for_each(|client| self.load(client, plan))
    }

    /// What a load generator has counted since it started.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn load_stats(&self, client: &str) -> Result<LoadStats> {
        let body = self.client(client)?.loopback(&self.cluster, STATS, "/stats")?;
        serde_json::from_str(&body).with_context(|| format!("{client} served no counts: {body}"))
    }

    /// Waits until a load generator has had so many more good responses; returns its counts.
    ///
    /// # Errors
    /// When that does not happen in 90 s.
    pub fn wait_more(&self, client: &str, more: u64) -> Result<LoadStats> {
        let before = self.load_stats(client)?.ok;
        eventually(
            &format!("{more} more good answers to {client}"),
            ANSWER_LIMIT,
            || {
                let now = self.load_stats(client)?;
                ensure!(
                    now.ok >= before + more,
                    "{} since; the last failure: {:?}",
                    now.ok.saturating_sub(before),
                    now.failures.back()
                );
                Ok(now)
            },
        )
    }

    /// How many requests each of these replicas of a waypoint had while the load generators had so many more good
    /// responses each.
    ///
    /// # Errors
    /// When a replica serves no metrics, or the responses do not come.
    pub fn shares(&self, replicas: &[Pod], answers: u64) -> Result<Vec<f64>> {
        let count = || -> Result<Vec<f64>> {
            replicas
                .iter()
                .map(|pod| pod.loopback_metric(&self.cluster, "istio_requests_total", &[]))
                .collect()
        };
        let before = count()?;
        for client in CLIENTS {
            self.wait_more(client, answers)?;
        }
        let after = count()?;
        Ok(after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect())
    }

    /// Fails if a load generator counted a failure, or nothing at all; returns their counts.
    ///
    /// # Errors
    /// The failures.
    pub fn ensure_no_failure(&self) -> Result<[LoadStats; 2]> {
        let counts = CLIENTS.map(|client| self.load_stats(client));
        for (client, stats) in CLIENTS.iter().zip(&counts) {
            let Ok(stats) = stats else { continue };
            ensure!(
                stats.failed == 0,
                "{client}: {} of {} requests failed: {:#?}",
                stats.failed,
                stats.ok + stats.failed,
                stats.failures.iter().take(20).collect::<Vec<_>>()
            );
        }
        let [a, b] = counts;
        let counts = [a?, b?];
        ensure!(counts.iter().any(|stats| stats.ok > 0), "no request was made");
        Ok(counts)
    }

    /// As [`Web::ensure_no_failure`]; and that no connection was cut since the load generators had counted `before`: a
    /// request that is not idempotent would have failed with it.
    ///
    /// # Errors
    /// The failures, or how many requests had to be made again.
    pub fn ensure_nothing_cut(&self, before: &[LoadStats; 2]) -> Result<[LoadStats; 2]> {
        let counts = self.ensure_no_failure()?;
        for ((client, stats), before) in CLIENTS.iter().zip(&counts).zip(before) {
            let cut: Vec<_> = stats.seconds.iter().filter(|second| second.resets > 0).collect();
            ensure!(
                stats.resets == before.resets,
                "{client}: {} connections were cut, and their requests made again: {cut:?}",
                stats.resets - before.resets
            );
        }
        Ok(counts)
    }

    /// What each server has counted since it started.
    ///
    /// # Errors
    /// When one cannot be asked.
    pub fn counts(&self) -> Result<Vec<WebCounts>> {
        let ask = |pod: &Pod| -> Result<WebCounts> {
            // Through loopback, which is never redirected.
            let body = pod.loopback(&self.cluster, Self::HTTP, "/counts")?;
            serde_json::from_str(&body).with_context(|| format!("{} served no counts: {body}", pod.name))
        };
        self.servers()?.iter().map(ask).collect()
    }

    /// Requests that reached the servers, of all of them.
    ///
    /// # Errors
    /// When one cannot be asked.
    pub fn reached(&self) -> Result<u64> {
        Ok(self.counts()?.iter().map(|counts| counts.requests).sum())
    }
}
