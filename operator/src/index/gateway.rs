//! Gateways that declare waypoints: what the index keeps of them, which of them are Ambit's, and what is wrong with each by itself.

use std::collections::BTreeMap;

use ambit_crds::{TargetKind, labels};
use ambit_wire::names::PORT_HBONE;
use kube::core::{Selector, SelectorExt};

use super::waypoint::WaypointFor;
use super::{Index, Key, within};
use crate::gateway::{
    AllowedRoutes, CONTROLLER, GROUP, Gateway, GatewaySpec, ISTIO_WAYPOINT_CLASS, Listener, RouteGroupKind,
    WAYPOINT_CLASS,
};

/// The protocol of a waypoint's listener.
const HBONE: &str = "HBONE";

/// Kinds of routes that waypoints evaluate.
const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

/// What the index keeps of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRecord {
    pub(super) uid: String,
    pub(super) generation: i64,
    /// It is being deleted.
    leaving: bool,
    /// Its label `istio.io/waypoint-for`.
    pub(super) waypoint_for: Option<WaypointFor>,
    pub(super) spec: GatewaySpec,
}

/// Why something is not accepted, as conditions have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// In one word of the API.
    pub(super) reason: &'static str,
    /// For a person.
    pub(super) message: String,
}

impl Flaw {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl GatewayRecord {
    /// The record of a Gateway.
    pub fn of(gateway: &Gateway) -> Self {
        let meta = &gateway.metadata;
        let label = meta.labels.as_ref().and_then(|l| l.get(labels::WAYPOINT_FOR));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            leaving: meta.deletion_timestamp.is_some(),
            waypoint_for: label.map(|value| WaypointFor::of(value)),
            spec: gateway.spec.clone(),
        }
    }

    /// What is wrong with a listener: with itself, or that it is the same as another before it.
    pub(super) fn listener_flaw(&self, n: usize) -> Option<Flaw> {
        let listener = self.spec.listeners.get(n)?;
        let is_good = |l: &Listener| l.protocol == HBONE && l.port == i64::from(PORT_HBONE);
        if listener.protocol != HBONE {
            return Some(Flaw::new(
                "UnsupportedProtocol",
                format!(
                    "spec.listeners[{n}].protocol is {:?}: a waypoint has {HBONE}",
                    listener.protocol
                ),
            ));
        }
        if !is_good(listener) {
            return Some(Flaw::new(
                "PortUnavailable",
                format!(
                    "spec.listeners[{n}].port is {}: a waypoint has {PORT_HBONE}",
                    listener.port
                ),
            ));
        }
        let first = self.spec.listeners.iter().position(is_good);
        first.filter(|first| *first != n).map(|first| {
            Flaw::new(
                CONFLICT,
                format!("spec.listeners[{first}] has the same port and protocol"),
            )
        })
    }

    /// Why it declares no waypoint.
    pub(super) fn flaw(&self) -> Option<Flaw> {
        let infrastructure = self.spec.infrastructure.as_ref();
        if infrastructure.is_some_and(|i| i.parameters_ref.is_some()) {
            return Some(Flaw::new(
                "InvalidParameters",
                "spec.infrastructure.parametersRef is not supported: replicas, resources and placement of waypoints \
                 are in spec.waypoint and spec.waypointPods of the AmbientNamespace",
            ));
        }
        if !self.spec.addresses.is_empty() {
            return Some(Flaw::new(
                "UnsupportedAddress",
                "spec.addresses is not supported: a waypoint has the addresses of its Service",
            ));
        }
        if self.listener().is_none() {
            return Some(Flaw::new(
                "ListenersNotValid",
                format!("spec.listeners has none with protocol {HBONE} and port {PORT_HBONE}"),
            ));
        }
        None
    }

    /// The listener of the waypoint.
    fn listener(&self) -> Option<&Listener> {
        let mut numbered = self.spec.listeners.iter().enumerate();
        let (_, listener) = numbered.find(|(n, _)| self.listener_flaw(*n).is_none())?;
        Some(listener)
    }

    /// Whether its listener admits Services of the namespace that has these labels; `same`: the Gateway's own.
    fn admits(&self, same: bool, namespace: Option<&BTreeMap<String, String>>) -> bool {
        let allowed = self.listener().and_then(|l| l.allowed_routes.as_ref());
        let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else {
            return same;
        };
        match namespaces.from.as_deref() {
            None | Some("Same") => same,
            Some("All") => true,
            Some("Selector") => namespaces.selector.as_ref().is_some_and(|selector| {
                let empty = BTreeMap::new();
                let selector: Result<Selector, _> = selector.clone().try_into();
                selector.is_ok_and(|selector| selector.matches(namespace.unwrap_or(&empty)))
            }),
            Some(_) => false,
        }
    }
}

/// The reason of a listener that is the same as another; of the condition Conflicted, and not of Accepted.
pub(super) const CONFLICT: &str = "HostnameConflict";

