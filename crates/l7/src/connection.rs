//! Routes of connections: `TCPRoute` and `TLSRoute`.
//!
//! A port has one or the other: where there are both, the more specific `TLSRoute`s apply (GEP-1294). Of several
//! `TCPRoute`s the first applies. Of several `TLSRoute`s that with the most specific host name does, then the first.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Plan, RouteKind, RouteSpec, RuleId};

/// The routes of connections to one port. Immutable.
#[derive(Debug)]
pub enum ConnectionTable {
    /// Every connection has this plan.
    Tcp(Arc<Plan>),
    /// The plan follows from the name of the server in the ClientHello.
    Tls(ServerNames),
}

/// Plans by server name.
#[derive(Debug, Default)]
pub struct ServerNames {
    exact: HashMap<Box<str>, Arc<Plan>>,
    /// By what comes after `*.`.
    wildcards: HashMap<Box<str>, Arc<Plan>>,
    /// Of routes without host names.
    any: Option<Arc<Plan>>,
}

impl ConnectionTable {
    /// The table of these routes, that with precedence first; routes of other kinds are left out. `None`: there are
    /// none. A rule that cannot be honoured has [`Action::Invalid`](crate::Action::Invalid).
    pub fn compile<'a>(routes: impl IntoIterator<Item = &'a RouteSpec>) -> Option<Self> {
        let (mut tcp, mut tls) = (None, None);
        for route in routes {
            match route.name.kind {
                RouteKind::TcpRoute if tcp.is_none() => tcp = Some(plan(route)),
                RouteKind::TlsRoute => tls
                    .get_or_insert_with(ServerNames::default)
                    .add(&route.hostnames, &plan(route)),
                RouteKind::TcpRoute | RouteKind::HttpRoute | RouteKind::GrpcRoute => {}
            }
        }
        tls.map(Self::Tls).or_else(|| tcp.map(Self::Tcp))
    }
}

/// The plan of the route's rule: the API lets a route have one.
fn plan(route: &RouteSpec) -> Arc<Plan> {
    let rule = route.rules.first();
    let id = RuleId {
        route: Arc::new(route.name.clone()),
        index: 0,
        name: rule.and_then(|rule| rule.name.clone()),
    };
    let plan = rule.and_then(|rule| Plan::compile(id.clone(), 0, rule).ok());
    Arc::new(plan.unwrap_or_else(|| Plan::invalid(id, 0)))
}

impl ServerNames {
    fn add(&mut self, hostnames: &[String], plan: &Arc<Plan>) {
        if hostnames.is_empty() {
            self.any.get_or_insert_with(|| Arc::clone(plan));
        }
        for name in hostnames {
            let name = name.to_ascii_lowercase();
            let (names, name) = match name.strip_prefix("*.") {
                Some(suffix) => (&mut self.wildcards, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            names.entry(name.into()).or_insert_with(|| Arc::clone(plan));
        }
    }

    /// The plan for connections to the server of this name, in lower case: that of the name itself, then that of the
    /// longest wildcard. A wildcard stands for one label or more. Without a name only routes without host names match.
    pub fn lookup(&self, server_name: Option<&str>) -> Option<&Arc<Plan>> {
        let named = |name: &str| {
            self.exact.get(name).or_else(|| {
                let dots = name.match_indices('.');
                dots.map(|(dot, _)| &name[dot + 1..])
                    .find_map(|suffix| self.wildcards.get(suffix))
            })
        };
        server_name.and_then(named).or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests;
