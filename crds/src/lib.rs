//! Ambit's Kubernetes kinds.
