//! Which processes may connect to the broker.

use crate::runtime::{Runtime, RuntimeError};
use ambit_wire::broker_channel::{Channel, PeerCredentials};
use ambit_wire::names::PROXY_UID;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Decides whether a caller is a ztunnel of this node.
#[async_trait::async_trait]
pub trait PeerCheck: Send + Sync + std::fmt::Debug {
    /// Accepts the caller, or returns the reason for a refusal.
    async fn check(&self, channel: &Channel, credentials: PeerCredentials) -> Result<(), Refusal>;
}

/// Why a caller was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The process belongs to another user.
    #[error("its uid {0} is not that of a ztunnel")]
    Uid(u32),
    /// The process is outside the pid namespace of the node.
    #[error("its process is not visible on this node")]
    NotVisible,
    /// The process is not in a ztunnel container.
    #[error(
        "its process is not the first of a running container \"ztunnel\" of a pod labelled app=ztunnel in Ambit's namespace"
    )]
    NotZtunnel,
    /// The process that connected has ended.
    #[error("its process has ended")]
    Ended,
    /// The query to the container runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Refusal {
    /// The reason as one word, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Uid(_) => "uid",
            Self::NotVisible => "not-visible",
            Self::NotZtunnel => "not-ztunnel",
            Self::Ended => "ended",
            Self::Runtime(_) => "runtime",
        }
    }
}

/// The rule on a node: uid 65532, and, according to the runtime, the first process of a ztunnel container.
#[derive(Debug)]
pub struct ZtunnelPeers {
    runtime: Arc<dyn Runtime>,
}

impl ZtunnelPeers {
    /// The rule, with the runtime for its queries.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime }
    }
}

#[async_trait::async_trait]
impl PeerCheck for ZtunnelPeers {
    async fn check(&self, channel: &Channel, credentials: PeerCredentials) -> Result<(), Refusal> {
        if credentials.uid != PROXY_UID {
            return Err(Refusal::Uid(credentials.uid));
        }
        let pid = credentials.pid.ok_or(Refusal::NotVisible)?;
        // While the process lives, no other process gets its id.
        let process = process_of(channel, pid).ok_or(Refusal::Ended)?;
        if !self.runtime.is_ztunnel(pid).await? {
            return Err(Refusal::NotZtunnel);
        }
        if has_ended(&process) {
            return Err(Refusal::Ended);
        }
        Ok(())
    }
}

/// A handle of the process that connected: from the socket (Linux 6.5), or opened by process id.
fn process_of(channel: &Channel, pid: i32) -> Option<OwnedFd> {
    use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
    match getsockopt(&channel.as_fd(), PeerPidfd) {
        Ok(process) => Some(process),
        Err(nix::errno::Errno::ENOPROTOOPT) => pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok(),
        Err(_) => None,
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(process, PollFlags::IN)];
    // A handle becomes readable when its process ends. An error counts as ended.
    !matches!(
        poll(
            &mut descriptors,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0
            })
        ),
        Ok(0)
    )
}

#[cfg(test)]
mod tests;
