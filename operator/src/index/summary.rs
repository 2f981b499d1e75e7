//! What the statuses say, counted from the index.

use std::collections::BTreeSet;

use ambit_crds::{AuthorizationRule, Mode, MtlsMode, labels};

use super::{Exclusion, Index, PodRecord, ServiceFinding, authorization, build};

/// What the pods of Istio's CNI agent bear.
const ISTIO_CNI: (&str, &str) = ("k8s-app", "istio-cni-node");

/// A pod that should be captured and could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// Its name.
    pub pod: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}

/// A rule and whom it protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSummary {
    /// Its name.
    pub name: String,
    /// Whether it decides.
    pub mode: Mode,
    /// Captured pods that it selects.
    pub pods: usize,
    /// Pods that it selects and that are left alone: nothing enforces it there.
    pub excluded: usize,
    /// Why it is closed, when it is not in force as it is written.
    pub invalid: Option<String>,
    /// What of it cannot match as things are.
    pub warnings: Vec<String>,
}

/// A namespace in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSummary {
    /// It exists and is not yet gone.
    pub exists: bool,
    /// It carries the label that enrolls.
    pub labelled: bool,
    /// It asks to be enrolled.
    pub asks: bool,
    /// Its pods are captured by default.
    pub enrolled: bool,
    /// It is one that is never enrolled.
    pub exempt: bool,
    /// A Mesh is there.
    pub mesh: bool,
    /// The mTLS mode that holds in it.
    pub mtls: MtlsMode,
    /// Live pods.
    pub total: usize,
    /// Pods that carry the capture mark and are to be captured.
    pub captured: usize,
    /// Pods on a node that are to be captured, and are neither yet nor have failed.
    pub pending: usize,
    /// Pods that are left alone.
    pub excluded: usize,
    /// Pods that carry the capture mark and are not to be captured.
    pub releasing: usize,
    /// Pods whose capture failed.
    pub failures: Vec<PodFailure>,
    /// The AmbientNamespace's rules.
    pub rules: Vec<RuleSummary>,
    /// The AmbientNamespace changes so often that it is taken late.
    pub deferred: bool,
    /// What of its Services is left to others.
    pub services: Vec<ServiceFinding>,
}

/// The mesh in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshSummary {
    /// Enrolled namespaces.
    pub enrolled_namespaces: usize,
    /// Pods with the capture mark.
    pub captured: usize,
    /// Pods on a node that are to be captured or released, and are neither yet nor have failed.
    pub changing: usize,
    /// Pods whose capture failed.
    pub failed: usize,
    /// Namespaces that have such pods.
    pub failing_namespaces: Vec<String>,
    /// Namespaces that are not in the mesh and have pods whose own label asks for it.
    pub asking_pods: Vec<String>,
    /// Nodes with captured pods.
    pub nodes: BTreeSet<String>,
    /// Namespace of the CNI agent of Istio, where one runs.
    pub istio: Option<String>,
}

impl MeshSummary {
    /// What has probably another effect than intended.
    pub fn unheeded(&self) -> Vec<String> {
        let namespaces: Vec<_> = self.asking_pods.iter().take(10).map(String::as_str).collect();
        let istio = self.istio.iter().map(|namespace| {
            format!(
                "the CNI agent of Istio runs in {namespace}: in a namespace with the label {}: {} Istio \
                 and Ambit capture the same pods, and break their connections. Remove it, or switch its \
                 ambient mode off",
                labels::DATAPLANE_MODE,
                labels::DATAPLANE_MODE_AMBIENT
            )
        });
        let mut unheeded: Vec<_> = istio.collect();
        if namespaces.is_empty() {
            return unheeded;
        }
        let more = self.asking_pods.len() - namespaces.len();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        unheeded.push(format!(
            "pods have the label {}: {} in namespaces that are not enrolled, where this label has no \
             effect: {}{more}. Label the namespace",
            labels::DATAPLANE_MODE,
            labels::DATAPLANE_MODE_AMBIENT,
            namespaces.join(", ")
        ));
        unheeded
    }
}

/// Splits what the annotation has, `<Reason>: <message>`.
fn failure(text: &str) -> (String, String) {
    match text.split_once(": ") {
        Some((reason, message)) if !reason.contains(' ') => (reason.to_owned(), message.to_owned()),
        _ => ("Unknown".to_owned(), text.to_owned()),
    }
}

fn failed(pod: &PodRecord) -> Option<&str> {
    // Before it has a node nobody has tried.
    pod.failure
        .as_deref()
        .filter(|_| !pod.marked && !pod.node.is_empty())
}

