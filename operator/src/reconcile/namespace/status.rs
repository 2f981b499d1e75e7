//! The status of an AmbientNamespace.

use std::collections::BTreeMap;

use ambit_crds::{
    AmbientNamespace, AmbientNamespaceStatus, EnforcedRule, FailedPod, MtlsMode, NamespacePods,
    ServiceWarning, WaypointStatus, labels,
};

use crate::index::{NamespaceSummary, RuleSummary};
use crate::reconcile::conditions::Finding;
use crate::reconcile::mesh::count;
use crate::reconcile::pace::differ_in_messages_at_most;

/// Maximum of failures in a status.
const LISTED: usize = 20;
/// Maximum of warnings of all rules of a status together.
const WARNINGS: usize = 32;
/// Maximum of warnings about Services.
const SERVICES: usize = 32;

/// The verdict on a namespace with these waypoints; `troubles` are problems of them, by waypoint.
pub(super) fn finding(
    summary: &NamespaceSummary,
    waypoints: &[WaypointStatus],
    troubles: &BTreeMap<String, String>,
) -> Finding {
    let to_capture = summary.captured + summary.pending + summary.failures.len();
    if summary.enrolled {
        return enrolled(summary, to_capture, troubles);
    }
    if summary.releasing > 0 {
        return Finding::progressing(
            "Releasing",
            format!("{} pods are yet to be released", summary.releasing),
        );
    }
    if !waypoints.is_empty() {
        let names: Vec<_> = waypoints.iter().map(|w| w.name.as_str()).collect();
        let message = format!(
            "the namespace is not enrolled; its waypoints are yet to be removed: {}",
            names.join(", ")
        );
        return Finding::progressing("Releasing", message);
    }
    if summary.asks && summary.exempt {
        let message = "this namespace is never enrolled: capturing its pods could prevent nodes from \
             starting";
        return Finding::degraded("NeverEnrolled", message);
    }
    if summary.asks && !summary.mesh {
        let message = format!("no Mesh exists: create the one named `{}`", labels::MESH);
        return Finding::degraded("NoMesh", message);
    }
    let unenforced: Vec<_> = summary.rules.iter().map(|r| r.name.as_str()).collect();
    if !unenforced.is_empty() {
        let message = format!(
            "the namespace is not enrolled, so nothing enforces: {}",
            unenforced.join(", ")
        );
        return Finding::degraded("RulesNotEnforced", message);
    }
    Finding::ready("NotEnrolled", "the pods of the namespace are not captured")
}

fn enrolled(summary: &NamespaceSummary, to_capture: usize, troubles: &BTreeMap<String, String>) -> Finding {
    let captured = format!("{} of {to_capture} pods are captured", summary.captured);
    if let Some(first) = summary.failures.first() {
        let message = format!(
            "{} of {to_capture} pods could not be captured, and are retried; the first is {}: {}: {}",
            summary.failures.len(),
            first.pod,
            first.reason,
            first.message
        );
        return Finding {
            progressing: summary.pending > 0,
            ..Finding::degraded("CaptureFailed", message)
        };
    }
    if let Some((name, why)) = summary
        .rules
        .iter()
        .find_map(|r| Some((&r.name, r.invalid.as_ref()?)))
    {
        let message = format!(
            "rule {name} is not in force as written: {why}. Until it is corrected, it closes: a Deny \
             denies every connection, an Allow allows none"
        );
        return Finding::degraded("RuleInvalid", message);
    }
    if summary.deferred {
        let message = "spec changes very often: its last state is applied within seconds; until then the \
             state before is in force";
        return Finding::progressing("EditedTooOften", message);
    }
    if summary.releasing > 0 {
        return Finding::progressing(
            "Releasing",
            format!("{captured}, and {} are yet to be released", summary.releasing),
        );
    }
    if summary.pending > 0 {
        return Finding::progressing("Capturing", captured);
    }
    if let Some(rule) = summary.rules.iter().find(|r| r.excluded > 0) {
        let message = format!(
            "rule {} selects {} pods that the mesh leaves alone (host network, sidecar, opted out, \
             static, or without a service account): nothing enforces it there",
            rule.name, rule.excluded
        );
        return Finding::degraded("RulesNotEnforced", message);
    }
    if let Some((name, why)) = troubles.first_key_value() {
        return Finding::degraded("WaypointFailing", format!("waypoint {name}: {why}"));
    }
    let warned = summary
        .rules
        .iter()
        .find_map(|r| Some((&r.name, r.warnings.first()?)));
    if let Some((name, warning)) = warned {
        return Finding::ready(
            "RuleCannotMatch",
            format!("{captured}; rule {name} may not have the intended effect: {warning}"),
        );
    }
    if let Some(first) = summary.services.first() {
        let message = format!(
            "{captured}; Service {}, {}: {}",
            first.service, first.field, first.message
        );
        return Finding::ready("ServiceNotHonoured", message);
    }
    if to_capture == 0 {
        return Finding::ready("Enrolled", "new pods are captured when they start");
    }
    Finding::ready("Captured", captured)
}

