//! Which namespaces' Services may use a waypoint.

use super::binding::OptOut;
use super::labels::WaypointFor;
use crate::index::external::ServiceFinding;
use crate::index::{Index, Key, ServiceRecord};

impl Index {
    /// What a waypoint is for: its Gateway's label goes before its namespace's.
    pub(super) fn waypoint_for(&self, waypoint: &Key) -> WaypointFor {
        let own = self.declaring(waypoint).and_then(|gateway| gateway.waypoint_for);
        let labels = self.waypoint_labels.get(&waypoint.namespace);
        own.or_else(|| labels.map(|labels| labels.waypoint_for))
            .unwrap_or_default()
    }

    /// Whether Services of `namespace` may use a waypoint: in its own namespace its Gateway may keep them away; elsewhere, one has to admit them.
    pub(super) fn may_use(&self, namespace: &str, waypoint: &Key) -> Result<(), OptOut> {
        let gateway = self.declaring(waypoint);
        let waypoint_for = self.waypoint_for(waypoint);
        match gateway {
            None if waypoint.namespace != namespace => Err(OptOut::NotDeclared),
            _ if waypoint.namespace != namespace && !self.is_enrolled(&waypoint.namespace) => {
                Err(OptOut::NotEnrolled)
            }
            Some(_) if !self.admits(waypoint, namespace) => Err(OptOut::NotAllowed),
            _ if waypoint_for.services() => Ok(()),
            Some(gateway) if gateway.waypoint_for.is_some() => Err(OptOut::Gateway(waypoint_for)),
            _ => Err(OptOut::For(waypoint_for)),
        }
    }

    /// That the labels of a Service name a waypoint of another namespace which it may not use.
    pub(in crate::index) fn waypoint_finding(
        &self,
        key: &Key,
        record: &ServiceRecord,
    ) -> Option<ServiceFinding> {
        let of_namespace = self.waypoint_labels.get(&key.namespace);
        let (uses, field) = match &record.use_waypoint {
            Some(own) => (own, FIELD.to_owned()),
            None => (
                of_namespace?.use_waypoint.as_ref()?,
                format!("{FIELD} of the namespace"),
            ),
        };
        let waypoint = uses.waypoint(&key.namespace)?;
        if waypoint.namespace == key.namespace {
            return None;
        }
        let why = self.may_use(&key.namespace, &waypoint).err()?;
        let plan = self.plans.get(&key.namespace);
        let instead = match plan.and_then(|plan| plan.services.get(&key.name)?.asked.waypoint()) {
            Some(own) => format!("it uses waypoint {own}, since a policy or a route is for it"),
            None => "it uses no waypoint".to_owned(),
        };
        Some(ServiceFinding {
            service: key.name.clone(),
            field,
            message: format!("the Service may not use waypoint {waypoint}: {why}; {instead}"),
        })
    }
}

const FIELD: &str = "metadata.labels[istio.io/use-waypoint-namespace]";
