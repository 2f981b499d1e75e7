//! Which route a port has, where several apply that exclude each other (GEP-1294): a port has routes of one kind, the
//! most specific, and of `TCPRoute`s the oldest.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attachment, Known, RouteId, ports};
use crate::gateway::{ParentRef, RouteKind, TcpRouteKind, TlsRouteKind};
use crate::index::{Index, Key, ServiceRecord};

/// A port that a route does not have, though it attaches to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::index) struct Loss {
    route: RouteId,
    port: u16,
    /// The route that has it.
    to: RouteId,
}

impl Loss {
    /// Whether a route of a more specific kind has it, and not an older one.
    fn is_of_kinds(&self) -> bool {
        self.route.kind != self.to.kind
    }
}

/// The less, the more specific. Ambit tells requests for `HTTPRoute`s from those for `GRPCRoute`s.
fn rank(kind: &str) -> u8 {
    match kind {
        TcpRouteKind::KIND => 2,
        TlsRouteKind::KIND => 1,
        _ => 0,
    }
}

impl Attachment {
    /// The ports that it is about.
    fn ports_of(&self, service: &ServiceRecord) -> BTreeSet<u16> {
        match self.ports.is_empty() {
            true => service.ports.values().map(|port| port.port).collect(),
            false => self.ports.clone(),
        }
    }
}

/// What is left of the attachments to a Service, of which that with precedence comes first, and what is not.
pub(super) fn settle(all: Vec<Attachment>, service: &ServiceRecord) -> (Vec<Attachment>, Vec<Loss>) {
    if !all.iter().any(|a| a.route.is_of_connections()) {
        return (all, Vec::new());
    }
    // Consumers' routes replace the others: they have no conflict with these.
    let mut first: BTreeMap<(Option<String>, u16), RouteId> = BTreeMap::new();
    for attachment in &all {
        for port in attachment.ports_of(service) {
            let slot = first.entry((attachment.consumers.clone(), port));
            let before = slot.or_insert_with(|| attachment.route.clone());
            if rank(attachment.route.kind) < rank(before.kind) {
                *before = attachment.route.clone();
            }
        }
    }
    let (mut left, mut losses) = (Vec::new(), Vec::new());
    for mut attachment in all {
        let has = |port: &u16| {
            let first = first.get(&(attachment.consumers.clone(), *port))?;
            let shared = match attachment.route.kind {
                TcpRouteKind::KIND => *first == attachment.route,
                kind => rank(first.kind) == rank(kind),
            };
            (!shared).then(|| first.clone())
        };
        let mut kept = attachment.ports_of(service);
        let before = losses.len();
        kept.retain(|port| match has(port) {
            None => true,
            Some(to) => {
                losses.push(Loss {
                    route: attachment.route.clone(),
                    port: *port,
                    to,
                });
                false
            }
        });
        if losses.len() > before {
            attachment.ports = kept;
            if attachment.ports.is_empty() {
                continue;
            }
        }
        left.push(attachment);
    }
    (left, losses)
}

/// What a route does not have of the ports of one parent.
#[derive(Debug, Default)]
pub(super) struct Conflict {
    losses: Vec<Loss>,
    /// Host names that older routes have, and these.
    taken: Vec<(String, RouteId)>,
    /// Nothing is left: no port, or no host name.
    whole: bool,
}

impl Conflict {
    /// Whether routes of more specific kinds have all of its ports.
    pub(super) fn excludes(&self) -> bool {
        self.whole && !self.losses.is_empty() && self.losses.iter().all(Loss::is_of_kinds)
    }

    /// Whether it applies nowhere.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// In words; nothing if there is no conflict.
    pub(super) fn message(&self) -> String {
        let losses = self.losses.iter().map(|loss| {
            let why = match loss.is_of_kinds() {
                true => "which is more specific",
                false => "which takes precedence",
            };
            format!("port {} has {}, {why}", loss.port, loss.to)
        });
        let taken = self
            .taken
            .iter()
            .map(|(name, by)| format!("{by} has the host name {name}"));
        losses.chain(taken).collect::<Vec<_>>().join("; ")
    }
}

impl Index {
    /// The conflicts of a route at one parent, which exists.
    pub(super) fn conflict(
        &self,
        id: &RouteId,
        parent: &ParentRef,
        key: &Key,
        service: &ServiceRecord,
    ) -> Conflict {
        // Only such routes give way.
        if !id.is_of_connections() {
            return Conflict::default();
        }
        let own = ports(parent, service).unwrap_or_default();
        let asked = |port: u16| own.is_empty() || own.contains(&port);
        let (attached, mut losses) = self.settled(key, service);
        losses.retain(|loss| loss.route == *id && asked(loss.port));
        // It may name the parent twice.
        losses.sort_unstable();
        losses.dedup();
        let mut left: BTreeSet<u16> = service.ports.values().map(|port| port.port).collect();
        left.retain(|port| asked(*port) && !losses.iter().any(|loss| loss.port == *port));
        let mut conflict = Conflict {
            whole: left.is_empty() && !losses.is_empty(),
            losses,
            taken: Vec::new(),
        };
        if id.kind == TlsRouteKind::KIND && !conflict.whole {
            self.taken(id, key, &attached, &left, service, &mut conflict);
        }
        conflict
    }

    /// Finds the host names of a `TLSRoute` that routes with precedence have on all of its ports.
    fn taken(
        &self,
        id: &RouteId,
        key: &Key,
        attached: &[Attachment],
        left: &BTreeSet<u16>,
        service: &ServiceRecord,
        conflict: &mut Conflict,
    ) {
        let names = |id: &RouteId| {
            let known = self.routes.known.get(id);
            let names = known.map(|Known { record, .. }| record.spec.hostnames.as_slice());
            names.unwrap_or_default()
        };
        let consumers = (id.key.namespace != key.namespace).then_some(&id.key.namespace);
        let before = attached.iter().take_while(|a| a.route != *id);
        let before = before.filter(|a| a.consumers.as_ref() == consumers && a.route.kind == id.kind);
        for attachment in before {
            if !left.is_subset(&attachment.ports_of(service)) {
                continue;
            }
            for name in names(id) {
                let same = |other: &String| other.eq_ignore_ascii_case(name);
                let known = conflict.taken.iter().any(|(taken, _)| taken == name);
                if !known && names(&attachment.route).iter().any(same) {
                    conflict.taken.push((name.clone(), attachment.route.clone()));
                }
            }
        }
        let own = names(id).len();
        conflict.whole = own > 0 && conflict.taken.len() == own;
    }
}
