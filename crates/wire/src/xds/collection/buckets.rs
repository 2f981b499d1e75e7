use std::sync::Arc;

use crate::xds::digest::{MOST_BUCKETS, bucket, entry, version_text};

/// The resources of a collection by bucket, with their digests.
#[derive(Debug)]
pub(super) struct Buckets {
    digests: Vec<u128>,
    names: Vec<Vec<Arc<str>>>,
}

impl Buckets {
    pub(super) fn of<'a>(resources: impl Iterator<Item = (&'a Arc<str>, u64)>) -> Self {
        let mut buckets = Self {
            digests: vec![0; MOST_BUCKETS],
            names: vec![Vec::new(); MOST_BUCKETS],
        };
        for (name, version) in resources {
            buckets.set(name, None, Some(version));
        }
        buckets
    }

    /// A resource has another version than before; `None` is none.
    pub(super) fn set(&mut self, name: &Arc<str>, before: Option<u64>, now: Option<u64>) {
        let bucket = bucket(name, MOST_BUCKETS);
        let (digest, names) = (&mut self.digests[bucket], &mut self.names[bucket]);
        if let Some(version) = before {
            *digest = digest.wrapping_sub(entry(name, &version_text(version)));
        }
        if let Some(version) = now {
            *digest = digest.wrapping_add(entry(name, &version_text(version)));
        }
        match (before, now) {
            (None, Some(_)) => names.push(Arc::clone(name)),
            (Some(_), None) => names.retain(|other| other != name),
            _ => {}
        }
    }

    pub(super) fn digests(&self) -> &[u128] {
        &self.digests
    }

    /// The names in some buckets, of `buckets` in all.
    pub(super) fn names(&self, some: &[u32], buckets: usize) -> impl Iterator<Item = &Arc<str>> {
        let some = some.iter();
        let parts = some.flat_map(move |bucket| self.names.iter().skip(*bucket as usize).step_by(buckets));
        parts.flatten()
    }
}
