//! Pods that leave the mesh while connections come to them.
//!
//! Their ztunnel is told at once to refuse no plaintext any more. Their node is told a while later to take the redirection away: a
//! client that leaves with them speaks plaintext from then on, and must not meet a ztunnel that has yet to hear of it. Until the mark is
//! gone everybody else goes on with HBONE, see `build::workload`.

use std::collections::BTreeMap;

use super::{Index, Key, Timer};

/// A pod that is not to be captured any more and whose node does not know.
#[derive(Debug)]
pub(super) struct Leaving {
    /// The number of the timer that ends it.
    timer: u64,
    over: bool,
}

/// Whether the node of `pod`, which leaves the mesh, is not to be told yet.
pub(super) fn is_held(
    leaving: &mut BTreeMap<Key, Leaving>,
    pod: &Key,
    latest: &mut u64,
    timers: &mut Vec<Timer>,
) -> bool {
    if let Some(leaving) = leaving.get(pod) {
        return !leaving.over;
    }
    *latest += 1;
    let (timer, over) = (*latest, false);
    leaving.insert(pod.clone(), Leaving { timer, over });
    timers.push(Timer::of_leaving(pod, timer));
    true
}

impl Index {
    /// All ztunnels know of `pod` what they are to know, if it is still the leaving that began with this timer.
    pub(super) fn may_go(&mut self, pod: &Key, timer: u64) {
        if let Some(leaving) = self.leaving.get_mut(pod).filter(|l| l.timer == timer) {
            leaving.over = true;
            self.dirty.pods.insert(pod.clone());
        }
    }
}
