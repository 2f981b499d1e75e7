//! The agent's state on disk: with it, a node can boot and pods can be captured while no control plane responds.

use crate::files::write_atomically;
use ambit_wire::agent::PodCapture;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The content of `snapshot.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Snapshot {
    /// The latest settings of each pod of the node from the control plane.
    pub pods: Vec<PodEntry>,
    /// The known sandboxes of pods.
    pub sandboxes: Vec<CapturedPod>,
    /// Namespaces whose pods are captured by default.
    pub enrolled_namespaces: Vec<String>,
    /// The mesh's trust domain.
    pub trust_domain: Option<String>,
    /// Seconds for open connections of a released pod.
    pub drain_deadline_seconds: Option<u32>,
    /// Whether the mesh is being removed.
    pub uninstall: bool,
}

/// A `PodCapture` on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of ambit.agent.v1.PodCapture")]
pub struct PodEntry {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub capture: bool,
    pub probe_ports: Vec<u32>,
    pub addresses: Vec<String>,
    pub marked: bool,
}

/// A pod's sandbox on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedPod {
    /// The pod.
    pub uid: String,
    /// Its sandbox.
    #[serde(flatten)]
    pub sandbox: SandboxRecord,
}

/// The sandbox of a pod, from a CNI call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The runtime's id of the sandbox.
    pub sandbox_id: String,
    /// Path of the network namespace.
    pub netns_path: PathBuf,
    /// Its inode, since another namespace may later have the same path.
    pub netns_inode: u64,
    /// The pod's addresses.
    pub addresses: Vec<String>,
}

impl From<&PodCapture> for PodEntry {
    fn from(pod: &PodCapture) -> Self {
        let pod = pod.clone();
        Self {
            uid: pod.uid,
            name: pod.name,
            namespace: pod.namespace,
            service_account: pod.service_account,
            capture: pod.capture,
            probe_ports: pod.probe_ports,
            addresses: pod.addresses,
            marked: pod.marked,
        }
    }
}

impl From<&PodEntry> for PodCapture {
    fn from(pod: &PodEntry) -> Self {
        let pod = pod.clone();
        Self {
            uid: pod.uid,
            name: pod.name,
            namespace: pod.namespace,
            service_account: pod.service_account,
            capture: pod.capture,
            reason: String::new(),
            probe_ports: pod.probe_ports,
            addresses: pod.addresses,
            marked: pod.marked,
        }
    }
}

impl Snapshot {
    /// Reads the snapshot. A snapshot that cannot be read is logged, and counts as absent. Absent is not the same as
    /// empty: nothing is known, and the control plane sends everything again.
    pub fn load(path: &Path) -> Option<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the snapshot cannot be read; starting without one");
                return None;
            }
        };
        serde_json::from_slice(&text)
            .inspect_err(|e| {
                tracing::warn!(path = %path.display(), error = %e, "the snapshot is damaged; starting without one");
            })
            .ok()
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }
}

/// Writes each new snapshot to `path`. Ends after the last snapshot is written.
pub async fn keep_snapshot(path: PathBuf, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let path = path.clone();
        let saved = tokio::task::spawn_blocking(move || (snapshot.save(&path), path)).await;
        if let Ok((Err(e), path)) = saved {
            tracing::error!(path = %path.display(), error = %e,
                "the snapshot cannot be written; a restart without a control plane would use an older one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snapshot.json");
        assert_eq!(Snapshot::load(&path), None);
        let pod = PodEntry {
            uid: "u".into(),
            capture: true,
            probe_ports: vec![8080],
            ..Default::default()
        };
        let snapshot = Snapshot {
            pods: vec![pod],
            enrolled_namespaces: vec!["shop".into()],
            ..Default::default()
        };
        snapshot.save(&path).expect("saved");
        assert_eq!(Snapshot::load(&path), Some(snapshot));
        let names: Vec<_> = std::fs::read_dir(directory.path()).expect("listed").collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_snapshot_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snapshot.json");
        std::fs::write(&path, "{\"pods\": [").expect("written");
        assert_eq!(Snapshot::load(&path), None);
    }
}
