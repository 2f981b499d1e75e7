//! Authorization of connections: one pure engine for every component that decides or explains.
//!
//! The semantics are those of Istio's L4 authorization, so a policy has the same meaning in both data planes:
//! 1. an enforced `Deny` policy that matches denies;
//! 2. otherwise, where enforced `Allow` policies apply to the workload, one of them must match;
//! 3. otherwise the connection is allowed.
//!
//! [`http`] has the rules for HTTP requests, which a waypoint enforces, with the same semantics.
//!
//! Audit policies (`dry_run` on the wire) never decide. [`Decision::audited`] lists those that would have denied.
//! If a workload refers to a policy that has not been received, Istio skips the policy. This engine denies
//! ([`Reason::PolicyMissing`]): no rule is silently unenforced.

mod decide;
pub mod http;
mod matching;
mod set;

pub use decide::{Decision, Reason, Verdict};
pub use matching::{Clause, Connection, Match, Rule, ServiceAccountMatch, StringMatch};
pub use set::{Action, ParsePolicyNameError, Policies, Policy, PolicyName, Scope, Target, VARIANT_END};
