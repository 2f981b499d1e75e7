//! Waypoints that Gateways declare: what becomes of each Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ambit_crds::labels;

use super::summary::WaypointSummary;
use crate::gateway::Listener;
use crate::index::gateway::{CONFLICT, Flaw, GatewayRecord, kinds};
use crate::index::{Index, Key, RouteCondition, RouteId};

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSummary {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it allows, of those that waypoints evaluate.
    pub kinds: Vec<&'static str>,
    /// Routes of the Services that are bound to the waypoint.
    pub attached: usize,
    /// What is to be said.
    pub conditions: Vec<RouteCondition>,
}

/// What became of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySummary {
    /// Its name, which is that of its waypoint.
    pub name: String,
    /// The `metadata.generation` that this was made from.
    pub generation: i64,
    /// Where the waypoint is reached.
    pub addresses: Vec<IpAddr>,
    /// Accepted and Programmed.
    pub conditions: Vec<RouteCondition>,
    /// In their order.
    pub listeners: Vec<ListenerSummary>,
}

fn condition(
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> RouteCondition {
    RouteCondition {
        kind,
        status,
        reason,
        message: message.into(),
    }
}

impl Index {
    /// What became of the Gateways of a namespace that are Ambit's.
    pub fn gateway_summaries(&self, namespace: &str) -> Vec<GatewaySummary> {
        let waypoints = self.waypoints_in(namespace);
        let summaries = self.gateways_in(namespace).map(|(key, record)| {
            let waypoint = waypoints.iter().find(|w| w.name == key.name);
            self.gateway_summary(key, record, waypoint)
        });
        summaries.collect()
    }

    fn gateway_summary(
        &self,
        key: &Key,
        record: &GatewayRecord,
        waypoint: Option<&WaypointSummary>,
    ) -> GatewaySummary {
        let flaw = record.flaw();
        let programmed = match &flaw {
            Some(_) => condition("Programmed", false, "Invalid", "the Gateway is not accepted"),
            None => self.gateway_programmed(&key.namespace, waypoint),
        };
        let bound = self.served_by(key).into_values();
        let bound = bound.filter(|b| b.asked.waypoint() == Some(key));
        let routes: BTreeSet<&RouteId> = bound.flat_map(|b| &b.routes).map(|r| &r.route).collect();
        let routes = routes.len();
        let flaws: Vec<Option<Flaw>> = (0..record.spec.listeners.len())
            .map(|n| record.listener_flaw(n))
            .collect();
        let listeners = record.spec.listeners.iter().zip(&flaws);
        let service = self.services.get(key).filter(|_| self.is_waypoint_service(key));
        GatewaySummary {
            name: key.name.clone(),
            generation: record.generation,
            addresses: service
                .filter(|_| flaw.is_none())
                .map(|service| service.addresses.clone())
                .unwrap_or_default(),
            listeners: listeners
                .map(|(listener, flaw)| listener_summary(listener, flaw.as_ref(), &programmed, routes))
                .collect(),
            conditions: vec![accepted(flaw, &flaws), programmed],
        }
    }

    fn gateway_programmed(&self, namespace: &str, waypoint: Option<&WaypointSummary>) -> RouteCondition {
        let not_yet = |message: String| condition("Programmed", false, "Pending", message);
        if self.active_mesh().is_none() {
            return not_yet("no Mesh exists: create the one named default".to_owned());
        }
        if !self.is_enrolled(namespace) {
            return not_yet(format!(
                "namespace {namespace} is not in the mesh: label it {}={}",
                labels::DATAPLANE_MODE,
                labels::DATAPLANE_MODE_AMBIENT
            ));
        }
        let Some(waypoint) = waypoint else {
            return not_yet("the waypoint is about to be created".to_owned());
        };
        match &waypoint.obstacle {
            Some(obstacle) => condition("Programmed", false, "Invalid", obstacle),
            None if waypoint.ready() == 0 => not_yet("no replica of the waypoint is ready".to_owned()),
            None => condition("Programmed", true, "Programmed", "the waypoint is ready"),
        }
    }
}

fn accepted(flaw: Option<Flaw>, listeners: &[Option<Flaw>]) -> RouteCondition {
    let invalid: Vec<&str> = listeners.iter().flatten().map(|f| f.message.as_str()).collect();
    let invalid = invalid.join("; ");
    match flaw {
        Some(flaw) if invalid.is_empty() => condition("Accepted", false, flaw.reason, flaw.message),
        Some(flaw) => condition(
            "Accepted",
            false,
            flaw.reason,
            format!("{}; {invalid}", flaw.message),
        ),
        None if invalid.is_empty() => condition("Accepted", true, "Accepted", "the Gateway is valid"),
        None => condition("Accepted", true, "ListenersNotValid", invalid),
    }
}

fn listener_summary(
    listener: &Listener,
    flaw: Option<&Flaw>,
    programmed: &RouteCondition,
    routes: usize,
) -> ListenerSummary {
    let (kinds, unknown) = kinds(listener.allowed_routes.as_ref());
    let conflict = flaw.filter(|flaw| flaw.reason == CONFLICT);
    let accepted = match flaw {
        Some(flaw) => condition("Accepted", false, flaw.reason, &flaw.message),
        None => condition("Accepted", true, "Accepted", "the listener is valid"),
    };
    let conflicted = match conflict {
        Some(flaw) => condition("Conflicted", true, flaw.reason, &flaw.message),
        None => condition("Conflicted", false, "NoConflicts", ""),
    };
    let resolved = match unknown.first() {
        Some(kind) => condition(
            "ResolvedRefs",
            false,
            "InvalidRouteKinds",
            format!(
                "allowedRoutes.kinds has {:?}, which waypoints do not support",
                kind.kind
            ),
        ),
        None => condition("ResolvedRefs", true, "ResolvedRefs", ""),
    };
    let of_listener = match flaw {
        Some(_) => condition("Programmed", false, "Invalid", "the listener is not accepted"),
        None => programmed.clone(),
    };
    ListenerSummary {
        name: listener.name.clone(),
        kinds: if flaw.is_some() { Vec::new() } else { kinds },
        attached: if flaw.is_some() { 0 } else { routes },
        conditions: vec![accepted, of_listener, resolved, conflicted],
    }
}
