//! Handles of network namespaces, and threads that work in them.

use super::NetnsError;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// An open network namespace. Holding it keeps the namespace alive after its pod: drop it when the pod goes.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<OwnedFd>,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path` (`/proc/PID/ns/net` or a bind mount of it).
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open = || {
            let file = File::open(path)?;
            // A path whose bind mount is gone is an ordinary file.
            if rustix::fs::fstatfs(&file)?.f_type as i64 != NSFS_MAGIC {
                return Err(std::io::Error::other("it is not a namespace"));
            }
            Self::from_fd(OwnedFd::from(file))
        };
        open().map_err(|source| NetnsError::Open {
            path: path.display().to_string(),
            source,
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, std::io::Error> {
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Self {
            file: Arc::new(fd),
            inode,
        })
    }

    /// The namespace's inode: what tells it from every other one that lives now.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    fn enter(&self) -> Result<(), NetnsError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| {
            NetnsError::Enter {
                inode: self.inode,
                source: e.into(),
            }
        })
    }
}

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Runs jobs in network namespaces, a bounded number at a time.
#[derive(Debug, Clone)]
pub struct NetnsRunner {
    slots: Arc<Semaphore>,
}

impl NetnsRunner {
    /// At most `threads` jobs run at once; others wait.
    pub fn new(threads: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Runs `job` on a thread of its own inside `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, no thread can be had, or the job's own error.
    pub async fn run<T, E, F>(&self, netns: &Netns, job: F) -> Result<T, E>
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<NetnsError> + Send + 'static,
    {
        let permit = Arc::clone(&self.slots).acquire_owned().await;
        let permit = permit.map_err(|e| NetnsError::Thread(e.to_string()))?;
        let netns = netns.clone();
        let (send, receive) = oneshot::channel();
        let work = move || {
            let answer = netns.enter().map_err(E::from).and_then(|()| job());
            drop(permit);
            // Nobody waits any more: the caller was cancelled, and the job is idempotent.
            _ = send.send(answer);
        };
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(work)
            .map_err(|e| NetnsError::Thread(e.to_string()))?;
        receive
            .await
            .map_err(|_| NetnsError::Thread("its thread panicked".to_owned()))?
    }
}

/// Inode of the network namespace that a socket was made in.
///
/// # Errors
/// It is no socket, or those of `ioctl(SIOCGSKNS)`; it needs CAP_NET_ADMIN over the namespace.
pub fn socket_netns_inode(socket: BorrowedFd<'_>) -> std::io::Result<u64> {
    // The descriptor may be a stranger's, and of another kind of file the same number may ask for something else.
    if FileType::from_raw_mode(rustix::fs::fstat(socket)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK.into());
    }
    // SAFETY: of a socket, which this is, the request only returns a descriptor; `SocketNetns` describes it so (below).
    #[allow(unsafe_code)]
    let namespace = unsafe { rustix::ioctl::ioctl(socket, SocketNetns) }?;
    Ok(rustix::fs::fstat(&namespace)?.st_ino)
}

/// `ioctl(SIOCGSKNS)`: returns a new descriptor of the socket's network namespace.
struct SocketNetns;

// SAFETY: of a socket, SIOCGSKNS takes no argument, does not write to memory, and returns a new descriptor that nobody else owns.
#[allow(unsafe_code)]
unsafe impl rustix::ioctl::Ioctl for SocketNetns {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        const SIOCGSKNS: rustix::ioctl::Opcode = 0x894c;
        SIOCGSKNS
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        returned: rustix::ioctl::IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        if returned < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: the call succeeded, so this is a descriptor just made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(returned as RawFd) })
    }
}
