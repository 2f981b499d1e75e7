//! Requests that rules are asked about again.

use std::borrow::Cow;

use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_policy::http::{Attributes, HttpRequest, normalize_host, readings};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method};

use super::connection::{ClientConnection, Target};
use crate::http::headers::Fields;
use crate::state::RuleSet;

/// A request that rules may be asked about again.
pub(super) struct Asked {
    method: Method,
    /// As applications may read it; none where it is malformed.
    paths: Vec<String>,
    authority: Option<Authority>,
    /// Without hop-by-hop fields.
    headers: HeaderMap,
    /// The backend that a route sends it to, with its port, and the request as the backend is sent it.
    routed: Option<(Box<str>, u16, Box<Self>)>,
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
            routed: None,
        }
    }

    /// A route sends it to this backend, changed so.
    pub(super) fn routed(&mut self, backend: &str, port: u16, changed: Self) {
        self.routed = Some((backend.into(), port, Box::new(changed)));
    }

    /// Decides on it by the rules of its target, and of the backend that a route sends it to.
    pub(super) fn decide_at(&self, client: &ClientConnection, target: &Target) -> Decision {
        let decision = self.decide(&client.identity, target.rules());
        let Some((backend, port, changed)) = &self.routed else {
            return decision;
        };
        // What is not configured any more gets no new requests; this one has its endpoint.
        match client.backend(backend, *port) {
            Some(backend) if decision.is_allowed() => changed.decide(&client.identity, backend.rules()),
            _ => decision,
        }
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
