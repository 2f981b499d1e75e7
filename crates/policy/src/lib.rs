//! Who may connect to whom: one pure engine for every place that decides or explains.
//!
//! Semantics are those of Istio's L4 authorization, so that a policy means the same under either data plane:
//! 1. an enforced `Deny` policy that matches denies;
//! 2. else, where enforced `Allow` policies apply to the workload, one of them must match;
//! 3. else the connection is allowed.
//!
//! [`http`] has the rules for HTTP requests, which a waypoint enforces, with the same semantics.
//!
//! Audit policies (`dry_run` on the wire) never decide; what they would have denied is in [`Decision::audited`].
//! Where Istio skips a policy that a workload names and nobody has sent yet, this engine denies
//! ([`Reason::PolicyMissing`]): a rule is never silently unenforced.

mod decide;
pub mod http;
mod matching;
mod set;

pub use decide::{Decision, Reason, Verdict};
pub use matching::{Clause, Connection, Match, Rule, ServiceAccountMatch, StringMatch};
pub use set::{Action, ParsePolicyNameError, Policies, Policy, PolicyName, Scope, Target, VARIANT_END};
