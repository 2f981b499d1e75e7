//! Messages with descriptors between processes of one host: an async unix `SOCK_SEQPACKET` socket with one protobuf
//! message per packet, and descriptors as `SCM_RIGHTS`. The node agent listens, the ztunnel connects;
//! `docs/protocols.md` describes the protocol.
//!
//! Tokio's stream types own the sockets here, for their readiness only. They do not check the type of the socket, and
//! safe code has no other way since the constructors of `AsyncFd` became unsafe.
//!
//! Any [`Error`] of [`Channel::recv`] except [`Error::Io`] means that the peer violated the protocol: drop the channel.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::names::BROKER_MAX_SOCKETS;

/// Longest encoded message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(BROKER_MAX_SOCKETS));
const BACKLOG: i32 = 16;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed. If the peer has closed, `send` returns `BrokenPipe`.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message to send is empty (the peer would read it as the end) or longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes cannot be sent: 1 to {MAX_MESSAGE} are allowed")]
    MessageLength(usize),
    /// More than [`BROKER_MAX_SOCKETS`] descriptors to send.
    #[error("{0} descriptors cannot be sent with one message: at most {BROKER_MAX_SOCKETS} are allowed")]
    TooManyDescriptors(usize),
    /// A received packet was longer than [`MAX_MESSAGE`], and is lost.
    #[error("received a packet longer than {MAX_MESSAGE} bytes")]
    MessageTruncated,
    /// A received packet had more descriptors than are allowed, or than this process may still open. All of them are
    /// closed.
    #[error("received more descriptors than {BROKER_MAX_SOCKETS}, or than this process may open")]
    DescriptorsTruncated,
    /// A received packet is not the expected message.
    #[error("received a packet that is not the expected message: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// The peer, as the kernel recorded it at the connect (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in this process's pid namespace; `None` when the peer is not visible in it.
    pub pid: Option<i32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Listens for peers on a unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`, and replaces a socket of an earlier process. The umask determines the permissions, so protect
    /// the directory. Must be called within a Tokio runtime.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let fd = new_socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self {
            socket: UnixListener::from_std(fd.into())?,
        })
    }

    /// The next peer, with its credentials. Cancel-safe.
    pub async fn accept(&self) -> io::Result<(Channel, PeerCredentials)> {
        let (socket, _unnamed) = self.socket.accept().await?;
        let peer = socket.peer_cred()?;
        let credentials = PeerCredentials {
            pid: peer.pid().filter(|pid| *pid > 0),
            uid: peer.uid(),
            gid: peer.gid(),
        };
        Ok((Channel::new(socket), credentials))
    }
}

/// One end of a conversation. `send` and `recv` may be used from different tasks at the same time.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    buffer: Mutex<Vec<u8>>,
}

impl Channel {
    /// Connects to the [`Listener`] at `path`. Must be called within a Tokio runtime.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = new_socket()?;
        // On a unix socket this never waits: it succeeds or fails (EAGAIN: the backlog of the listener is full).
        rustix::net::connect(&fd, &SocketAddrUnix::new(path.as_ref())?)?;
        Ok(Self::new(UnixStream::from_std(fd.into())?))
    }

    /// Two connected ends within one process.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((
            Self::new(UnixStream::from_std(a.into())?),
            Self::new(UnixStream::from_std(b.into())?),
        ))
    }

    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            buffer: Mutex::new(vec![0; MAX_MESSAGE]),
        }
    }

    /// Sends one message with duplicates of the descriptors; the caller keeps its own. Waits while the buffer of the
    /// socket is full. Cancel-safe: a packet is sent completely or not at all.
    pub async fn send(
        &self,
        message: &impl prost::Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let bytes = message.encode_to_vec();
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            return Err(Error::MessageLength(bytes.len()));
        }
        if descriptors.len() > BROKER_MAX_SOCKETS {
            return Err(Error::TooManyDescriptors(descriptors.len()));
        }
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || {
                send_packet(self.socket.as_fd(), &bytes, descriptors)
            })
            .await;
        Ok(sent?)
    }

    /// The next message with its descriptors (close-on-exec), or `None` after the peer has closed. Cancel-safe: a
    /// packet is removed from the socket only when it is returned.
    pub async fn recv<M: prost::Message + Default>(&self) -> Result<Option<(M, Vec<OwnedFd>)>, Error> {
        let packet = self
            .socket
            .async_io(Interest::READABLE, || {
                let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
                match receive_packet(self.socket.as_fd(), &mut buffer) {
                    Err(Error::Io(e)) => Err(e),
                    Err(other) => Ok(Err(other)),
                    Ok(None) => Ok(Ok(None)),
                    Ok(Some((length, descriptors))) => Ok(M::decode(&buffer[..length])
                        .map(|m| Some((m, descriptors)))
                        .map_err(Error::from)),
                }
            })
            .await;
        match packet {
            Ok(packet) => packet,
            // The peer closed with unread packets of ours: the conversation has ended normally.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn send_packet(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `None` at the end of the conversation. On an error, received descriptors are closed.
fn receive_packet(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, Error> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(io::Error::from)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::DescriptorsTruncated);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::MessageTruncated);
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    Ok(Some((received.bytes, descriptors)))
}

#[cfg(test)]
mod tests;
