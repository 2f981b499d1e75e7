//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit.
const UNLIMITED: usize = 1 << 20;

/// Raises the soft limit to the hard one, as container runtimes set the former low. Returns what holds then.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "RLIMIT_NOFILE stays at its soft limit");
            limit.current
        }
    };
    current.map_or(UNLIMITED, |current| usize::try_from(current).unwrap_or(UNLIMITED))
}
