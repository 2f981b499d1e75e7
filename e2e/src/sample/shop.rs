//! The sample application on a cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{IMAGE, Stats, with_image};
use crate::cluster::Cluster;
use crate::mesh::{self, Pod};
use crate::{eventually, kube};

const MANIFEST: &str = include_str!("../../manifests/shop.yaml");
// Each is many times what it takes: they say that something hangs, not how long anything may take.
const READY_LIMIT: Duration = Duration::from_secs(180);
const CAPTURE_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Two servers and two clients, one of each on either node, in a namespace.
#[derive(Debug, Clone)]
pub struct Shop {
    cluster: Cluster,
    namespace: String,
}

impl Shop {
    /// Makes the namespace and the application in it, and waits until every pod is Ready and every client got a
    /// response.
    ///
    /// # Errors
    /// When something of that does not happen; the error tells the pods.
    pub fn deploy(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let shop = Self::create(cluster, namespace)?;
        cluster.apply(namespace, &Self::manifest(cluster))?;
        let ready = shop.wait_pods("to be Ready", READY_LIMIT, |pod| pod.ready);
        ready.and_then(|_| shop.wait_answers()).with_context(|| {
            let pods = cluster.run_kubectl(&["get", "pods", "--namespace", namespace, "--output=wide"]);
            pods.unwrap_or_else(|error| format!("{error:#}"))
        })?;
        Ok(shop)
    }

    /// The application's objects, for whoever else deploys them.
    pub fn manifest(cluster: &Cluster) -> String {
        with_image(MANIFEST, cluster)
    }

    /// The application in a namespace where somebody else deploys it.
    pub fn deployed(cluster: &Cluster, namespace: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// Makes only the namespace, and waits until pods can be made in it. One of that name that an earlier test left is
    /// waited out.
    ///
    /// # Errors
    /// When the API server refuses it, or an earlier one does not go.
    pub fn create(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        eventually(&format!("namespace {namespace} to be there"), READY_LIMIT, || {
            cluster.apply(namespace, &manifest.to_string())?;
            let found = cluster.get(&["namespace", namespace])?;
            ensure!(
                found["metadata"]["deletionTimestamp"].is_null(),
                "an earlier one is going still: {}",
                found["status"]
            );
            // Without it, the API server refuses pods that name no account.
            cluster
                .get(&["serviceaccount", "default", "--namespace", namespace])
                .map(drop)
        })?;
        Ok(Self::deployed(cluster, namespace))
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its running pods.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        Pod::list(&self.cluster, &self.namespace, "")
    }

    /// The running pods of one Deployment: `server`, `client-a`, `client-b`.
    ///
    /// # Errors
    /// When there is none.
    pub fn pods_of(&self, app: &str) -> Result<Vec<Pod>> {
        let pods = Pod::list(&self.cluster, &self.namespace, &format!("app={app}"))?;
        if pods.is_empty() {
            bail!("no pod of {app} runs in {}", self.namespace);
        }
        Ok(pods)
    }

    /// The one running pod of a Deployment.
    ///
    /// # Errors
    /// When there is none, or another number.
    pub fn pod_of(&self, app: &str) -> Result<Pod> {
        match <[Pod; 1]>::try_from(self.pods_of(app)?) {
            Ok([pod]) => Ok(pod),
            Err(pods) => bail!("{} pods of {app} run in {}", pods.len(), self.namespace),
        }
    }

    /// What a client has counted since it started.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn stats(&self, app: &str) -> Result<Stats> {
        let pod = self.pod_of(app)?;
        // Through loopback, which is never redirected: the mesh cannot stand between the test and its counts.
        let body = pod.loopback(&self.cluster, 8081, "/stats")?;
        serde_json::from_str(&body).with_context(|| format!("{app} served no counts: {body}"))
    }

