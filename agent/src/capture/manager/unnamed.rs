//! Pods that are on the node and that the control plane does not name: deleted by force, ended a moment ago, or unknown to a replica
//! whose cache lags. Their containers may still run, so what was captured stays so until the sandbox ends.

use super::Manager;
use crate::capture::effects::Answer;
use crate::capture::machine::State;
use crate::capture::pod::Pod;
use std::sync::Arc;
use std::time::Duration;

/// How often the container runtime is asked about such a pod's sandbox. Its end comes as a CNI DEL; one that is missed must not
/// keep a dead network namespace alive.
const LOOK: Duration = Duration::from_secs(10);

impl Manager {
    pub(super) fn on_pod_gone(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.gone = true;
        if *pod.machine.state() == State::Captured {
            tracing::info!(
                pod.uid = uid,
                "the control plane has no record of the pod any more; the pod stays captured until its \
                 sandbox ends"
            );
        }
        self.reconsider(uid);
    }

    /// Has the runtime asked after a while, as long as there is such a pod with something of ours in it.
    pub(super) fn watch_unnamed(&mut self) {
        let any = self
            .pods
            .values()
            .any(|pod| !pod.is_named() && !pod.machine.is_clean());
        if any && !self.looking {
            self.looking = true;
            self.tasks.spawn(async {
                tokio::time::sleep(LOOK).await;
                Answer::LookDue
            });
        }
    }

    pub(super) fn look_at_unnamed(&mut self) {
        self.looking = false;
        self.look_at(|pod, _| !pod.is_named() && !pod.machine.is_clean());
        self.watch_unnamed();
    }

    /// Has the runtime asked whether the sandboxes of these pods still are.
    pub(super) fn look_at(&mut self, which: impl Fn(&Pod, &str) -> bool) {
        for (uid, pod) in &self.pods {
            let Some(location) = &pod.location else { continue };
            // While a CNI ADD is under way the runtime does not list the sandbox yet.
            if !pod.waiters.is_empty() || !which(pod, &location.sandbox_id) {
                continue;
            }
            let runtime = Arc::clone(&self.settings.runtime);
            let (uid, sandbox_id) = (uid.clone(), location.sandbox_id.clone());
            self.tasks.spawn(async move {
                // A runtime that does not answer has not said that anything ended.
                let ended = match runtime.sandbox(&uid).await {
                    Ok(sandbox) => sandbox.is_none_or(|sandbox| sandbox.id != sandbox_id),
                    Err(_) => false,
                };
                Answer::Looked {
                    uid,
                    sandbox_id,
                    ended,
                }
            });
        }
    }
}
