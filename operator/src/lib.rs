//! The operator: control plane, reconcilers, index.
