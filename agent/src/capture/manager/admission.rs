//! CNI calls: a new pod is captured before its first process, or the call fails and the kubelet tries again.

use super::Manager;
use crate::capture::effects::Answer;
use crate::capture::failure::{Failure, Reason};
use crate::capture::machine::Event;
use crate::capture::pod::{Admission, Pod, Waiter};
use crate::snapshot::SandboxRecord;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a call waits for the control plane's record of its pod.
const RECORD_TIME: Duration = Duration::from_secs(5);
/// How long a call waits for the capture.
const CAPTURE_TIME: Duration = Duration::from_secs(10);

/// A CNI ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionRequest {
    /// The pod's UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its sandbox.
    pub sandbox: SandboxRecord,
}

/// Whether the UID is of a static pod: the kubelet's hash of its manifest, where those of the API server are UUIDs. The control plane knows
/// such a pod's mirror only, under another UID.
fn is_static(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A call for a pod that the control plane has not spoken of yet.
#[derive(Debug)]
pub(super) struct Undecided {
    request: AdmissionRequest,
    waiter: Waiter,
}

impl Pod {
    /// Calls for another sandbox than this one: what they wait for will not come.
    fn supersede(&mut self, sandbox_id: &str) {
        let (current, former): (Vec<_>, Vec<_>) = self
            .waiters
            .drain(..)
            .partition(|waiter| waiter.sandbox_id == sandbox_id);
        self.waiters = current;
        for waiter in former {
            let message = "the runtime has created another sandbox for the pod meanwhile";
            waiter.answer(Err(Failure::new(Reason::SandboxNotFound, message)));
        }
    }
}

impl Manager {
    pub(super) fn on_add(
        &mut self,
        request: AdmissionRequest,
        reply: oneshot::Sender<Result<Admission, Failure>>,
    ) {
        let sandbox_id = request.sandbox.sandbox_id.clone();
        let waiter = |time| Waiter {
            sandbox_id,
            due: Instant::now() + time,
            reply,
        };
        if self.uninstalling {
            return waiter(RECORD_TIME).answer(Ok(Admission::NotCaptured));
        }
        if is_static(&request.uid) {
            tracing::info!(
                namespace = request.namespace,
                pod = request.name,
                "a static pod starts outside of the mesh, since it has no identity"
            );
            return waiter(RECORD_TIME).answer(Ok(Admission::NotCaptured));
        }
        let named = self.pods.get(&request.uid).filter(|pod| pod.is_named());
        let record = named.and_then(|pod| pod.record.as_ref());
        match record.map(|record| record.capture) {
            Some(true) => self.begin(request, waiter(CAPTURE_TIME)),
            Some(false) => waiter(RECORD_TIME).answer(Ok(Admission::NotCaptured)),
            None if self.connected || !self.is_told() => {
                let uid = request.uid.clone();
                self.remind(uid.clone(), RECORD_TIME);
                // The runtime may call again before the first call has its answer.
                self.undecided.entry(uid).or_default().push(Undecided {
                    request,
                    waiter: waiter(RECORD_TIME),
                });
            }
            None => self.answer_unknown(&request, waiter(RECORD_TIME)),
        }
    }

    fn begin(&mut self, request: AdmissionRequest, waiter: Waiter) {
        let uid = request.uid;
        let Some(pod) = self.pods.get_mut(&uid) else {
            return;
        };
        let known = pod.location.as_ref().map(|location| location.netns.inode());
        let same = known == Some(request.sandbox.netns_inode);
        pod.supersede(&request.sandbox.sandbox_id);
        pod.sandbox = Some(request.sandbox);
        pod.waiters.push(waiter);
        self.remind(uid.clone(), CAPTURE_TIME);
        if !same {
            self.feed(&uid, Event::SandboxMade);
        }
        self.feed(&uid, Event::Capture);
    }

    fn remind(&mut self, uid: String, time: Duration) {
        self.tasks.spawn(async move {
            tokio::time::sleep(time).await;
            Answer::AdmissionDue { uid }
        });
    }

    /// The control plane's record of a pod has come: calls that waited for it go on.
    pub(super) fn decide_undecided(&mut self, uid: &str) {
        for Undecided { request, waiter } in self.undecided.remove(uid).unwrap_or_default() {
            self.on_add(request, waiter.reply);
        }
    }

    /// No control plane is connected any more, or the mesh is going: calls are answered from what is known.
    pub(super) fn decide_all_undecided(&mut self) {
        for Undecided { request, waiter } in std::mem::take(&mut self.undecided).into_values().flatten() {
            self.answer_unknown(&request, waiter);
        }
    }

    /// No record of the pod: whether its namespace is enrolled decides. Where that was never told, it may be.
    fn answer_unknown(&self, request: &AdmissionRequest, waiter: Waiter) {
        let passes = self.is_told() && !self.namespaces.contains(&request.namespace);
        if passes || self.uninstalling {
            return waiter.answer(Ok(Admission::NotCaptured));
        }
        let said = match (self.is_told(), self.connected) {
            (false, true) => "has not sent the enrolled namespaces yet",
            (false, false) => "has never sent the enrolled namespaces and is not connected",
            (true, true) => "has not sent a record of the pod yet",
            (true, false) => "is not connected",
        };
        let enrolled = if self.is_told() { "is" } else { "may be" };
        let message = format!(
            "namespace {} {enrolled} enrolled and the control plane {said}: pod {} must not start \
             outside the mesh",
            request.namespace, request.name
        );
        waiter.answer(Err(Failure::new(Reason::PodUnknown, message)));
    }

    /// The time of one or more calls of this pod is over.
    pub(super) fn admission_due(&mut self, uid: &str) {
        let now = Instant::now();
        let undecided = self.undecided.remove(uid).unwrap_or_default();
        let (due, waiting): (Vec<_>, Vec<_>) = undecided.into_iter().partition(|call| call.waiter.due <= now);
        if !waiting.is_empty() {
            self.undecided.insert(uid.to_owned(), waiting);
        }
        for Undecided { request, waiter } in due {
            self.answer_unknown(&request, waiter);
        }
        let has_ztunnel = !self.sessions.is_empty();
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let obstacle = pod.obstacle(has_ztunnel);
        let (due, waiting): (Vec<_>, Vec<_>) = pod.waiters.drain(..).partition(|waiter| waiter.due <= now);
        pod.waiters = waiting;
        for waiter in due {
            let failure = obstacle
                .clone()
                .unwrap_or_else(|| Failure::new(Reason::InProgress, "not captured yet"));
            waiter.answer(Err(failure));
        }
    }

    /// A CNI DEL. A call for a sandbox that is not the pod's present one changes nothing.
    pub(super) fn on_sandbox_gone(&mut self, uid: Option<&str>, sandbox_id: &str) {
        let is_its = |pod: &Pod| {
            let located = pod.location.as_ref().map(|location| location.sandbox_id.as_str());
            located.or(pod.sandbox.as_ref().map(|sandbox| sandbox.sandbox_id.as_str())) == Some(sandbox_id)
        };
        let found = self
            .pods
            .iter()
            .find(|(of, pod)| uid.is_none_or(|uid| uid == *of) && is_its(pod));
        let Some(uid) = found.map(|(uid, _)| uid.clone()) else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.sandbox = None;
        }
        self.feed(&uid, Event::SandboxGone);
    }
}
