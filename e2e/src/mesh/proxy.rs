//! Pods as the tests see them, and what ztunnels log and serve.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::NAMESPACE;
use crate::cluster::{Cluster, Node};
use crate::http::{self, Url};
use crate::kube::Forward;

const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Value of its label `app`.
    pub app: String,
    /// The node it runs on.
    pub node: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// When it started.
    pub started: String,
    /// How often its containers were started again.
    pub restarts: i64,
    /// Whether it is Ready.
    pub ready: bool,
    /// Whether it carries the capture mark.
    pub captured: bool,
}

impl Pod {
    /// The running pods of a namespace, or those of them that a label selector finds.
    ///
    /// # Errors
    /// When they cannot be listed, and when one has no address yet.
    pub fn list(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Self>> {
        let items = cluster.list(&["pods", "--namespace", namespace, "--selector", selector])?;
        let live = items
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        live.map(Self::read).collect()
    }

    fn read(pod: &Value) -> Result<Self> {
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let containers = pod["status"]["containerStatuses"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let name = text("/metadata/name");
        let ip = text("/status/podIP");
        Ok(Self {
            ip: ip
                .parse()
                .map_err(|_| anyhow!("pod {name} has no address yet (`{ip}`)"))?,
            name,
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            app: text("/metadata/labels/app"),
            node: text("/spec/nodeName"),
            started: text("/status/startTime"),
            restarts: containers
                .iter()
                .filter_map(|container| container["restartCount"].as_i64())
                .sum(),
            ready: crate::kube::condition(pod, "Ready").is_some_and(|(status, ..)| status == "True"),
            captured: text("/metadata/annotations/ambient.istio.io~1redirection") == "enabled",
        })
    }

    /// The node it runs on.
    ///
    /// # Errors
    /// When the cluster has no such node.
    pub fn node(&self, cluster: &Cluster) -> Result<Node> {
        let found = cluster.nodes().into_iter().find(|node| node.name() == self.node);
        found.with_context(|| format!("pod {} is on `{}`, which is no node", self.name, self.node))
    }

    /// Opens a TCP connection out of the pod's network namespace, as a process in the pod would. It stays in that
    /// namespace.
    ///
    /// # Errors
    /// When the pod does not run or nothing answers.
    pub fn dial(&self, cluster: &Cluster, target: SocketAddr) -> Result<TcpStream> {
        let mut dialled = self.dial_many(cluster, target, 1)?;
        let only = dialled.pop().unwrap_or_else(|| Err(anyhow!("nothing was tried")));
        only.with_context(|| format!("cannot connect to {target} from pod {}", self.name))
    }

    /// As [`Pod::dial`], this many times, one after the other: what became of each.
    ///
    /// # Errors
    /// When the pod does not run.
    pub fn dial_many(
        &self,
        cluster: &Cluster,
        target: SocketAddr,
        count: usize,
    ) -> Result<Vec<Result<TcpStream>>> {
        let pid = self.node(cluster)?.pod_pid(&self.uid)?;
        let connect = move || {
            let stream = TcpStream::connect_timeout(&target, DIAL_LIMIT)?;
            stream.set_read_timeout(Some(DIAL_LIMIT))?;
            stream.set_write_timeout(Some(DIAL_LIMIT))?;
            anyhow::Ok(stream)
        };
        let enter_and_connect = move || {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            anyhow::Ok((0..count).map(|_| connect()).collect())
        };
        // The thread ends in the other namespace, and takes that with it.
        let dialled = thread::spawn(enter_and_connect)
            .join()
            .map_err(|_| anyhow!("the thread that connects panicked"))?;
        dialled.with_context(|| format!("cannot enter the network of pod {}", self.name))
    }

    /// The body that a port of the pod serves on its own loopback, such as a ztunnel's config dump.
    ///
    /// # Errors
    /// When it is not served.
    pub fn loopback(&self, cluster: &Cluster, port: u16, path: &str) -> Result<String> {
        let url = Url::parse(&format!("http://localhost:{port}{path}"))?;
        if cluster.is_here() {
            http::get(
                self.dial(cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?,
                &url,
            )
        } else {
            let forward = Forward::start(cluster, &self.namespace, &self.name, port)?;
            http::get(forward.connect()?, &url)
        }
    }

    /// The same as [`Pod::metric`], through the pod's own loopback.
    ///
    /// # Errors
    /// When the pod serves no metrics.
    pub fn loopback_metric(&self, cluster: &Cluster, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.loopback(cluster, 15020, "/metrics")?;
        Ok(sum_metric(&text, name, labels))
    }

    /// The sum of a metric's series whose labels contain every one of `labels` (as `name="value"`).
    ///
    /// # Errors
    /// When the pod serves no metrics.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let target = SocketAddr::from((self.ip, 15020));
        let stream = TcpStream::connect_timeout(&target, DIAL_LIMIT)
            .with_context(|| format!("cannot connect to {target}"))?;
        stream.set_read_timeout(Some(DIAL_LIMIT))?;
        let text = http::get(stream, &Url::parse(&format!("http://{target}/metrics"))?)?;
        Ok(sum_metric(&text, name, labels))
    }
}

fn sum_metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let ours =
        lines.filter(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)));
    ours.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// The ztunnel of every node.