/// The whole status of `object`.
pub(super) fn status(
    object: &AmbientNamespace,
    summary: &NamespaceSummary,
    waypoints: Vec<WaypointStatus>,
    finding: &Finding,
) -> AmbientNamespaceStatus {
    let before = object
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    let generation = object.metadata.generation;
    let failures = summary.failures.iter().take(LISTED).map(|f| FailedPod {
        pod: f.pod.clone(),
        reason: f.reason.clone(),
        message: f.message.clone(),
    });
    let omitted = summary.failures.len().saturating_sub(LISTED);
    let mode = match (summary.enrolled, summary.mtls) {
        (false, _) => "Disabled",
        (true, MtlsMode::Permissive) => "Permissive",
        (true, MtlsMode::Strict) => "Strict",
    };
    AmbientNamespaceStatus {
        conditions: finding.conditions(before, generation),
        observed_generation: generation,
        mtls_mode: Some(mode.to_owned()),
        pods: Some(NamespacePods {
            total: count(summary.total),
            captured: count(summary.captured),
            failed: count(summary.failures.len()),
            excluded: count(summary.excluded),
        }),
        failures: failures.collect(),
        failures_omitted: (omitted > 0).then(|| count(omitted)),
        waypoint_replicas: replicas(&waypoints),
        waypoints,
        rules: rules(summary),
        services: services(summary),
    }
}

/// Whether only numbers of pods have changed.
pub(super) fn differs_in_counters(before: &AmbientNamespaceStatus, after: &AmbientNamespaceStatus) -> bool {
    let mut same = AmbientNamespaceStatus {
        conditions: before.conditions.clone(),
        pods: before.pods,
        ..after.clone()
    };
    for (rule, before) in same.rules.iter_mut().zip(&before.rules) {
        rule.pods = before.pods;
    }
    differ_in_messages_at_most(&before.conditions, &after.conditions) && same == *before
}

fn replicas(waypoints: &[WaypointStatus]) -> Option<String> {
    let sum = |get: fn(&WaypointStatus) -> i32| waypoints.iter().map(get).sum::<i32>();
    (!waypoints.is_empty()).then(|| format!("{}/{}", sum(|w| w.ready), sum(|w| w.desired)))
}

fn services(summary: &NamespaceSummary) -> Vec<ServiceWarning> {
    let findings = summary.services.iter().filter(|_| summary.enrolled);
    findings
        .take(SERVICES)
        .map(|finding| ServiceWarning {
            service: finding.service.clone(),
            field: finding.field.clone(),
            message: finding.message.clone(),
        })
        .collect()
}

fn rules(summary: &NamespaceSummary) -> Vec<EnforcedRule> {
    let mut left = WARNINGS;
    let rules = summary.rules.iter();
    rules.map(|r| rule(r, summary.enrolled, &mut left)).collect()
}

/// `warnings` is the number of warnings that may still be listed.
fn rule(rule: &RuleSummary, enrolled: bool, warnings: &mut usize) -> EnforcedRule {
    let enforced = enrolled && rule.pods > 0;
    let listed = rule.warnings.len().min(*warnings);
    *warnings -= listed;
    EnforcedRule {
        name: rule.name.clone(),
        mode: rule.mode,
        enforced_by: if enforced { "ztunnel" } else { "nothing" }.to_owned(),
        pods: count(rule.pods),
        warnings: rule.warnings[..listed].to_vec(),
    }
}

#[cfg(test)]
mod tests;
