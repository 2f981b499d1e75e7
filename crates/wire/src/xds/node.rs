//! Who a client of xDS says that it is.

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::discovery::Node;

impl Node {
    /// A node of this id, with metadata by name.
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

    /// As Istio's proxies name themselves, so that a foreign control plane understands.
    pub fn proxy(kind: &str, name: &str, namespace: &str, metadata: &[(&str, &str)]) -> Self {
        let id = format!("{kind}~0.0.0.0~{name}.{namespace}~{namespace}.svc.cluster.local");
        let own = [("NAME", name), ("NAMESPACE", namespace)];
        Self::new(id, &[&own, metadata].concat())
    }
}