///
/// # Errors
/// When they cannot be listed, and when there is none.
pub fn ztunnels(cluster: &Cluster) -> Result<Vec<Pod>> {
    let found = Pod::list(cluster, NAMESPACE, "app=ztunnel")?;
    if found.is_empty() {
        bail!("no ztunnel runs");
    }
    Ok(found)
}

/// The replicas that serve the control plane.
///
/// # Errors
/// When they cannot be listed.
pub fn control_planes(cluster: &Cluster) -> Result<Vec<Pod>> {
    Pod::list(cluster, NAMESPACE, "app.kubernetes.io/name=ambit-control")
}

/// The replicas that write, one at a time.
///
/// # Errors
/// When they cannot be listed.
pub fn operators(cluster: &Cluster) -> Result<Vec<Pod>> {
    Pod::list(cluster, NAMESPACE, "app.kubernetes.io/name=ambit-operator")
}

/// The config dump of a ztunnel.
///
/// # Errors
/// When it serves none.
pub fn config_dump(cluster: &Cluster, ztunnel: &Pod) -> Result<Value> {
    let body = ztunnel.loopback(cluster, 15000, "/config_dump")?;
    serde_json::from_str(&body).with_context(|| format!("{} dumped no JSON", ztunnel.name))
}

/// A line of a log in the text format: fields as `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine(String);

impl LogLine {
    /// The lines of a pod's log that contain all of `words`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn find(cluster: &Cluster, pod: &Pod, words: &[&str]) -> Result<Vec<Self>> {
        let log = cluster.logs(&pod.namespace, &pod.name)?;
        let found = log
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(found.map(|line| Self(line.to_owned())).collect())
    }

    /// The value of a field, without its quotes.
    pub fn field(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.0.split_once(&format!(" {name}="))?;
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').map(|(value, _)| value),
            None => rest.split(' ').next(),
        }
    }

    /// The whole line.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_line() {
        let line = LogLine(
            r#"INFO access: done src.addr=10.0.0.1:4 src.workload="a b" direction="inbound" x="#.into(),
        );
        assert_eq!(line.field("src.addr"), Some("10.0.0.1:4"));
        assert_eq!(line.field("src.workload"), Some("a b"));
        assert_eq!(line.field("direction"), Some("inbound"));
        assert_eq!(line.field("addr"), None);
    }

    #[test]
    fn series_of_a_metric_are_summed() {
        let text =
            "# HELP a_total x\na_total{k=\"1\",l=\"x\"} 2\na_total{k=\"1\",l=\"y\"} 3\na_total_more 9\nb 4\n";
        assert_eq!(sum_metric(text, "a_total", &["k=\"1\""]), 5.0);
        assert_eq!(sum_metric(text, "a_total", &["l=\"y\""]), 3.0);
        assert_eq!(sum_metric(text, "b", &[]), 4.0);
        assert_eq!(sum_metric(text, "c", &[]), 0.0);
    }

    #[test]
    fn a_pod_is_read_from_json() {
        let mut json = json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "client-a"},
                "annotations": {"ambient.istio.io/redirection": "enabled"}},
            "spec": {"nodeName": "n1"},
            "status": {"podIP": "10.0.0.1", "startTime": "t", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"restartCount": 1}, {"restartCount": 2}]},
        });
        let pod = Pod::read(&json).unwrap();
        assert_eq!(
            (pod.app.as_str(), pod.node.as_str(), pod.restarts),
            ("client-a", "n1", 3)
        );
        assert!(pod.captured && pod.ready);
        json["status"]["podIP"] = json!(null);
        assert!(
            Pod::read(&json)
                .unwrap_err()
                .to_string()
                .contains("pod p has no address yet")
        );
    }
}
