//! Workload name and type of a pod, from its owner.

use ambit_wire::clipped;
use ambit_wire::workload::WorkloadType;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Longest name of an object. The API server does not check that of an owner, and the name goes to every node.
const LONGEST_NAME: usize = 253;

/// Name and type of the workload that `pod` belongs to. A Deployment's name is its ReplicaSet's without the pod template's hash, so
/// that ReplicaSets need not be watched; a CronJob's is its Job's without the schedule's number.
pub(super) fn workload(pod: &Pod) -> (String, WorkloadType) {
    let (name, kind) = named(pod);
    (clipped(&name, LONGEST_NAME).to_owned(), kind)
}

fn named(pod: &Pod) -> (String, WorkloadType) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|o| o.controller == Some(true)) else {
        return (name, WorkloadType::Pod);
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|l| l.get("pod-template-hash"));
            let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            match deployment {
                Some(deployment) if !deployment.is_empty() => {
                    (deployment.to_owned(), WorkloadType::Deployment)
                }
                _ => (owner.name.clone(), WorkloadType::Pod),
            }
        }
        "Job" => match owner.name.rsplit_once('-') {
            // The CronJob controller appends the schedule's time in minutes.
            Some((cron_job, number))
                if (8..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()) =>
            {
                (cron_job.to_owned(), WorkloadType::Cronjob)
            }
            _ => (owner.name.clone(), WorkloadType::Job),
        },
        "Node" => (name, WorkloadType::Pod),
        _ => (owner.name.clone(), WorkloadType::Pod),
    }
}

/// Name and UID of the ReplicaSet that controls an object.
pub(super) fn replica_set(meta: &ObjectMeta) -> Option<(String, String)> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|o| o.controller == Some(true) && o.kind == "ReplicaSet")?;
    Some((owner.name.clone(), owner.uid.clone()))
}