/// The counters of those rules that select `pod`.
fn selecting<'a>(
    rules: &'a [AuthorizationRule],
    counters: &'a mut [RuleSummary],
    pod: &'a PodRecord,
) -> impl Iterator<Item = &'a mut RuleSummary> {
    let both = rules.iter().zip(counters);
    both.filter(|(rule, _)| authorization::selects(rule.pod_selector.as_ref(), pod))
        .map(|(_, counter)| counter)
}

impl Index {
    /// Namespaces that ask to be enrolled by their label.
    pub fn asking(&self) -> Vec<String> {
        self.labelled.iter().cloned().collect()
    }

    /// A namespace in numbers.
    pub fn namespace_summary(&self, namespace: &str) -> NamespaceSummary {
        let enrolled = self.is_enrolled(namespace);
        let mut summary = NamespaceSummary {
            exists: self.existing.contains(namespace),
            labelled: self.labelled.contains(namespace),
            asks: self.asks(namespace),
            enrolled,
            exempt: self.is_exempt(namespace),
            mesh: self.active_mesh().is_some(),
            mtls: self.mtls(namespace),
            services: self.service_findings(namespace),
            ..NamespaceSummary::default()
        };
        let object = self.ambient.get(namespace);
        let rules = object.map(|a| a.rules.as_slice()).unwrap_or_default();
        summary.deferred = self.is_deferred(namespace);
        summary.rules = rules
            .iter()
            .zip(authorization::read(namespace, rules))
            .map(|(r, read)| RuleSummary {
                name: r.name.clone(),
                mode: r.mode,
                pods: 0,
                excluded: 0,
                invalid: read.err().map(|e| e.to_string()),
                warnings: self.rule_warnings(namespace, r),
            })
            .collect();
        for (key, pod) in self.pods_in(namespace) {
            summary.total += 1;
            if !build::wanted(enrolled, pod) {
                summary.releasing += usize::from(pod.marked);
                if enrolled && Exclusion::of(pod).is_some() {
                    summary.excluded += 1;
                    // Waypoints evaluate the rules for their own clients.
                    let rules = if self.replica_of(key, pod).is_some() {
                        &[]
                    } else {
                        rules
                    };
                    for counted in selecting(rules, &mut summary.rules, pod) {
                        counted.excluded += 1;
                    }
                }
            } else if pod.marked {
                summary.captured += 1;
                for counted in selecting(rules, &mut summary.rules, pod) {
                    counted.pods += 1;
                }
            } else if let Some(text) = failed(pod) {
                let (reason, message) = failure(text);
                summary.failures.push(PodFailure {
                    pod: key.name.clone(),
                    reason,
                    message,
                });
            } else if !pod.node.is_empty() {
                summary.pending += 1;
            }
        }
        summary
    }

    /// The mesh in numbers.
    pub fn mesh_summary(&self) -> MeshSummary {
        let mut summary = MeshSummary {
            enrolled_namespaces: self.existing.iter().filter(|n| self.is_enrolled(n)).count(),
            ..MeshSummary::default()
        };
        // Pods are sorted by namespace.
        let (mut namespace, mut enrolled) = ("", false);
        for (key, pod) in &self.pods {
            if key.namespace != namespace {
                namespace = &key.namespace;
                enrolled = self.is_enrolled(namespace);
            }
            let wanted = build::wanted(enrolled, pod);
            if pod.labels.get(ISTIO_CNI.0).map(String::as_str) == Some(ISTIO_CNI.1) {
                summary.istio = Some(key.namespace.clone());
            }
            summary.captured += usize::from(pod.marked);
            if pod.marked && !summary.nodes.contains(&pod.node) {
                summary.nodes.insert(pod.node.clone());
            }
            let asks = pod.labels.get(labels::DATAPLANE_MODE).map(String::as_str);
            if asks == Some(labels::DATAPLANE_MODE_AMBIENT)
                && !self.asks(&key.namespace)
                && summary.asking_pods.last() != Some(&key.namespace)
            {
                summary.asking_pods.push(key.namespace.clone());
            }
            if wanted && failed(pod).is_some() {
                summary.failed += 1;
                if summary.failing_namespaces.last() != Some(&key.namespace) {
                    summary.failing_namespaces.push(key.namespace.clone());
                }
            } else if wanted != pod.marked && !pod.node.is_empty() {
                summary.changing += 1;
            }
        }
        summary
    }
}