    /// Has a client look for its slowest response from now on.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn reset_slowest(&self, app: &str) -> Result<()> {
        self.pod_of(app)?
            .loopback(&self.cluster, 8081, "/reset-slowest")
            .map(drop)
    }

    /// Labels the namespace, as a user would, and waits until every pod is captured and every ztunnel knows it.
    ///
    /// # Errors
    /// When that does not happen in two minutes.
    pub fn enroll(&self) -> Result<()> {
        self.cluster
            .run_kubectl(&["label", "--overwrite", "namespace", &self.namespace, mesh::ENROLL])?;
        self.wait_captured()
    }

    /// Waits until there are pods and every one of them is Ready.
    ///
    /// # Errors
    /// When that does not happen in three minutes.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_pods("to be Ready", READY_LIMIT, |pod| pod.ready)
            .map(drop)
    }

    /// Waits until every pod is captured and every ztunnel knows it.
    ///
    /// # Errors
    /// When that does not happen in two minutes.
    pub fn wait_captured(&self) -> Result<()> {
        let pods = self.wait_pods("to be captured", CAPTURE_LIMIT, |pod| pod.captured)?;
        self.wait_protocol(&pods, "HBONE")
    }

    /// Removes the label, as a user would, and waits until every ztunnel knows that no pod is captured any more.
    ///
    /// # Errors
    /// When that does not happen in two minutes.
    pub fn release(&self) -> Result<()> {
        self.cluster
            .run_kubectl(&["label", "namespace", &self.namespace, "istio.io/dataplane-mode-"])?;
        self.wait_released()
    }

    /// Waits until every ztunnel knows that no pod is captured any more.
    ///
    /// # Errors
    /// When that does not happen in two minutes.
    pub fn wait_released(&self) -> Result<()> {
        let pods = self.wait_pods("to be released", CAPTURE_LIMIT, |pod| !pod.captured)?;
        self.wait_protocol(&pods, "TCP")
    }

    /// Waits until a client has been answered `more` times more for each kind of traffic than by now; returns its
    /// counts.
    ///
    /// # Errors
    /// When that does not happen in 90 s.
    pub fn wait_more(&self, app: &str, more: u64) -> Result<Stats> {
        let before = self.stats(app)?;
        eventually(
            &format!("{more} more answers of each kind to {app}"),
            ANSWER_LIMIT,
            || {
                let now = self.stats(app)?;
                for (name, flow) in &now.flows {
                    // A client that was started again counts from nothing.
                    let since = flow
                        .ok
                        .saturating_sub(before.flows.get(name).map_or(0, |flow| flow.ok));
                    if since < more {
                        bail!("{since} over {name}; failures: {:?}", now.failures);
                    }
                }
                Ok(now)
            },
        )
    }

    /// Deletes the namespace without waiting for its end.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn delete(&self) -> Result<()> {
        self.cluster
            .run_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"])
            .map(drop)
    }

    /// Starts a single pod of the application: `arguments` are its program's, `account` is made if need be.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn run_pod(&self, name: &str, account: &str, arguments: &[&str]) -> Result<()> {
        let account_manifest =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        self.cluster
            .apply(&self.namespace, &account_manifest.to_string())?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "serviceAccountName": account,
                "automountServiceAccountToken": false,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "sample", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": arguments,
                    "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "16Mi"}},
                }],
            },
        });
        self.cluster.apply(&self.namespace, &pod.to_string())
    }

    /// Runs a single pod to its end and returns whether it succeeded, and what it said.
    ///
    /// # Errors
    /// When it does not end in two minutes.
    pub fn run_to_end(&self, name: &str, account: &str, arguments: &[&str]) -> Result<(bool, String)> {
        self.run_pod(name, account, arguments)?;
        let succeeded = eventually(&format!("pod {name} to end"), CAPTURE_LIMIT, || {
            let pod = self.cluster.get(&["pod", name, "--namespace", &self.namespace])?;
            match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(true),
                Some("Failed") => Ok(false),
                other => bail!("it is {other:?}: {}", pod["status"]["containerStatuses"]),
            }
        })?;
        Ok((succeeded, self.cluster.logs(&self.namespace, name)?))
    }

    /// The reason of the AmbientNamespace's Ready condition, and the object.
    ///
    /// # Errors
    /// When there is none.
    pub fn ambient(&self) -> Result<serde_json::Value> {
        self.cluster
            .get(&["ambientnamespace", "ambient", "--namespace", &self.namespace])
    }

    /// Has the namespace refuse plaintext, and waits until its status says so.
    ///
    /// # Errors
    /// When it does not.
    pub fn make_strict(&self) -> Result<()> {
        let strict = "apiVersion: ambit.dev/v1alpha1\nkind: AmbientNamespace\nmetadata: {name: ambient}\nspec: {mtls: {mode: Strict}}\n";
        self.cluster.apply(&self.namespace, strict)?;
        eventually("Strict to be in force", READY_LIMIT, || {
            let object = self.ambient()?;
            mesh::is_ready(&object)?;
            ensure!(object["status"]["mtlsMode"] == "Strict", "{}", object["status"]);
            Ok(())
        })
    }

    fn wait_answers(&self) -> Result<()> {
        for app in ["client-a", "client-b"] {
            eventually(&format!("an answer of each kind to {app}"), READY_LIMIT, || {
                let stats = self.stats(app)?;
                if stats.flows.len() < 3 || stats.flows.values().any(|flow| flow.ok == 0) {
                    bail!("it counts {stats:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn wait_pods(&self, what: &str, limit: Duration, good: impl Fn(&Pod) -> bool) -> Result<Vec<Pod>> {
        eventually(&format!("every pod of {} {what}", self.namespace), limit, || {
            let pods = self.pods()?;
            let bad: Vec<&str> = pods
                .iter()
                .filter(|pod| !good(pod))
                .map(|pod| pod.name.as_str())
                .collect();
            if pods.is_empty() || !bad.is_empty() {
                let object = self.ambient().unwrap_or_default();
                bail!(
                    "not so: {}; {:?}; failures: {}",
                    bad.join(", "),
                    kube::condition(&object, "Ready"),
                    object["status"]["failures"]
                );
            }
            Ok(pods)
        })
    }

    /// Waits until every ztunnel reaches these pods by this protocol.
    fn wait_protocol(&self, pods: &[Pod], protocol: &str) -> Result<()> {
        eventually(
            &format!("every ztunnel to reach {} over {protocol}", self.namespace),
            CAPTURE_LIMIT,
            || {
                for ztunnel in mesh::ztunnels(&self.cluster)? {
                    let dump = mesh::config_dump(&self.cluster, &ztunnel)?;
                    for pod in pods {
                        let known = &dump["workloads"][pod.ip.to_string()]["protocol"];
                        if known != protocol {
                            bail!("{} has {known} for {} ({})", ztunnel.name, pod.name, pod.ip);
                        }
                    }
                }
                Ok(())
            },
        )
    }
}