/// Kinds of routes that a listener allows, of those that waypoints evaluate; and those that they do not.
pub(super) fn kinds(allowed: Option<&AllowedRoutes>) -> (Vec<&'static str>, Vec<&RouteGroupKind>) {
    let named = allowed.map(|a| a.kinds.as_slice()).unwrap_or_default();
    let is = |named: &RouteGroupKind, kind: &str| {
        named.kind == kind && named.group.as_deref().is_none_or(|group| group == GROUP)
    };
    let supported = ROUTES.into_iter();
    let supported = supported.filter(|kind| named.is_empty() || named.iter().any(|n| is(n, kind)));
    let unknown = named.iter().filter(|n| !ROUTES.iter().any(|kind| is(n, kind)));
    (supported.collect(), unknown.collect())
}

/// Gateways, and what decides about them.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    known: BTreeMap<Key, GatewayRecord>,
    /// GatewayClass → its controller.
    classes: BTreeMap<String, String>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Gateways {
    /// Whether Gateways of a class are Ambit's. Istio's class is where nobody has it.
    fn has_class(&self, class: &str) -> bool {
        match self.classes.get(class) {
            Some(controller) => controller == CONTROLLER,
            None => [WAYPOINT_CLASS, ISTIO_WAYPOINT_CLASS].contains(&class),
        }
    }

    /// A Gateway that is Ambit's, and is not being deleted.
    fn own(&self, key: &Key) -> Option<&GatewayRecord> {
        self.known.get(key).filter(|record| self.is_own(record))
    }

    fn is_own(&self, record: &GatewayRecord) -> bool {
        !record.leaving && self.has_class(&record.spec.gateway_class_name)
    }
}

impl Index {
    /// A Gateway as it is now; `None` when it is gone.
    pub fn set_gateway(&mut self, key: &Key, record: Option<GatewayRecord>) {
        if self.gateways.known.get(key) == record.as_ref() {
            return;
        }
        self.change_gateways(vec![key.clone()], |gateways| match record {
            Some(record) => _ = gateways.known.insert(key.clone(), record),
            None => _ = gateways.known.remove(key),
        });
    }

    /// The controller of a GatewayClass; `None` when there is no such class.
    pub fn set_gateway_class(&mut self, class: &str, controller: Option<String>) {
        if self.gateways.classes.get(class) == controller.as_ref() {
            return;
        }
        let of_class = self.gateways.known.iter();
        let of_class = of_class.filter(|(_, record)| record.spec.gateway_class_name == class);
        let keys = of_class.map(|(key, _)| key.clone()).collect();
        self.change_gateways(keys, |gateways| match controller {
            Some(controller) => _ = gateways.classes.insert(class.to_owned(), controller),
            None => _ = gateways.classes.remove(class),
        });
    }

    /// Labels of a namespace; none when it is gone.
    pub(super) fn set_namespace_labels(&mut self, namespace: &str, labels: BTreeMap<String, String>) {
        let before = match labels.is_empty() {
            true => self.gateways.namespaces.remove(namespace),
            false => self.gateways.namespaces.insert(namespace.to_owned(), labels),
        };
        let differ = before.as_ref() != self.gateways.namespaces.get(namespace);
        let borrows = || self.borrowers.values().any(|all| all.contains(namespace));
        if differ && (self.gateways_in(namespace).next().is_some() || borrows()) {
            self.dirty.plans.insert(namespace.to_owned());
        }
    }

    fn change_gateways(&mut self, keys: Vec<Key>, change: impl FnOnce(&mut Gateways)) {
        let had: Vec<bool> = keys.iter().map(|key| self.gateways.own(key).is_some()).collect();
        change(&mut self.gateways);
        for (key, had) in keys.iter().zip(had) {
            let has = self.gateways.own(key).is_some();
            self.count(&key.namespace, had, has);
            if had || has {
                self.dirty.plans.insert(key.namespace.clone());
            }
            if has && !had {
                self.target_appeared(TargetKind::Gateway.as_str(), key);
            }
        }
    }

    /// The Gateways of a namespace that are Ambit's, valid or not.
    pub(super) fn gateways_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a GatewayRecord)> {
        within(&self.gateways.known, namespace).filter(|(_, record)| self.gateways.is_own(record))
    }

    /// Whether a Gateway is there: `None` if there is none of this name, false if it is not Ambit's.
    pub(super) fn has_gateway(&self, key: &Key) -> Option<bool> {
        let record = self.gateways.known.get(key).filter(|record| !record.leaving)?;
        Some(self.gateways.is_own(record))
    }

    /// The waypoints that Gateways of a namespace declare, by name; and whether Services of the namespace may use each.
    pub(super) fn declared_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a GatewayRecord, bool)> {
        let labels = self.gateways.namespaces.get(namespace);
        let valid = self
            .gateways_in(namespace)
            .filter(|(_, record)| record.flaw().is_none());
        valid.map(move |(key, record)| (key.name.as_str(), record, record.admits(true, labels)))
    }

    /// The Gateway that declares a waypoint.
    pub(super) fn declaring(&self, waypoint: &Key) -> Option<&GatewayRecord> {
        let record = self.gateways.own(waypoint)?;
        record.flaw().is_none().then_some(record)
    }

    /// Whether the Gateway that declares a waypoint admits Services of a namespace.
    pub(super) fn admits(&self, waypoint: &Key, namespace: &str) -> bool {
        let labels = self.gateways.namespaces.get(namespace);
        let gateway = self.declaring(waypoint);
        gateway.is_some_and(|gateway| gateway.admits(waypoint.namespace == namespace, labels))
    }
}
