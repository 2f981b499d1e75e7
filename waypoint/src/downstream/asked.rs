//! Requests that rules are asked about again.

use std::borrow::Cow;

use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_policy::http::{Attributes, HttpRequest, normalize_host, readings};
use http::request::Parts;
use http::uri::{Authority, Uri};
use http::{HeaderMap, Method};

use super::answer::Rejection;
use super::connection::{ClientConnection, Target};
use super::route::{self, Head};
use crate::http::headers::Fields;
use crate::state::RuleSet;

/// A request that rules may be asked about again.
pub(super) struct Asked {
    method: Method,
    uri: Uri,
    /// As applications may read it; none where it is malformed.
    paths: Vec<String>,
    authority: Option<Authority>,
    /// Without hop-by-hop fields.
    headers: HeaderMap,
    routed: Option<Box<Routed>>,
}

/// What a route makes of a request.
struct Routed {
    /// The backend that it is sent to, with its port.
    backend: Box<str>,
    port: u16,
    /// The request as the backend is sent it.
    changed: Asked,
    /// It is a consumer's route.
    consumers: bool,
}

impl Asked {
    /// As the client sent it, but for hop-by-hop fields.
    pub(super) fn new(head: &Parts, authority: Option<&Authority>) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            paths: readings(head.uri.path())
                .into_iter()
                .flatten()
                .map(Cow::into_owned)
                .collect(),
            authority: authority.cloned(),
            headers: head.headers.clone(),
            routed: None,
        }
    }

    /// A route, perhaps a consumer's, sends it to this backend, changed so.
    pub(super) fn routed(&mut self, backend: &str, port: u16, changed: Self, consumers: bool) {
        self.routed = Some(Box::new(Routed {
            backend: backend.into(),
            port,
            changed,
            consumers,
        }));
    }

    fn head(&self) -> Head<'_> {
        Head {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            authority: self.authority.as_ref(),
        }
    }

    /// Decides on it by the rules of its target, and of the backend that a route sends it to.
    pub(super) fn decide_at(&self, client: &ClientConnection, target: &Target) -> Decision {
        let (rules, passed_over) = route::rules_now(client, target, self.head());
        let mut decision = self.decide(&client.identity, rules);
        if let Some(rules) = passed_over.filter(|_| decision.is_allowed()) {
            decision = self.decide(&client.identity, rules);
        }
        let Some(routed) = self.routed.as_ref().filter(|_| decision.is_allowed()) else {
            return decision;
        };
        // What is not configured any more gets no new requests; this one has its endpoint.
        let backend = client.backend(&routed.backend, routed.port);
        let decided = backend.map(|backend| routed.changed.decide_for(client, &backend, routed.consumers));
        decided.and_then(Result::ok).unwrap_or(decision)
    }

    /// Decides on it by the rules of the backend that a route, perhaps a consumer's, sends it to. An error: its own routes
    /// cannot be asked.
    pub(super) fn decide_for(
        &self,
        client: &ClientConnection,
        backend: &Target,
        consumers: bool,
    ) -> Result<Decision, Rejection> {
        let decision = self.decide(&client.identity, backend.rules());
        let own = consumers.then(|| backend.own_routes()).flatten();
        let Some(own) = own.filter(|_| decision.is_allowed()) else {
            return Ok(decision);
        };
        let rules = route::rules_of(&own, self.head())?;
        Ok(rules.map_or(decision, |rules| self.decide(&client.identity, rules)))
    }

    /// Decides on it by these rules.
    pub(super) fn decide(&self, client: &SpiffeId, rules: &RuleSet) -> Decision {
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
                principal: Some(client.principal()),
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
