//! The pods of a part begin anew, each with the image that its node has now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ambit_e2e::{eventually, kube};
use anyhow::{Result, ensure};
use serde_json::Value;

use super::destination::{Brought, Cluster};

const LIMIT: Duration = Duration::from_secs(120);

/// Ends the pods that run another image under the name of one of these, for their controllers to replace them, and waits until those are Ready
/// and run these images. Returns a line about each of them.
pub(super) fn renew(cluster: &Cluster, brought: &[Brought]) -> Result<Vec<String>> {
    let old = Pods::of(&all(cluster)?, brought).outdated();
    if old.0.is_empty() {
        return Ok(Vec::new());
    }
    for (namespace, names) in old.by_namespace() {
        // They have no traffic that is worth a drain.
        let delete = ["delete", "pods", "--namespace", namespace, "--grace-period=1"];
        cluster.kubectl(&[&delete[..], &["--ignore-not-found", "--wait=false"], &names].concat())?;
    }
    eventually("the pods to be Ready with the new image", LIMIT, || {
        let now = Pods::of(&all(cluster)?, brought);
        now.replace(&old)?;
        Ok(now.describe())
    })
}

fn all(cluster: &Cluster) -> Result<Vec<Value>> {
    cluster.list(&["pods", "--all-namespaces"])
}

/// Pods that a controller replaces, by UID.
struct Pods(BTreeMap<String, Pod>);

struct Pod {
    namespace: String,
    name: String,
    owner: String,
    /// One on each node: as many as there were come again.
    daemon: bool,
    image: String,
    /// Whether that is the image that was brought; unknown where its id is.
    current: Option<bool>,
    node: String,
    ready: bool,
}

impl Pods {
    fn of(pods: &[Value], brought: &[Brought]) -> Self {
        let pods = pods.iter().filter(|pod| !is_done(pod));
        Self(pods.filter_map(|pod| Pod::read(pod, brought)).collect())
    }

    fn by_namespace(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pod in self.0.values() {
            found.entry(&pod.namespace).or_default().push(&pod.name);
        }
        found
    }

    fn owners(&self) -> BTreeSet<&str> {
        self.0.values().map(|pod| pod.owner.as_str()).collect()
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.0.values().filter(move |pod| pod.owner == owner)
    }

    /// Those that do not surely run the image that was brought.
    fn outdated(mut self) -> Self {
        self.0.retain(|_, pod| pod.current != Some(true));
        self
    }

    /// Whether these are Ready in the place of the old ones. How many there are of a Deployment may have changed meanwhile.
    fn replace(&self, old: &Self) -> Result<()> {
        for (uid, pod) in &self.0 {
            ensure!(!old.0.contains_key(uid), "{} is there still", pod.name);
            ensure!(pod.ready, "{} is not Ready", pod.name);
            ensure!(pod.current != Some(false), "{} runs {}", pod.name, pod.image);
        }
        for owner in old.owners() {
            let before: Vec<&Pod> = old.owned_by(owner).collect();
            let wanted = if before.iter().any(|pod| pod.daemon) {
                before.len()
            } else {
                1
            };
            let now = self.owned_by(owner).count();
            let names: Vec<&str> = before.iter().map(|pod| pod.name.as_str()).collect();
            ensure!(now >= wanted, "{now} of {wanted} came for {}", names.join(", "));
        }
        Ok(())
    }

    fn describe(&self) -> Vec<String> {
        let line = |pod: &Pod| format!("{}/{} on {}: {}", pod.namespace, pod.name, pod.node, pod.image);
        self.0.values().map(line).collect()
    }
}

