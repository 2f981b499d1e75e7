//! Edits of the test: in each program a line that it logs when it starts.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ambit_e2e::cluster::Cluster;
use ambit_e2e::{eventually, kube, mesh};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Many times the 20 s that an edit is to take.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// What an edit adds to the line.
const MARK: &str = ", as edited";

/// An edit, and the pods that it reaches.
pub(super) struct Edit {
    pub(super) program: &'static str,
    file: &'static str,
    line: &'static str,
    namespace: &'static str,
    selector: &'static str,
}

pub(super) const EDITS: [Edit; 4] = [
    Edit {
        program: "ztunnel",
        file: "ztunnel/src/ztunnel.rs",
        line: "limits of connections",
        namespace: mesh::NAMESPACE,
        selector: "app=ztunnel",
    },
    Edit {
        program: "agent",
        file: "agent/src/node.rs",
        line: "agent starts",
        namespace: mesh::NAMESPACE,
        selector: "app=ambit-agent",
    },
    Edit {
        program: "operator",
        file: "operator/src/reconcile/watch.rs",
        line: "initial sync is done",
        namespace: mesh::NAMESPACE,
        selector: "app.kubernetes.io/name in (ambit-operator, ambit-control)",
    },
    Edit {
        program: "waypoint",
        file: "waypoint/src/main.rs",
        line: "waypoint starts",
        namespace: "shop",
        selector: "ambit.dev/waypoint=waypoint",
    },
];

impl Edit {
    /// Makes the file newer than all that is compiled: an earlier run may have left a program with the edit in it.
    pub(super) fn touch(&self, tree: &Path) -> Result<()> {
        let file = File::options().append(true).open(tree.join(self.file))?;
        file.set_modified(SystemTime::now())
            .with_context(|| format!("cannot touch {}", self.file))
    }

    /// Edits the line, and waits until every pod is Ready and has logged it; returns how long that took.
    pub(super) fn make(&self, tree: &Path, cluster: &Cluster) -> Result<Duration> {
        let file = tree.join(self.file);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (before, after) = (self.quoted(""), self.quoted(MARK));
        ensure!(text.contains(&before), "{} has no {before}", self.file);
        let pods = self.pods(cluster)?.len();
        let start = Instant::now();
        fs::write(&file, text.replace(&before, &after))?;
        let what = format!("every {} to run what was edited", self.program);
        eventually(&what, LIMIT, || self.reached(cluster, pods))?;
        Ok(start.elapsed())
    }

    fn pods(&self, cluster: &Cluster) -> Result<Vec<Value>> {
        let pods = cluster.list(&["pods", "--namespace", self.namespace, "--selector", self.selector])?;
        ensure!(!pods.is_empty(), "there is no {}", self.program);
        Ok(pods)
    }

    /// Whether as many pods as before run what was edited, and no other.
    fn reached(&self, cluster: &Cluster, before: usize) -> Result<()> {
        let pods = self.pods(cluster)?;
        ensure!(pods.len() >= before, "{} of {before} are there", pods.len());
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let ready = kube::condition(&pod, "Ready").is_some_and(|(status, ..)| status == "True");
            let log = cluster.logs(self.namespace, name)?;
            ensure!(
                ready && log.contains(&format!("{}{MARK}", self.line)),
                "{name} is the one before, or not Ready"
            );
        }
        Ok(())
    }

    fn quoted(&self, mark: &str) -> String {
        format!("\"{}{mark}\"", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn each_line_to_edit_is_there_once() {
        for edit in EDITS {
            let text = fs::read_to_string(workspace::root().join(edit.file)).unwrap();
            assert_eq!(text.matches(&edit.quoted("")).count(), 1, "{}", edit.file);
        }
    }
}
