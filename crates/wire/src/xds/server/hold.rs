use std::collections::HashMap;

use super::subscribed::Subscribed;

/// Removals that wait until the client has replied to all changes, of all types, that were pending when the removals
/// became known. After that, no resource of the client refers to the removed ones. Later changes do not count, so a
/// type that changes all the time does not delay removals.
pub(super) struct Hold {
    pub(super) names: Vec<String>,
    /// By type.
    marks: HashMap<String, Mark>,
}

/// The progress that another type must make.
enum Mark {
    /// Changes up to this number must be sent.
    Sent(u64),
    /// The client must have replied to the response with this nonce.
    Answered(u64),
}

impl Hold {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            marks: HashMap::new(),
        }
    }

    /// Whether all types have made the required progress, which is fixed at the first call for each type. A type that
    /// the client subscribes to later counts, too.
    pub(super) fn is_over(&mut self, types: &[Subscribed]) -> bool {
        let mut over = true;
        for one in types {
            over &= self.is_reached(one);
        }
        over
    }

    fn is_reached(&mut self, of: &Subscribed) -> bool {
        // A type that is not ready may still have changes that refer to the removed resources.
        let Some(latest) = of.latest() else {
            return false;
        };
        let mark = self.marks.entry(of.type_url.clone());
        let mark = mark.or_insert(Mark::Sent(latest));
        if let Mark::Sent(cursor) = *mark {
            if !of.has_sent(cursor) {
                return false;
            }
            *mark = Mark::Answered(of.last_nonce());
        }
        matches!(*mark, Mark::Answered(nonce) if of.has_answered(nonce))
    }
}
