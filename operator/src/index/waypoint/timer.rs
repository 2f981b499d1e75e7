//! What changes by itself after a while.

use std::time::Duration;

use crate::index::Index;

/// How long all ztunnels get to learn of a binding before what depends on it is given out: a guard before its binding is known would
/// refuse callers that are not to blame, and so would one that outlives it.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// How long a waypoint goes on serving what is no longer bound to it: connections last, and the last ztunnel hears of it late.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// A moment at which something changes by itself, see [`Index::expire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// How long from now.
    pub after: Duration,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) what: What,
    /// It is for what began under this number, and for nothing that began later.
    pub(super) number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The Service's binding is known everywhere.
    Settled,
    /// This waypoint need not serve the Service any more.
    Lingered(String),
}

impl Index {
    /// The moment of `timer` has come.
    pub fn expire(&mut self, timer: &Timer) {
        let Some(plan) = self.plans.get_mut(&timer.namespace) else {
            return;
        };
        let service = plan.services.get_mut(&timer.service);
        match &timer.what {
            What::Settled => {
                let settling = service.map(|b| &mut b.settling);
                if let Some(settling) = settling
                    && settling.as_ref().is_some_and(|s| s.timer == timer.number)
                {
                    *settling = None;
                }
            }
            What::Lingered(waypoint) => {
                let waypoint = plan.waypoints.get_mut(waypoint);
                if let Some(lingering) = waypoint.and_then(|w| w.lingering.get_mut(&timer.service))
                    && lingering.timer == timer.number
                {
                    lingering.over = true;
                }
            }
        }
        self.dirty.plans.insert(timer.namespace.clone());
    }
}
