//! The operator's own replicas: while two versions of it run, the later one leads.

use ambit_crds::labels;

use super::{Index, Key, PodRecord};

impl Index {
    /// Whether a replica of a later version than this `namespace`/`name` is ready. As the leader an older one would roll back what the later one
    /// has rolled out. Where the later ones are on their way out, as after a roll-back, the older one leads.
    pub fn is_outdated(&self, namespace: &str, name: &str) -> bool {
        let key = Key::new(namespace, name);
        let Some(own) = self.pods.get(&key) else {
            return false;
        };
        let component = |pod: &PodRecord| pod.labels.get(labels::NAME).cloned();
        let ours = version(own);
        self.pods_in(namespace).any(|(_, pod)| {
            pod.ready && !pod.terminating && component(pod) == component(own) && version(pod) > ours
        })
    }
}

/// The numbers at the beginning of a version; what comes after them (`-rc.1`) makes no difference.
fn version(pod: &PodRecord) -> Vec<u64> {
    let text = pod.labels.get(labels::VERSION).map(String::as_str);
    let parts = text.unwrap_or_default().split(['.', '-', '+']);
    parts.map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::index::Config;

    fn pod(index: &mut Index, name: &str, version: &str, more: Value) {
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "ambit-system", "uid": name,
                "labels": {labels::NAME: "ambit-operator", labels::VERSION: version},
            },
            "spec": {"nodeName": "n1", "serviceAccountName": "ambit-operator", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (field, value) in more.as_object().unwrap() {
            *pod.pointer_mut(field).unwrap() = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        index.set_pod(&Key::new("ambit-system", name), PodRecord::of(&pod));
    }

    #[test]
    fn older_replica_lets_a_later_one_lead() {
        for (own, other, more, outdated) in [
            ("0.1.0", "0.2.0", json!({}), true),
            ("0.9.0", "0.10.0", json!({}), true),
            ("0.2.0", "0.2.0", json!({}), false),
            ("0.2.0", "0.1.9", json!({}), false),
            ("0.2.0", "dev", json!({}), false),
            (
                "0.1.0",
                "0.2.0",
                json!({"/status/conditions/0/status": "False"}),
                false,
            ),
            (
                "0.1.0",
                "0.2.0",
                json!({"/metadata/labels/app.kubernetes.io~1name": "other"}),
                false,
            ),
        ] {
            let mut index = Index::new(Config::default());
            pod(&mut index, "own", own, json!({}));
            pod(&mut index, "other", other, more.clone());
            assert_eq!(
                index.is_outdated("ambit-system", "own"),
                outdated,
                "{own} {other} {more}"
            );
            assert!(!index.is_outdated("ambit-system", "gone"));
        }
    }
}
