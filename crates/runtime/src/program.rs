//! What every program needs to run: threads, and the two signals that end it.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads for the control work of a proxy. With two, a long dump does not delay readiness and certificates.
const CONTROL_THREADS: usize = 2;

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Handles both signals from now on. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal, and returns its name.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs a program on `threads` threads with this name.
///
/// # Errors
/// When threads or signal handlers cannot be set up.
pub fn run_program<T>(name: &str, threads: usize, program: impl AsyncFnOnce(Signals) -> T) -> io::Result<T> {
    let runtime = runtime(name, Some(threads))?;
    runtime.block_on(async { Ok(program(Signals::new()?).await) })
}

/// Runs the control work of a proxy (control plane, certificates, dumps, metrics) on threads of its own. Connections
/// have others, so neither waits for the other: [`Workers`](crate::Workers).
///
/// # Errors
/// When threads or signal handlers cannot be set up.
pub fn run_control<T>(program: impl AsyncFnOnce(Signals) -> T) -> io::Result<T> {
    run_program("control", CONTROL_THREADS, program)
}

/// Threads with this name, one for each CPU, that share their tasks.
///
/// # Errors
/// When threads cannot be started.
pub fn sharing_threads(name: &str) -> io::Result<Runtime> {
    runtime(name, None)
}

fn runtime(name: &str, threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name(name).build()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    /// Blocks every thread for connections, as a stalled data path would, and has control work done meanwhile.
    #[test]
    fn control_work_goes_on_while_data_threads_are_busy() {
        let threads = thread::available_parallelism().unwrap().get();
        let barrier = Arc::new(Barrier::new(threads + 1));
        let data = sharing_threads("data").unwrap();
        let done = run_control(async |_| {
            for _ in 0..threads {
                let barrier = Arc::clone(&barrier);
                data.spawn(async move {
                    barrier.wait();
                });
            }
            let done = tokio::spawn(async { thread::current().name().map(str::to_owned) }).await;
            barrier.wait();
            done.unwrap()
        })
        .unwrap();
        assert_eq!(done.as_deref(), Some("control"));
    }
}
