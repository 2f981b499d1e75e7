//! Cluster objects in, configuration out.
