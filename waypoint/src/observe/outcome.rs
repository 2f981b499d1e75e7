//! The decision on a request, and its end.

use ambit_policy::Decision;

use super::metrics::Metrics;
use super::{Destination, Flag};

/// The outcome of a request or a connection.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The rule that decided.
    pub(super) rule: Option<String>,
    /// Audit rules that would have denied it.
    pub(super) audited: Vec<String>,
    pub(super) reason: Option<String>,
    pub(super) flag: Flag,
    /// Ends of connections that are normal.
    routine: bool,
}

/// Why requests and connections ended at the drain deadline.
pub(super) const CUT: &str = "the waypoint was stopping, and its drain deadline was over";

impl Outcome {
    /// The first denial decides; otherwise the first rule that allowed is named. An audit rule counts once, however
    /// often it was evaluated.
    pub(super) fn decided(&mut self, metrics: &Metrics, destination: &Destination, decision: &Decision) {
        for rule in &decision.audited {
            if !self.audited.contains(rule) {
                metrics.audited(rule, destination);
                self.audited.push(rule.clone());
            }
        }
        let rule = decision.reason.policy();
        if decision.is_allowed() {
            if self.rule.is_none() {
                self.rule = rule.map(str::to_owned);
            }
        } else if self.flag != Flag::Denied {
            metrics.denied(rule.unwrap_or("none"), destination);
            self.rule = rule.map(str::to_owned);
            self.failed(Flag::Denied, decision.reason.to_string());
        }
    }

    /// Why the response is not the application's, or why the connection was ended by neither of its two ends.
    pub(super) fn failed(&mut self, flag: Flag, reason: impl Into<String>) {
        self.flag = flag;
        self.reason = Some(reason.into());
    }

    /// The client aborted a connection that could have continued: logged as a success, and counted with its flag.
    pub(super) fn left(&mut self, reason: impl Into<String>) {
        self.failed(Flag::ClientGone, reason);
        self.routine = true;
    }

    /// Whether it is logged even without the access log.
    pub(super) fn is_notable(&self) -> bool {
        (self.flag != Flag::None && !self.routine) || !self.audited.is_empty()
    }
}
