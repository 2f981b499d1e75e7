//! What is open is held against rules that change.

use ambit_policy::{Decision, Reason};
use tokio::time::Instant;

use super::connection::{ClientConnection, Target};
use crate::proxy::CONFIGURATION_WAIT;
use crate::state::Endpoint;

/// Why what is open may not go on.
pub(crate) enum Revoked {
    /// This denies it.
    Denied(Decision),
    /// What it is for has not been served here for as long as the drain deadline.
    Unserved,
}

impl Revoked {
    /// What is said of [`Revoked::Unserved`].
    pub(crate) const UNSERVED: &str =
        "this waypoint no longer serves the destination, and the drain deadline was over";
}

impl ClientConnection {
    /// Resolves when what was allowed is not any more, with what says so. `decide` is asked by the rules for requests: now, as they may
    /// have changed since the first decision, and whenever they may have changed again.
    pub(crate) async fn until_revoked(
        &self,
        endpoint: &Endpoint,
        decide: impl Fn(&Target) -> Decision,
    ) -> Revoked {
        let mut changes = self.proxy.state.decisions_changed();
        let mut dismissed = self.proxy.state.dismissed();
        let (mut missing, mut unserved) = (None, None);
        loop {
            let target = self.target().ok();
            match self.denial(endpoint, target.as_ref().map(&decide)) {
                None => missing = None,
                // A policy comes and goes apart from what names it.
                Some(denial)
                    if matches!(denial.reason, Reason::PolicyMissing(_))
                        && Instant::now()
                            < *missing.get_or_insert_with(|| Instant::now() + CONFIGURATION_WAIT) => {}
                Some(denial) => return Revoked::Denied(denial),
            }
            if target.is_some() {
                unserved = None;
            } else if Instant::now()
                >= *unserved.get_or_insert_with(|| Instant::now() + self.proxy.timeouts.drain_deadline)
            {
                return Revoked::Unserved;
            }
            let deadline = [missing, unserved].into_iter().flatten().min();
            let changed = async {
                tokio::select! {
                    told = changes.changed() => told,
                    told = dismissed.changed() => told,
                }
            };
            let told = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, changed).await.unwrap_or(Ok(())),
                None => changed.await,
            };
            // The state that tells of changes lives as long as the connection.
            if told.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What denies the connection now: the decision by the rules for requests, of which there is none where its destination is no longer
    /// served, or that of the policies for connections.
    fn denial(&self, endpoint: &Endpoint, by_rules: Option<Decision>) -> Option<Decision> {
        let unserved = by_rules.is_none();
        if let Some(decision) = by_rules.filter(|decision| !decision.is_allowed()) {
            return Some(decision);
        }
        let known = self.proxy.state.workload(&endpoint.workload.uid);
        let decision = self.decide_l4(known.as_ref().unwrap_or(&endpoint.workload), endpoint.target);
        // Of a pod that is no endpoint here any more the policies that it names are not sent: the others hold.
        let unsent = unserved && known.is_none() && matches!(decision.reason, Reason::PolicyMissing(_));
        (!decision.is_allowed() && !unsent).then_some(decision)
    }
}
