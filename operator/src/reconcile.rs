//! What the cluster holds.
