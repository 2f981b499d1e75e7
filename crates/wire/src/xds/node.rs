//! The node of an xDS client: its claimed identity.

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::discovery::Node;

impl Node {
    /// A node with this id, and metadata by name.
    pub fn new(id: String, metadata: &[(&str, &str)]) -> Self {
        let field = |&(name, value): &(&str, &str)| {
            let kind = Some(Kind::StringValue(value.to_owned()));
            (name.to_owned(), Value { kind })
        };
        let fields = metadata.iter().map(field).collect();
        Self {
            id,
            metadata: Some(Struct { fields }),
            ..Self::default()
        }
    }

    /// The id in the format of Istio's proxies, which a foreign control plane understands.
    pub fn proxy(kind: &str, name: &str, namespace: &str, metadata: &[(&str, &str)]) -> Self {
        let id = format!("{kind}~0.0.0.0~{name}.{namespace}~{namespace}.svc.cluster.local");
        let own = [("NAME", name), ("NAMESPACE", namespace)];
        Self::new(id, &[&own, metadata].concat())
    }
}