impl Pod {
    /// A pod with its UID, if it runs one of these images and something replaces it.
    fn read(pod: &Value, brought: &[Brought]) -> Option<(String, Self)> {
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let containers = pod["spec"]["containers"].as_array()?;
        let (container, brought) = containers.iter().find_map(|container| {
            let named = brought
                .iter()
                .find(|image| container["image"] == *image.reference)?;
            Some((container, named))
        })?;
        let owners = pod["metadata"]["ownerReferences"].as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        let statuses = pod["status"]["containerStatuses"].as_array();
        let status = statuses
            .into_iter()
            .flatten()
            .find(|status| status["name"] == container["name"]);
        let image = status.and_then(|status| status["imageID"].as_str());
        let image = image.unwrap_or("not started").to_owned();
        let found = Self {
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            owner: owner["uid"].as_str().unwrap_or_default().to_owned(),
            daemon: owner["kind"] == "DaemonSet",
            current: brought.id.as_ref().map(|id| image.contains(id.as_str())),
            image,
            node: text("/spec/nodeName"),
            ready: kube::condition(pod, "Ready").is_some_and(|(status, ..)| status == "True"),
        };
        Some((text("/metadata/uid"), found))
    }
}

/// Whether a pod has ended, so that nothing replaces it: that of a Job.
fn is_done(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, kind: &str, image: &str, ready: bool) -> Value {
        json!({
            "metadata": {
                "namespace": "ambit-system", "name": name, "uid": format!("uid-{name}"),
                "ownerReferences": [{"controller": true, "kind": kind, "uid": kind}],
            },
            "spec": {"containers": [{"name": "main", "image": image}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "imageID": format!("sha256:{name}")}], "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn with(id: Option<&str>, pods: &[Value]) -> Pods {
        let image = Brought {
            reference: "r/ztunnel:dev".to_owned(),
            id: id.map(str::to_owned),
        };
        Pods::of(pods, &[image])
    }

    fn ours(pods: &[Value]) -> Pods {
        with(None, pods)
    }

    #[test]
    fn only_pods_of_the_part_are_replaced() {
        let (image, mut bare) = ("r/ztunnel:dev", pod("bare", "x", "r/ztunnel:dev", true));
        bare["metadata"]["ownerReferences"].take();
        let mut done = pod("done", "Job", image, false);
        done["status"]["phase"] = json!("Succeeded");
        let pods = [
            pod("a", "DaemonSet", image, true),
            pod("other", "DaemonSet", "r/agent:dev", true),
            bare,
            done,
        ];
        assert_eq!(
            ours(&pods).by_namespace(),
            BTreeMap::from([("ambit-system", vec!["a"])])
        );
    }

    #[test]
    fn a_daemon_is_replaced_on_every_node() {
        let image = "r/ztunnel:dev";
        let (a, b) = (
            pod("a", "DaemonSet", image, true),
            pod("b", "DaemonSet", image, true),
        );
        let old = ours(&[a.clone(), b]);
        let (c, d) = (
            pod("c", "DaemonSet", image, true),
            pod("d", "DaemonSet", image, true),
        );
        assert!(ours(&[c.clone(), d.clone()]).replace(&old).is_ok());
        assert!(ours(std::slice::from_ref(&c)).replace(&old).is_err());
        assert!(ours(&[a, c.clone(), d]).replace(&old).is_err());
        assert!(
            ours(&[c, pod("d", "DaemonSet", image, false)])
                .replace(&old)
                .is_err()
        );
    }

    #[test]
    fn a_deployment_may_have_got_smaller() {
        let image = "r/ztunnel:dev";
        let old = ours(&[
            pod("a", "ReplicaSet", image, true),
            pod("b", "ReplicaSet", image, true),
        ]);
        assert!(ours(&[pod("c", "ReplicaSet", image, true)]).replace(&old).is_ok());
        assert!(ours(&[]).replace(&old).is_err());
    }

    #[test]
    fn a_pod_with_the_image_that_was_brought_stays() {
        let image = "r/ztunnel:dev";
        let pods = [
            pod("a", "DaemonSet", image, true),
            pod("b", "DaemonSet", image, true),
        ];
        let old = with(Some("sha256:a"), &pods).outdated();
        assert_eq!(old.by_namespace(), BTreeMap::from([("ambit-system", vec!["b"])]));
        assert_eq!(ours(&pods).outdated().0.len(), 2);
        // Another image than the one that was brought is no replacement.
        let c = [pod("c", "DaemonSet", image, true)];
        assert!(with(Some("sha256:c"), &c).replace(&old).is_ok());
        assert!(with(Some("sha256:d"), &c).replace(&old).is_err());
    }
}
