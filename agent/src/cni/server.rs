//! The socket on which the agent serves the plugin.

use super::protocol::{Answer, MAX_LINE, Operation, Request, VERSION};
use crate::capture::{Admission, AdmissionRequest, Handle};
use crate::files::private_directory;
use crate::netns::Netns;
use crate::runtime::in_this_mount_namespace;
use crate::snapshot::SandboxRecord;
use ambit_runtime::AcceptLoop;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const READ_TIME: Duration = Duration::from_secs(5);

/// Responds to CNI calls. Only root can enter the directory of the socket; the container runtime runs plugins as root.
#[derive(Debug)]
pub struct CniServer {
    listener: UnixListener,
    manager: Handle,
}

impl CniServer {
    /// Listens at `socket`. Its directory is created if needed, and gets mode 0700.
    ///
    /// # Errors
    /// When the directory or the socket cannot be created.
    pub fn bind(socket: &Path, manager: Handle) -> io::Result<Self> {
        if let Some(directory) = socket.parent() {
            private_directory(directory, 0o700, None)?;
        }
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok(Self {
            listener: UnixListener::bind(socket)?,
            manager,
        })
    }

    /// Serves until `stop`. Each call in progress still gets a response from the manager.
    pub async fn run(self, stop: CancellationToken) {
        let calls = TaskTracker::new();
        let mut accepting = AcceptLoop::new("cni");
        while let Some((stream, _)) = stop
            .run_until_cancelled(accepting.next(|| self.listener.accept()))
            .await
        {
            let manager = self.manager.clone();
            calls.spawn(async move {
                if let Err(e) = answer(stream, &manager).await {
                    tracing::warn!(error = %e, "could not respond to a CNI call");
                }
            });
        }
        calls.close();
        calls.wait().await;
    }
}

async fn answer(stream: UnixStream, manager: &Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(MAX_LINE));
    tokio::time::timeout(READ_TIME, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) if request.version == VERSION => decide(request, manager).await,
        Ok(request) => failed(
            "VersionMismatch",
            format!(
                "the plugin has version {}, the agent {VERSION}; the agent replaces the plugin when it \
                 starts",
                request.version
            ),
        ),
        Err(e) => failed("BadRequest", format!("the request is malformed: {e}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn decide(request: Request, manager: &Handle) -> Answer {
    match request.operation {
        Operation::Add => {}
        Operation::Del => {
            manager.sandbox_gone(request.pod_uid, request.container_id);
            return Answer::Passed;
        }
        Operation::Status => return Answer::Passed,
        Operation::Gc => {
            manager.collect(request.valid);
            return Answer::Passed;
        }
    }
    let pod = format!("{}/{}", request.pod_namespace, request.pod_name);
    let Some(uid) = request.pod_uid.filter(|uid| !uid.is_empty()) else {
        tracing::warn!(
            pod,
            "the container runtime does not pass the UIDs of pods; the pod is captured when the control \
             plane has sent its record"
        );
        return Answer::Passed;
    };
    let netns_path = in_this_mount_namespace(&request.netns);
    let netns_inode = match Netns::open(&netns_path) {
        Ok(netns) => netns.inode(),
        Err(e) => return failed("NetnsUnreachable", e.to_string()),
    };
    let sandbox = SandboxRecord {
        sandbox_id: request.container_id,
        netns_path,
        netns_inode,
        addresses: request.addresses,
    };
    let admission = AdmissionRequest {
        uid,
        namespace: request.pod_namespace,
        name: request.pod_name,
        sandbox,
    };
    match manager.admit(admission).await {
        Ok(Admission::Captured) => {
            tracing::info!(pod, "captured before its first process");
            Answer::Captured
        }
        Ok(Admission::NotCaptured) => Answer::Passed,
        Err(failure) => {
            tracing::warn!(pod, reason = %failure.reason, why = failure.message, "a CNI ADD failed; the \
                 kubelet tries again");
            failed(failure.reason.as_str(), failure.message)
        }
    }
}

fn failed(reason: impl Into<String>, message: impl Into<String>) -> Answer {
    Answer::Failed {
        reason: reason.into(),
        message: message.into(),
    }
}
