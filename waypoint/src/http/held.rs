//! What is open is held against rules that change.

use std::borrow::Cow;

use ambit_policy::http::{Attributes, HttpRequest, normalize_host, readings};
use ambit_policy::{Decision, Reason};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::connection::{ClientConnection, Target};
use super::headers::Fields;
use crate::proxy::CONFIGURATION_WAIT;
use crate::state::{Endpoint, RuleSet};

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
        "this waypoint does not serve the destination any more, and the drain deadline was over";
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

/// A request that rules may be asked about again.
pub(super) struct Asked {
    method: Method,
    /// As applications may read it; none where it is malformed.
    paths: Vec<String>,
    authority: Option<Authority>,
    /// Without hop-by-hop fields.
    headers: HeaderMap,
}

impl Asked {
    /// As the client sent it, but for hop-by-hop fields.
    pub(super) fn new(head: &Parts, authority: Option<&Authority>) -> Self {
        Self {
            method: head.method.clone(),
            paths: readings(head.uri.path())
                .into_iter()
                .flatten()
                .map(Cow::into_owned)
                .collect(),
            authority: authority.cloned(),
            headers: head.headers.clone(),
        }
    }

    /// Decides on it by these rules.
    pub(super) fn decide(&self, client: &ClientConnection, rules: &RuleSet) -> Decision {
        // What has no normal form cannot be compared: as with a connection that is no HTTP, no rule for requests allows it, and
        // every one that denies some denies it.
        let host = self.authority.as_ref().map(|one| normalize_host(one.as_str()));
        let comparable = (!self.paths.is_empty() || !rules.has_path_rules()) && host != Some(None);
        let headers = Fields {
            headers: &self.headers,
            authority: self.authority.as_ref(),
        };
        let evaluate = |path: &str| {
            rules.evaluate(&HttpRequest {
                principal: Some(client.identity.principal()),
                attributes: comparable.then(|| Attributes {
                    method: self.method.as_str(),
                    path,
                    host: host.as_ref().and_then(Option::as_deref).unwrap_or_default(),
                    headers: &headers,
                }),
            })
        };
        let (normal, others) = match self.paths.split_first() {
            Some((normal, others)) => (&**normal, others),
            None => ("", &[][..]),
        };
        let decision = evaluate(normal);
        let mut other = others.iter().map(|path| evaluate(path));
        let denied = other.find(|other| !other.is_allowed());
        denied.filter(|_| decision.is_allowed()).unwrap_or(decision)
    }
}
