//! Who may connect to the broker.

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
    /// Lets the caller in, or says why not.
    async fn check(&self, channel: &Channel, credentials: PeerCredentials) -> Result<(), Refusal>;
}

/// Why a caller was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another user.
    #[error("its uid {0} is not that of a ztunnel")]
    Uid(u32),
    /// A process outside this node's pid namespace.
    #[error("its process is not visible on this node")]
    NotVisible,
    /// Not a ztunnel's container.
    #[error(
        "its process is not the first of a running container \"ztunnel\" of a pod labelled app=ztunnel in Ambit's namespace"
    )]
    NotZtunnel,
    /// The process that connected has ended.
    #[error("its process has ended")]
    Ended,
    /// The container runtime could not be asked.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Refusal {
    /// The refusal in a word, for a metric.
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

/// The rule in force on a node: uid 65532, and the first process of a ztunnel container according to the runtime.
#[derive(Debug)]
pub struct ZtunnelPeers {
    runtime: Arc<dyn Runtime>,
}

impl ZtunnelPeers {
    /// The rule, with the runtime to ask.
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
        // While the process lives its number is not given to another one.
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

/// A handle of the process that connected: the kernel's own (Linux 6.5), or one opened by its number.
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
    // A handle is readable once its process has ended. In doubt, it has.
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
