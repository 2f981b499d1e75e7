//! The side that answers: one port for every kind of load.
//!
//! A thread serves one connection at a time, from accepting it to its end, and there is always one more that waits to
//! accept: no connection is handed from thread to thread. The threads end with the process.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::{CONNECT_PORT, PEER_PORT, REPLY_PORT, REQUEST_BYTES, SINK_PORT};

/// Threads a port, which is connections at a time; more wait in the accept queue.
const MOST_THREADS: usize = 1024;
const SINK_BUFFER: usize = 256 * 1024;
const LARGEST_RESPONSE: usize = 1024 * 1024;

type Serve = fn(TcpStream, SocketAddr) -> io::Result<()>;

/// The ports and what each does.
const PORTS: [(&str, u16, Serve); 4] = [
    ("sink", SINK_PORT, sink),
    ("reply", REPLY_PORT, reply),
    ("connect", CONNECT_PORT, connect),
    ("peer", PEER_PORT, peer),
];

/// A server whose ports are open.
pub struct Server {
    ports: Vec<Arc<Port>>,
}

struct Port {
    name: &'static str,
    listener: TcpListener,
    serve: Serve,
    threads: AtomicUsize,
    waiting: AtomicUsize,
}

impl Server {
    /// Opens all ports on every address.
    pub fn bind() -> Result<Self> {
        Self::open(|_, port| port)
    }

    /// Opens ports that the system chooses: [`Server::address`] tells them.
    #[cfg(test)]
    pub(crate) fn bind_any() -> Result<Self> {
        Self::open(|_, _| 0)
    }

    /// The address of the port with this name.
    #[cfg(test)]
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let port = self.ports.iter().find(|port| port.name == name).unwrap();
        let address = port.listener.local_addr().unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    }

    fn open(number: impl Fn(&str, u16) -> u16) -> Result<Self> {
        let open = |(name, port, serve)| {
            let address = (Ipv4Addr::UNSPECIFIED, number(name, port));
            let listener =
                TcpListener::bind(address).with_context(|| format!("cannot listen on {address:?}"))?;
            Ok(Arc::new(Port {
                name,
                listener,
                serve,
                threads: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
            }))
        };
        Ok(Self {
            ports: PORTS.into_iter().map(open).collect::<Result<_>>()?,
        })
    }

    /// Serves; the threads returned never end.
    pub fn start(&self) -> Result<Vec<JoinHandle<()>>> {
        let spawn = |port: &Arc<Port>| {
            spawn(port).with_context(|| format!("cannot start a thread for {}", port.name))
        };
        self.ports.iter().map(spawn).collect()
    }
}

fn spawn(port: &Arc<Port>) -> io::Result<JoinHandle<()>> {
    port.threads.fetch_add(1, Ordering::Relaxed);
    port.waiting.fetch_add(1, Ordering::Relaxed);
    let own = Arc::clone(port);
    let started = thread::Builder::new()
        .name(port.name.into())
        .spawn(move || accept(&own));
    if started.is_err() {
        port.threads.fetch_sub(1, Ordering::Relaxed);
        port.waiting.fetch_sub(1, Ordering::Relaxed);
    }
    started
}

fn accept(port: &Arc<Port>) {
    loop {
        let (stream, peer) = match port.listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("{}: cannot accept: {error}", port.name);
                continue;
            }
        };
        let last = port.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
        if last
            && port.threads.load(Ordering::Relaxed) < MOST_THREADS
            && let Err(error) = spawn(port)
        {
            eprintln!("{}: cannot start another thread: {error}", port.name);
        }
        if let Err(error) = stream.set_nodelay(true).and_then(|()| (port.serve)(stream, peer)) {
            eprintln!("{}: {peer}: {error}", port.name);
        }
        port.waiting.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says one byte, so that the client knows the whole path to stand; takes all there is, and says how many bytes it was.
fn sink(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    stream.write_all(b"!")?;
    let mut buffer = vec![0; SINK_BUFFER];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => total += count as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}

/// Responds to each request with as many bytes as it asks for.
fn reply(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    let mut response = Vec::new();
    while read_or_end(&mut stream, &mut request)? {
        let [a, b, c, d, ..] = request;
        let wanted = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if wanted > LARGEST_RESPONSE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{wanted} bytes were asked for, the most is {LARGEST_RESPONSE}"),
            ));
        }
        response.resize(wanted, b'.');
        stream.write_all(&response)?;
    }
    Ok(())
}

/// Takes one byte, gives one, and closes first: the client's port is free again at once, and `TIME_WAIT` is on this
/// side, where it does not keep the same client from coming again.
fn connect(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut byte = [0];
    if !read_or_end(&mut stream, &mut byte)? {
        return Ok(());
    }
    stream.write_all(&byte)?;
    stream.shutdown(Shutdown::Write)?;
    // What is unread when a socket is closed becomes a reset: wait for the client's end.
    stream.read(&mut byte).map(drop)
}

/// Says which address it sees, and closes.
fn peer(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.write_all(peer.to_string().as_bytes())
}

/// Fills the buffer; false if the stream ended before its first byte.
fn read_or_end(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
    let first = stream.read(buffer)?;
    if first == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut buffer[first..]).map(|()| true)
}
