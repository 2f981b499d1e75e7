//! Pods restart with images that were loaded under names they run already.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{NAMESPACE, READY_LIMIT, is_ready, wait_ready};
use crate::cluster::Cluster;
use crate::eventually;

/// The images that `cargo xtask images` makes.
const OURS: &str = "localhost/ambit/";

/// Ends every pod that runs an image of ours, for its controller to replace it; those without a controller stay as they
/// are. Waits until Ambit's own pods are Ready again, and the Mesh, if it was. Returns how many pods were ended.
///
/// # Errors
/// When that is not so in four minutes.
pub fn restart(cluster: &Cluster) -> Result<usize> {
    let old = replaceable(&cluster.list(&["pods", "--all-namespaces"])?);
    let was_ready = cluster
        .get(&["mesh", "default"])
        .and_then(|mesh| is_ready(&mesh))
        .is_ok();
    for (namespace, pods) in &old {
        // They have no traffic that is worth a drain.
        let delete = [
            "delete",
            "pods",
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--grace-period=1",
            "--wait=false",
        ];
        let names: Vec<&str> = pods.values().map(String::as_str).collect();
        cluster.run_kubectl(&[&delete[..], &names].concat())?;
    }
    let own = old.get(NAMESPACE).cloned().unwrap_or_default();
    eventually(
        "Ambit's pods to be Ready with the images that were loaded",
        READY_LIMIT,
        || {
            let now = cluster.list(&["pods", "--namespace", NAMESPACE])?;
            renewed(&own, &now)
        },
    )?;
    if was_ready {
        wait_ready(cluster)?;
    }
    Ok(old.values().map(BTreeMap::len).sum())
}

/// UID and name of the pods that a controller replaces, by namespace.
fn replaceable(pods: &[Value]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_ours(pod)) {
        let metadata = &pod["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let owners = metadata["ownerReferences"].as_array();
        let controlled = owners.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true));
        // A Job's pod that is done is replaced by none.
        let done = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if controlled && !done && metadata["deletionTimestamp"].is_null() {
            found
                .entry(text("namespace"))
                .or_default()
                .insert(text("uid"), text("name"));
        }
    }
    found
}

fn is_ours(pod: &Value) -> bool {
    let containers = pod["spec"]["containers"].as_array();
    let images = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["image"].as_str());
    images.into_iter().any(|image| image.starts_with(OURS))
}

/// Whether none of the old pods is left, and as many are Ready.
fn renewed(old: &BTreeMap<String, String>, now: &[Value]) -> Result<()> {
    let uids: BTreeSet<&str> = now
        .iter()
        .filter_map(|pod| pod["metadata"]["uid"].as_str())
        .collect();
    for (uid, name) in old {
        ensure!(!uids.contains(uid.as_str()), "{name} is there still");
    }
    let ready =
        |pod: &&Value| crate::kube::condition(pod, "Ready").is_some_and(|(status, ..)| status == "True");
    let count = now.iter().filter(ready).count();
    ensure!(count >= old.len(), "{count} of {} are Ready", old.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, image: &str) -> Value {
        json!({
            "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "ownerReferences": [{"controller": true}]},
            "spec": {"containers": [{"image": "registry.k8s.io/other:1"}, {"image": image}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    #[test]
    fn controlled_pods_of_our_images_are_replaced() {
        let ours = "localhost/ambit/ztunnel:dev";
        let (mut bare, mut ending) = (pod("shop", "bare", ours), pod("shop", "ending", ours));
        bare["metadata"]["ownerReferences"].take();
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut done = pod(NAMESPACE, "hook", ours);
        done["status"]["phase"] = json!("Succeeded");
        let pods = [
            pod(NAMESPACE, "ztunnel", ours),
            pod("shop", "waypoint", ours),
            pod("kube-system", "coredns", "localhost/coredns:1"),
            bare,
            ending,
            done,
        ];
        let found = replaceable(&pods);
        let names: Vec<_> = found
            .iter()
            .flat_map(|(namespace, pods)| pods.values().map(move |name| (namespace.as_str(), name.as_str())))
            .collect();
        assert_eq!(names, [(NAMESPACE, "ztunnel"), ("shop", "waypoint")]);
    }

    #[test]
    fn renewed_when_replacements_are_ready() {
        let image = "localhost/ambit/agent:dev";
        let old = BTreeMap::from([("uid-a".to_owned(), "a".to_owned())]);
        assert!(renewed(&BTreeMap::new(), &[]).is_ok());
        assert!(renewed(&old, &[]).is_err());
        assert!(renewed(&old, &[pod(NAMESPACE, "a", image), pod(NAMESPACE, "b", image)]).is_err());
        let mut other = pod(NAMESPACE, "b", image);
        assert!(renewed(&old, std::slice::from_ref(&other)).is_ok());
        other["status"]["conditions"][0]["status"] = json!("False");
        assert!(renewed(&old, &[other]).is_err());
    }
}
