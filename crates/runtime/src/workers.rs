//! Workers: the threads of connections. Each has a single-threaded runtime of its own.
//!
//! A connection is given to one worker, and everything that is done for it runs there: no lock that two workers take,
//! and no thread that wakes another, is on the way of a byte.

use std::io;
use std::num::NonZero;
use std::thread::{self, JoinHandle};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// The threads of connections. Dropping them ends their tasks, and waits for the threads.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts as many workers as this process may use CPUs, by its affinity and its CPU limit; at least one. Their
    /// threads are named `name-0`, `name-1` and so on.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(name: &str) -> io::Result<Self> {
        Self::start_many(
            name,
            thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        )
    }

    /// Starts this number of workers.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start_many(name: &str, workers: NonZero<usize>) -> io::Result<Self> {
        let mut this = Self {
            handles: Vec::new(),
            threads: Vec::new(),
            stop: CancellationToken::new(),
        };
        for number in 0..workers.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            this.handles.push(runtime.handle().clone());
            let stop = this.stop.clone();
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            this.threads.push(thread.spawn(move || run(&runtime, &stop))?);
        }
        Ok(this)
    }

    /// The workers, as those who give them connections see them.
    pub fn shards(&self) -> Shards {
        Shards::of(&self.handles)
    }
}

fn run(runtime: &Runtime, stop: &CancellationToken) {
    runtime.block_on(stop.cancelled());
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker has panicked");
            }
        }
    }
}

/// Workers, each with something of its own, `T`: what its connections share.
#[derive(Debug)]
pub struct Shards<T = ()>(Vec<Shard<T>>);

#[derive(Debug)]
struct Shard<T> {
    handle: Handle,
    own: T,
}

impl Shards {
    fn of(handles: &[Handle]) -> Self {
        let shard = |handle: &Handle| Shard {
            handle: handle.clone(),
            own: (),
        };
        Self(handles.iter().map(shard).collect())
    }

    /// The runtime of the caller as the only worker. Must be called within a Tokio runtime.
    pub fn current() -> Self {
        Self::of(&[Handle::current()])
    }

    /// Gives each worker something of its own. `make` is called within the runtime of the worker, so that it can spawn
    /// tasks there.
    pub fn each<T>(&self, mut make: impl FnMut() -> T) -> Shards<T> {
        let shard = |Shard { handle, own: () }: &Shard<()>| {
            let _within = handle.enter();
            let own = make();
            let handle = handle.clone();
            Shard { handle, own }
        };
        Shards(self.0.iter().map(shard).collect())
    }
}

impl<T> Shards<T> {
    /// What each of the workers has.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.own)
    }

    /// Gives an accepted connection to the worker with the fewest tasks, which are its connections, their streams and
    /// their requests. `serve` is called at once, with what the worker has; what it returns runs on the worker.
    ///
    /// One task accepts, so it sees all that it has given away: a look at every worker chooses best, and costs little
    /// beside a TLS handshake.
    ///
    /// # Errors
    /// When the socket cannot be taken from the event loop of the caller.
    pub fn give<F>(&self, tcp: TcpStream, serve: impl FnOnce(&T, Given) -> F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let given = Given(tcp.into_std()?);
        let fewest = self
            .0
            .iter()
            .min_by_key(|shard| shard.handle.metrics().num_alive_tasks());
        if let Some(Shard { handle, own }) = fewest {
            handle.spawn(serve(own, given));
        }
        Ok(())
    }
}

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct Given(std::net::TcpStream);

impl Given {
    /// The connection, in the event loop of the worker. To be called there.
    ///
    /// # Errors
    /// When the event loop does not take it.
    pub fn take(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0)
    }
}

#[cfg(test)]
mod tests;
