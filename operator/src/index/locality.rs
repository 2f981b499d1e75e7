//! Where nodes are.

use ambit_wire::workload::Locality;
use k8s_openapi::api::core::v1::Node;

use super::Index;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where a node is by its labels; `None` where they do not say.
fn of(node: &Node) -> Option<Locality> {
    let labels = node.metadata.labels.as_ref()?;
    let label = |key| labels.get(key).cloned().unwrap_or_default();
    let locality = Locality {
        region: label(REGION),
        zone: label(ZONE),
        subzone: String::new(),
    };
    (locality != Locality::default()).then_some(locality)
}

impl Index {
    /// A node as it is now; `None` when it is gone.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) {
        let locality = node.and_then(of);
        if self.localities.get(name) == locality.as_ref() {
            return;
        }
        match locality {
            Some(locality) => self.localities.insert(name.to_owned(), locality),
            None => self.localities.remove(name),
        };
        let pods: Vec<_> = self.pods_on(name).map(|(key, _)| key.clone()).collect();
        self.dirty.pods.extend(pods);
    }

    pub(super) fn locality(&self, node: &str) -> Option<Locality> {
        self.localities.get(node).cloned()
    }
}
