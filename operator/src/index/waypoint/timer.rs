//! What changes by itself after a while.

use std::time::Duration;

use crate::index::{Index, Key};

/// How long all ztunnels get to learn that a pod leaves the mesh before its node is told: its clients go on with HBONE until then.
const LEAVE: Duration = Duration::from_secs(1);

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
    /// This waypoint need not serve the Service any more.
    Lingered(Key),
    /// All ztunnels know that the pod leaves the mesh.
    Left,
    /// A namespace's rules may be edited again.
    Edited,
}

impl Timer {
    /// When the node of `pod`, which leaves the mesh, is told.
    pub(in crate::index) fn of_leaving(pod: &Key, number: u64) -> Self {
        Self {
            after: LEAVE,
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
                self.may_go(&pod, timer.number);
            }
            What::Edited => self.end_edits(&timer.namespace),
            What::Lingered(ref waypoint) => self.end_lingering(timer, waypoint),
        }
    }

    fn end_lingering(&mut self, timer: &Timer, waypoint: &Key) {
        let plan = self.plans.get_mut(&timer.namespace);
        let waypoint = plan.and_then(|plan| plan.waypoints.get_mut(waypoint));
        let lingering = waypoint.and_then(|waypoint| waypoint.lingering.get_mut(&timer.subject));
        if let Some(lingering) = lingering.filter(|lingering| lingering.timer == timer.number) {
            lingering.over = true;
            self.dirty.plans.insert(timer.namespace.clone());
        }
    }
}
