//! A real Kubernetes cluster, embedded, and the tests on it.
