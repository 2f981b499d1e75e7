//! A netlink socket: sends messages, reads the answers, names the message that was refused.

use super::NetlinkError;
use super::message::{Message, split};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::os::fd::OwnedFd;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel's dumps fill at most this much in one datagram.
const BUFFER: usize = 32 * 1024;
/// Datagrams up to this length fit into any socket's buffer, as it is set up.
const SMALL: usize = 32 * 1024;

pub(super) struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
}

impl NetlinkSocket {
    pub(super) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::NETFILTER))
    }

    pub(super) fn route() -> Result<Self, NetlinkError> {
        Self::open(None)
    }

    pub(super) fn sock_diag() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::SOCK_DIAG))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetlinkError> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(|errno| NetlinkError::Socket {
            action: "open",
            errno,
        })?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends the messages in one datagram; the last but for a batch's end asks for an acknowledgement.
    pub(super) fn transact(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        let first = self.send(messages)?;
        // The kernel works the whole datagram off inside send(): every answer is in the queue by now.
        let mut acknowledged = false;
        let mut refused: Option<(u32, Errno)> = None;
        let mut buffer = vec![0; BUFFER];
        while let Some(datagram) = self.receive(&mut buffer, RecvFlags::DONTWAIT)? {
            for answer in
                split(datagram).filter(|a| (a.sequence.wrapping_sub(first) as usize) < messages.len())
            {
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                match error_number(answer.payload)? {
                    None => acknowledged = true,
                    Some(errno) => _ = refused.get_or_insert((answer.sequence, errno)),
                }
            }
        }
        match refused {
            Some((sequence, errno)) => {
                let index = sequence.wrapping_sub(first) as usize;
                let step = messages
                    .get(index)
                    .map_or_else(|| "do it".to_owned(), |m| m.step.clone());
                Err(NetlinkError::Refused { step, errno })
            }
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::Answer("the kernel did not acknowledge")),
        }
    }

    /// Sends a request for a dump and counts the messages of type `kind` in the answer.
    pub(super) fn dump(&mut self, request: &Message, kind: u16) -> Result<usize, NetlinkError> {
        let mut count = 0;
        self.dump_each(request, kind, |_| count += 1)?;
        Ok(count)
    }

    /// Sends a request for a dump and hands each message of type `kind` in the answer to `take`.
    pub(super) fn dump_each(
        &mut self,
        request: &Message,
        kind: u16,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        let sequence = self.send(std::slice::from_ref(request))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let Some(datagram) = self.receive(&mut buffer, RecvFlags::empty())? else {
                return Err(NetlinkError::Answer("the listing ended early"));
            };
            for answer in split(datagram).filter(|a| a.sequence == sequence) {
                match answer.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        if let Some(errno) = error_number(answer.payload)? {
                            return Err(NetlinkError::Refused {
                                step: request.step.clone(),
                                errno,
                            });
                        }
                    }
                    other if other == kind => take(answer.payload),
                    _ => {}
                }
            }
        }
    }

    /// Sends all in one datagram; returns the first message's sequence number.
    fn send(&mut self, messages: &[Message]) -> Result<u32, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(messages.len() * 256);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.encode(self.sequence, &mut datagram);
        }
        if datagram.len() > SMALL {
            // The kernel takes no datagram that is larger than the buffer; it grants what is asked for twice over.
            set_socket_send_buffer_size_force(&self.fd, datagram.len()).map_err(|errno| {
                NetlinkError::Socket {
                    action: "have room to send",
                    errno,
                }
            })?;
        }
        rustix::net::send(&self.fd, &datagram, SendFlags::empty()).map_err(|errno| NetlinkError::Socket {
            action: "send",
            errno,
        })?;
        Ok(first)
    }

    fn receive<'b>(&self, buffer: &'b mut [u8], flags: RecvFlags) -> Result<Option<&'b [u8]>, NetlinkError> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, flags) {
                Ok((0, _)) | Err(Errno::AGAIN) => return Ok(None),
                Ok((length, _)) => return Ok(buffer.get(..length)),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(NetlinkError::Socket {
                        action: "receive",
                        errno,
                    });
                }
            }
        }
    }
}

/// The error number in an `nlmsgerr`; `None` is an acknowledgement.
fn error_number(payload: &[u8]) -> Result<Option<Errno>, NetlinkError> {
    let number = payload
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes);
    match number {
        None => Err(NetlinkError::Answer("an error message without a number")),
        Some(0) => Ok(None),
        Some(number) => Ok(Some(Errno::from_raw_os_error(number.saturating_neg()))),
    }
}
