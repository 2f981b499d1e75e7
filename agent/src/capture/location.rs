//! Finds the network namespace of a pod.

use super::failure::{Failure, Reason};
use crate::netns::Netns;
use crate::runtime::{Runtime, Sandbox};
use crate::snapshot::SandboxRecord;
use std::path::PathBuf;

/// A pod's UID.
pub(super) type Uid = String;

/// The open network namespace of a pod.
#[derive(Debug, Clone)]
pub(super) struct Location {
    /// The namespace.
    pub netns: Netns,
    /// The path at which it was opened.
    pub path: PathBuf,
    /// The sandbox that it belongs to.
    pub sandbox_id: String,
}

/// Finds and opens the namespace of the pod `uid`: by the record of its CNI call if that is still valid, otherwise by
/// the container runtime. The runtime is queried again after the namespace is open, to be sure that it belongs to this
/// pod.
pub(super) async fn locate(
    runtime: &dyn Runtime,
    uid: &str,
    record: Option<SandboxRecord>,
    host_inode: u64,
) -> Result<Location, Failure> {
    if let Some(location) = record.as_ref().and_then(by_record) {
        return refuse_host(location, host_inode);
    }
    let sandbox = sandbox(runtime, uid).await?;
    if sandbox.netns_paths.is_empty() {
        return Err(host_network());
    }
    let location = open(&sandbox)?;
    if self::sandbox(runtime, uid).await? != sandbox {
        return Err(Failure::new(
            Reason::SandboxNotFound,
            "the pod's sandbox was replaced meanwhile",
        ));
    }
    refuse_host(location, host_inode)
}

async fn sandbox(runtime: &dyn Runtime, uid: &str) -> Result<Sandbox, Failure> {
    match runtime.sandbox(uid).await {
        Ok(Some(sandbox)) => Ok(sandbox),
        Ok(None) => Err(Failure::new(
            Reason::SandboxNotFound,
            "the container runtime has no ready sandbox for the pod",
        )),
        Err(e) => Err(Failure::new(Reason::RuntimeUnavailable, e.to_string())),
    }
}

fn by_record(record: &SandboxRecord) -> Option<Location> {
    let netns = Netns::open(&record.netns_path).ok()?;
    (netns.inode() == record.netns_inode).then(|| Location {
        netns,
        path: record.netns_path.clone(),
        sandbox_id: record.sandbox_id.clone(),
    })
}

fn open(sandbox: &Sandbox) -> Result<Location, Failure> {
    let mut failure = host_network();
    for path in &sandbox.netns_paths {
        match Netns::open(path) {
            Ok(netns) => {
                return Ok(Location {
                    netns,
                    path: path.clone(),
                    sandbox_id: sandbox.id.clone(),
                });
            }
            Err(e) => failure = e.into(),
        }
    }
    Err(failure)
}

fn refuse_host(location: Location, host_inode: u64) -> Result<Location, Failure> {
    if location.netns.inode() == host_inode {
        Err(host_network())
    } else {
        Ok(location)
    }
}

fn host_network() -> Failure {
    Failure::new(
        Reason::HostNetwork,
        "the pod is in the host's network namespace, which is never redirected",
    )
}
