//! What changes by itself after a while.

use std::time::Duration;

use crate::index::{Index, Key};

/// How long all ztunnels get to learn of a binding before what depends on it is given out: a guard before its binding is known would
/// refuse callers that are not to blame, and so would one that outlives it. The same of a pod that leaves the mesh.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// How long a waypoint goes on serving what is no longer bound to it: connections last, and the last ztunnel hears of it late.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// A moment at which something changes by itself, see [`Index::expire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// How long from now.
    pub after: Duration,
    pub(super) namespace: String,
    /// The Service; for [`What::Left`] the pod, for [`What::Edited`] nothing.
    pub(super) subject: String,
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
    /// All ztunnels know that the pod leaves the mesh.
    Left,
    /// A namespace's rules may be edited again.
    Edited,
}

impl Timer {
    /// When the node of `pod`, which leaves the mesh, is told.
    pub(in crate::index) fn of_leaving(pod: &Key, number: u64) -> Self {
        Self {
            after: SETTLE,
            namespace: pod.namespace.clone(),
            subject: pod.name.clone(),
            what: What::Left,
            number,
        }
    }

    /// When edits of a namespace's rules are no longer counted.
    pub(in crate::index) fn of_edits(namespace: &str, after: Duration, number: u64) -> Self {
        Self {
            after,
            namespace: namespace.to_owned(),
            subject: String::new(),
            what: What::Edited,
            number,
        }
    }
}

impl Index {
    /// The moment of `timer` has come.
    pub fn expire(&mut self, timer: &Timer) {
        match timer.what {
            What::Left => {
                let pod = Key::new(timer.namespace.clone(), timer.subject.clone());
                return self.may_go(&pod, timer.number);
            }
            What::Edited => return self.end_edits(&timer.namespace),
            What::Settled | What::Lingered(_) => {}
        }
        let Some(plan) = self.plans.get_mut(&timer.namespace) else {
            return;
        };
        let service = plan.services.get_mut(&timer.subject);
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
                if let Some(lingering) = waypoint.and_then(|w| w.lingering.get_mut(&timer.subject))
                    && lingering.timer == timer.number
                {
                    lingering.over = true;
                }
            }
            What::Left | What::Edited => return,
        }
        self.dirty.plans.insert(timer.namespace.clone());
    }
}
