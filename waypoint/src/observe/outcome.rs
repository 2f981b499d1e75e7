//! What was decided, and how it ended.

use ambit_policy::Decision;

use super::metrics::Metrics;
use super::{Destination, Flag};

/// Of a request or a connection.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The rule that decided.
    pub(super) rule: Option<String>,
    /// Audit rules that would have denied it.
    pub(super) audited: Vec<String>,
    pub(super) reason: Option<String>,
    pub(super) flag: Flag,
    /// Connections end like that every day.
    routine: bool,
}

/// Why what the drain deadline found has ended.
pub(super) const CUT: &str = "the waypoint was stopping, and its drain deadline was over";

impl Outcome {
    /// The first denial decides; else the first rule that let it pass is the one to name. An audit rule counts once, however often it was
    /// asked.
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

    /// Why the answer is not the application's, or the connection ended other than by its two ends.
    pub(super) fn failed(&mut self, flag: Flag, reason: impl Into<String>) {
        self.flag = flag;
        self.reason = Some(reason.into());
    }

    /// The client broke off a connection that could have gone on: logged as what went well, and counted as what it is.
    pub(super) fn left(&mut self, reason: impl Into<String>) {
        self.failed(Flag::ClientGone, reason);
        self.routine = true;
    }

    /// Whether it is logged without the access log too.
    pub(super) fn is_notable(&self) -> bool {
        (self.flag != Flag::None && !self.routine) || !self.audited.is_empty()
    }
}
