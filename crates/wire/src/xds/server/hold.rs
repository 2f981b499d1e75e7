use std::collections::HashMap;

use super::subscribed::Subscribed;

/// Removals that wait until the client has answered what there was to say when they became known, of all types: what referred to the
/// removed resources is away then. What there is to say later is none of their business, so that a type which changes all the time does
/// not keep them waiting.
pub(super) struct Hold {
    pub(super) names: Vec<String>,
    /// By type.
    marks: HashMap<String, Mark>,
}

/// How far another type must get.
enum Mark {
    /// So far in its changes must it be sent.
    Sent(u64),
    /// The response of this nonce must be answered.
    Answered(u64),
}

impl Hold {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            marks: HashMap::new(),
        }
    }

    /// Whether all types have got as far as they must. What that is, is fixed when a type is first asked; one that the client subscribes
    /// to after this has begun counts as well.
    pub(super) fn is_over(&mut self, types: &[Subscribed]) -> bool {
        let mut over = true;
        for one in types {
            over &= self.is_reached(one);
        }
        over
    }

    fn is_reached(&mut self, of: &Subscribed) -> bool {
        // A type of which nothing is known yet may be about to say anything.
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
