//! Conditions of a status.

use ambit_crds::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Maximum length of a message in the API, in bytes.
const LONGEST: usize = 32_768;

/// The verdict of a status. It is ready if no change is in progress and no person should look; so tools that use Ready
/// and tools that use Degraded agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// A change is in progress.
    pub(super) progressing: bool,
    /// A person should look.
    pub(super) degraded: bool,
    /// The reason, in one word: of Ready, and of the other conditions if they are true.
    pub(super) reason: &'static str,
    /// The cause and the remedy.
    pub(super) message: String,
}

impl Finding {
    /// Ready.
    pub(super) fn ready(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            progressing: false,
            degraded: false,
            reason,
            message: message.into(),
        }
    }

    /// In progress.
    pub(super) fn progressing(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            progressing: true,
            degraded: false,
            reason,
            message: message.into(),
        }
    }

    /// A person should look.
    pub(super) fn degraded(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            progressing: false,
            degraded: true,
            reason,
            message: message.into(),
        }
    }

    /// The state is that of the spec.
    pub(super) fn is_ready(&self) -> bool {
        !self.progressing && !self.degraded
    }

    /// The conditions, for `generation`. A condition whose status does not change keeps its time.
    pub(super) fn conditions(&self, before: &[Condition], generation: Option<i64>) -> Vec<Condition> {
        let all = [
            (labels::CONDITION_READY, self.is_ready(), ""),
            (labels::CONDITION_PROGRESSING, self.progressing, "Settled"),
            (labels::CONDITION_DEGRADED, self.degraded, "AsExpected"),
        ];
        let stalled = self.degraded && !self.progressing;
        let abnormal = abnormal(
            self.progressing,
            stalled,
            self.reason,
            &self.message,
            generation,
            before,
        );
        all.into_iter()
            .map(|(kind, holds, otherwise)| {
                let told = holds || otherwise.is_empty();
                let (reason, message) = if told {
                    (self.reason, self.message.as_str())
                } else {
                    (otherwise, "")
                };
                condition(kind, holds, reason, message, generation, before)
            })
            .chain(abnormal)
            .collect()
    }
}

/// The condition that kstatus reads beside Ready, if any: `Reconciling` or `Stalled`. By convention each is present only
/// while it is True.
pub(super) fn abnormal(
    reconciling: bool,
    stalled: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    before: &[Condition],
) -> Option<Condition> {
    let kind = match (reconciling, stalled) {
        (true, _) => labels::CONDITION_RECONCILING,
        (false, true) => labels::CONDITION_STALLED,
        (false, false) => return None,
    };
    Some(condition(kind, true, reason, message, generation, before))
}

/// A condition, for `generation`. It keeps its time while its status does not change.
pub(super) fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    before: &[Condition],
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let same = before.iter().find(|c| c.type_ == kind && c.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: shortened(message),
        observed_generation: generation,
        last_transition_time: same.map_or_else(|| Time(Timestamp::now()), |c| c.last_transition_time.clone()),
    }
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(LONGEST);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_condition_keeps_its_time() {
        let old = Finding::progressing("RollingOut", "1 of 2").conditions(&[], Some(1));
        let old: Vec<_> = old
            .into_iter()
            .map(|c| Condition {
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
                ..c
            })
            .collect();
        let new = Finding::degraded("PodsFailing", "x").conditions(&old, Some(2));
        let changed: Vec<_> = new
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.last_transition_time.0 != Timestamp::UNIX_EPOCH,
                )
            })
            .collect();
        assert_eq!(
            changed,
            [
                ("Ready", "False", false),
                ("Progressing", "False", true),
                ("Degraded", "True", true),
                ("Stalled", "True", true)
            ]
        );
        assert!(new.iter().all(|c| c.observed_generation == Some(2)));
        assert_eq!(
            (new[0].reason.as_str(), new[1].reason.as_str()),
            ("PodsFailing", "Settled")
        );
    }

    #[test]
    fn what_kstatus_looks_for_is_there_only_while_it_is_true() {
        let abnormal = |finding: Finding| -> Vec<String> {
            let conditions = finding.conditions(&[], Some(1)).into_iter().skip(3);
            conditions.map(|c| format!("{}={}", c.type_, c.status)).collect()
        };
        assert!(abnormal(Finding::ready("R", "")).is_empty());
        assert_eq!(abnormal(Finding::progressing("P", "")), ["Reconciling=True"]);
        assert_eq!(abnormal(Finding::degraded("D", "")), ["Stalled=True"]);
        let both = Finding {
            progressing: true,
            ..Finding::degraded("B", "")
        };
        assert_eq!(abnormal(both), ["Reconciling=True"]);
    }

    #[test]
    fn long_messages_end_at_a_character() {
        let text = "é".repeat(LONGEST);
        let finding = Finding::ready("R", text);
        assert!(finding.conditions(&[], None)[0].message.len() <= LONGEST);
    }
}
