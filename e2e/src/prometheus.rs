//! A real Prometheus beside a cluster: it scrapes Ambit's pods and the kubelets, and evaluates the chart's alerts.
//!
//! The Prometheus of the distribution comes without discovery of Kubernetes' objects. Pods are listed here and handed
//! over in a file, under the names (`__meta_kubernetes_pod_…`) that the discovery would use, so that the relabelling is
//! the usual one.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::http::Request;
use crate::{eventually, tools};

/// Short, so that a test does not wait long for two points of a series.
const SCRAPE_INTERVAL: &str = "5s";
const LIMIT: Duration = Duration::from_secs(90);

/// A series of a query's result, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Value,
    /// Its value.
    pub value: f64,
}

/// The server. It ends with this value, and its data goes.
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
    dir: PathBuf,
}

impl Prometheus {
    /// Starts it on the loopback, and waits until every target was scraped.
    ///
    /// # Errors
    /// When Prometheus cannot be had, ends, or does not reach a target.
    pub fn start(cluster: &Cluster, progress: &dyn Fn(&str)) -> Result<Self> {
        let program = tools::prometheus(progress)?.server;
        let dir = std::env::temp_dir().join(format!("ambit-prometheus-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        write(&dir.join("pods.json"), &pods(cluster)?)?;
        write(&dir.join("nodes.json"), &nodes(cluster))?;
        // JSON is YAML too.
        write(&dir.join("prometheus.yml"), &configuration(cluster)?)?;
        // A free port, if nobody takes it in between.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = File::create(dir.join("log"))?;
        let process = Command::new(program)
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus")?;
        let mut prometheus = Self {
            process,
            address,
            dir,
        };
        eventually("Prometheus to reach every target", LIMIT, || {
            prometheus.reaches_all()
        })
        .with_context(|| prometheus.last_words())?;
        Ok(prometheus)
    }

    /// Where it serves its own pages and its API.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The series that a query selects now.
    ///
    /// # Errors
    /// When Prometheus does not understand it.
    pub fn query(&self, query: &str) -> Result<Vec<Sample>> {
        let answer = self.get(&format!("/api/v1/query?query={}", encoded(query)))?;
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let samples = series.into_iter().map(|mut series| {
            let value = series["value"][1].as_str().unwrap_or_default();
            Ok(Sample {
                value: value.parse().with_context(|| format!("no number: {value}"))?,
                labels: series["metric"].take(),
            })
        });
        samples.collect()
    }

    /// The alerts, as Prometheus last evaluated them.
    ///
    /// # Errors
    /// When they cannot be asked for.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let answer = self.get("/api/v1/rules?type=alert")?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let stream = TcpStream::connect(self.address).context("Prometheus does not listen")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let answer = Request::get(path).send(stream, &self.address.to_string())?;
        let body: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("{}: {}", answer.head(), answer.body))?;
        if body["status"] != "success" {
            bail!("Prometheus refuses {path}: {}", body["error"]);
        }
        Ok(body)
    }

    fn reaches_all(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("Prometheus ended with {status}");
        }
        let answer = self.get("/api/v1/targets?state=active")?;
        let targets = answer["data"]["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        ensure!(!targets.is_empty(), "no targets yet");
        for target in targets {
            ensure!(
                target["health"] == "up",
                "{}: {} {}",
                target["scrapeUrl"],
                target["health"],
                target["lastError"]
            );
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        crate::shell::tail(&log, 10).to_owned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It holds nothing that anybody needs.
        _ = self.process.kill();
        _ = self.process.wait();
        _ = fs::remove_dir_all(&self.dir);
    }
}

fn write(path: &Path, content: &Value) -> Result<()> {
    fs::write(path, content.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn configuration(cluster: &Cluster) -> Result<Value> {
    let pki = cluster.dir().join("pki");
    let copy = |from: &str, to: &str| json!({ "source_labels": [from], "target_label": to });
    Ok(json!({
        "global": { "scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL },
        "rule_files": [crate::workspace().join("charts/ambit/alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": "kubernetes-pods",
                "file_sd_configs": [{ "files": ["pods.json"] }],
                "relabel_configs": [
                    { "action": "keep", "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"], "regex": "true" },
                    { "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_path"], "regex": "(.+)", "target_label": "__metrics_path__" },
                    {
                        "source_labels": ["__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_annotation_prometheus_io_port"],
                        "separator": ":", "target_label": "__address__",
                    },
                    { "action": "labelmap", "regex": "__meta_kubernetes_pod_label_(.+)" },
                    copy("__meta_kubernetes_namespace", "namespace"),
                    copy("__meta_kubernetes_pod_name", "pod"),
                    copy("__meta_kubernetes_pod_node_name", "node"),
                ],
            },
            {
                "job_name": "kubernetes-cadvisor",
                "scheme": "https",
                "metrics_path": "/metrics/cadvisor",
                "file_sd_configs": [{ "files": ["nodes.json"] }],
                "tls_config": { "ca_file": pki.join("ca.crt"), "cert_file": pki.join("admin.crt"), "key_file": pki.join("admin.key") },
            },
        ],
    }))
}

/// Every running pod, as the discovery of Kubernetes' pods presents it.
fn pods(cluster: &Cluster) -> Result<Value> {
    let pods = cluster.list(&[
        "pods",
        "--all-namespaces",
        "--field-selector=status.phase=Running",
    ])?;
    Ok(pods.iter().map(target).collect())
}

fn target(pod: &Value) -> Value {
    let mut labels = serde_json::Map::new();
    labels.insert(
        "__meta_kubernetes_namespace".into(),
        pod["metadata"]["namespace"].clone(),
    );
    labels.insert(
        "__meta_kubernetes_pod_name".into(),
        pod["metadata"]["name"].clone(),
    );
    labels.insert(
        "__meta_kubernetes_pod_node_name".into(),
        pod["spec"]["nodeName"].clone(),
    );
    labels.insert("__meta_kubernetes_pod_ip".into(), pod["status"]["podIP"].clone());
    for (kind, field) in [("label", "labels"), ("annotation", "annotations")] {
        for (name, value) in pod["metadata"][field].as_object().into_iter().flatten() {
            let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            labels.insert(format!("__meta_kubernetes_pod_{kind}_{name}"), value.clone());
        }
    }
    json!({ "targets": [pod["status"]["podIP"]], "labels": labels })
}

fn nodes(cluster: &Cluster) -> Value {
    let target = |node: crate::cluster::Node| json!({ "targets": [format!("{}:10250", node.ip())], "labels": { "node": node.name() } });
    cluster.nodes().into_iter().map(target).collect()
}

/// As part of a query string.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_a_url() {
        assert_eq!(encoded("sum(a{b=\"c\"})"), "sum%28a%7Bb%3D%22c%22%7D%29");
    }

    #[test]
    fn a_pod_is_presented_as_kubernetes_discovery_does() {
        let pod = json!({
            "metadata": {"name": "z", "namespace": "n", "labels": {"app.kubernetes.io/name": "ztunnel"}, "annotations": {"prometheus.io/port": "15020"}},
            "spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.1"},
        });
        let target = target(&pod);
        assert_eq!(target["targets"], json!(["10.0.0.1"]));
        assert_eq!(
            target["labels"]["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
            "ztunnel"
        );
        assert_eq!(
            target["labels"]["__meta_kubernetes_pod_annotation_prometheus_io_port"],
            "15020"
        );
    }
}
