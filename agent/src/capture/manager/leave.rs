//! The last minutes of a mesh: an agent that is told to end while the mesh is being removed.

use super::{Leaving, Manager};
use crate::capture::failure::{Failure, Reason};
use crate::capture::lane::Lane;
use crate::capture::location::Uid;
use crate::capture::location::locate;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// For all pods together, within the agent's grace period.
const TIME: Duration = Duration::from_secs(8);

impl Manager {
    /// Removes every redirection now, whatever connections are open: after this agent and the ztunnels nobody would serve them, and
    /// a redirected pod has no network.
    pub(super) async fn release_at_once(&mut self) {
        let mut jobs = JoinSet::new();
        for (uid, pod) in self.pods.iter().filter(|(_, pod)| !pod.machine.is_clean()) {
            jobs.spawn(self.remove_redirection(uid.clone(), pod.lane.clone()));
        }
        let pods = jobs.len();
        let mut left = 0;
        let all = async {
            while let Some(done) = jobs.join_next().await {
                left += usize::from(!matches!(done, Ok(true)));
            }
        };
        let in_time = tokio::time::timeout(TIME, all).await.is_ok();
        if in_time && left == 0 {
            tracing::info!(
                pods,
                "the mesh is being removed: no pod of this node is redirected any more"
            );
            self.settings.leaving.send_replace(Leaving::Released);
        } else {
            tracing::error!(
                pods,
                left = left + jobs.len(),
                "the mesh is being removed and some pods of this node are still redirected: restart them"
            );
        }
    }

    fn remove_redirection(
        &self,
        uid: Uid,
        lane: Lane,
    ) -> impl Future<Output = bool> + Send + 'static + use<> {
        let pod = self.pods.get(&uid);
        let netns = pod
            .and_then(|pod| pod.location.as_ref())
            .map(|location| location.netns.clone());
        let sandbox = pod.and_then(|pod| pod.sandbox.clone());
        let (runtime, redirection) = (Arc::clone(&self.settings.runtime), Arc::clone(&self.redirection));
        let host = self.settings.host_netns_inode;
        async move {
            let remove = async {
                let netns = match netns {
                    Some(netns) => netns,
                    None => locate(runtime.as_ref(), &uid, sandbox, host).await?.netns,
                };
                let mut turn = lane.turn();
                turn.comes().await;
                redirection.remove(&netns).await
            };
            match remove.await {
                Ok(()) => true,
                Err(Failure {
                    reason: Reason::SandboxNotFound | Reason::HostNetwork,
                    ..
                }) => true,
                Err(failure) => {
                    tracing::error!(pod.uid = uid, reason = %failure.reason, why = failure.message, "the pod stays redirected");
                    false
                }
            }
        }
    }
}
