//! Lines on their way out: collected, in order, and written many at a time by a thread of their own. A system call for each would be a
//! third of what a line of the access log costs.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Lines of the access log wait for others so long, at most.
const PATIENCE: Duration = Duration::from_millis(50);
/// With so many bytes nothing waits any more.
const BATCH: usize = 64 << 10;
/// Bytes from which on those who log wait for the writer, as they would for standard output itself.
const FULL: usize = 1 << 20;

/// Takes lines; the writer's end is [`LogGuard`].
pub(super) struct Collector(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// There is something to write, or more reason to.
    work: Condvar,
    /// What was there is on its way.
    room: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    /// They are to be written at once.
    now: bool,
    ended: bool,
}

/// Writes what is left when it is dropped. What is logged afterwards is lost.
pub struct LogGuard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    /// Only lines of the access log can wait: of the others there are few, and somebody may be looking.
    patient: bool,
}

impl Collector {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.write_to(output))?;
        let guard = LogGuard {
            shared: Arc::clone(&shared),
            thread: Some(thread),
        };
        Ok((Self(shared), guard))
    }
}

impl<'a> MakeWriter<'a> for Collector {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            shared: &self.0,
            patient: false,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line {
            shared: &self.0,
            patient: event.target() == "access",
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut pending = self.shared.pending.lock();
        self.shared.room.wait_while(&mut pending, |pending| {
            pending.lines.len() >= FULL && !pending.ended
        });
        let first = pending.lines.is_empty();
        pending.lines.extend_from_slice(line);
        let now = !self.patient || pending.lines.len() >= BATCH;
        if first || (now && !pending.now) {
            pending.now |= now;
            self.shared.work.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Until the end, and all that came before it.
    fn write_to(&self, mut output: impl Write) {
        let mut taken = Vec::new();
        loop {
            let mut pending = self.pending.lock();
            let idle = |pending: &mut Pending| pending.lines.is_empty() && !pending.ended;
            self.work.wait_while(&mut pending, idle);
            let early = |pending: &mut Pending| !pending.now && !pending.ended;
            self.work.wait_while_for(&mut pending, early, PATIENCE);
            let ended = pending.ended;
            pending.now = false;
            std::mem::swap(&mut pending.lines, &mut taken);
            drop(pending);
            self.room.notify_all();
            // Nobody could be told of an error.
            let _ = output.write_all(&taken).and_then(|()| output.flush());
            if ended {
                return;
            }
            taken.clear();
            taken.shrink_to(2 * BATCH);
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.shared.pending.lock().ended = true;
        self.shared.work.notify_one();
        self.shared.room.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Tells of every write.
    struct Written(mpsc::Sender<String>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_owned()).map_err(io::Error::other)?;
            self.0.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn write(collector: &Collector, patient: bool, text: &str) {
        let shared = &collector.0;
        Line { shared, patient }.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nothing_is_lost_and_the_order_is_kept() {
        let (sender, written) = mpsc::channel();
        let (collector, guard) = Collector::start(Written(sender)).unwrap();
        let expected: Vec<String> = (0..5000).map(|n| format!("{n} {:500}\n", "")).collect();
        for (n, line) in expected.iter().enumerate() {
            write(&collector, n % 1000 != 0, line);
        }
        drop(guard);
        let parts: Vec<String> = written.iter().collect();
        assert_eq!(parts.concat(), expected.concat());
        assert!(parts.len() < expected.len() / 10, "{} writes", parts.len());
    }

    #[test]
    fn lines_are_written_without_an_end_or_further_ones() {
        let (sender, written) = mpsc::channel();
        let (collector, _guard) = Collector::start(Written(sender)).unwrap();
        for patient in [true, false, true] {
            write(&collector, patient, "line\n");
            assert_eq!(written.recv().unwrap(), "line\n");
        }
    }

    #[test]
    fn who_logs_waits_for_an_output_that_takes_nothing() {
        /// Takes bytes as they are asked for.
        struct Slow(mpsc::Receiver<()>, mpsc::Sender<usize>);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.recv().map_err(io::Error::other)?;
                self.1.send(bytes.len()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ((go, gone), (sender, written)) = (mpsc::channel(), mpsc::channel());
        let (collector, guard) = Collector::start(Slow(gone, sender)).unwrap();
        let line = "x".repeat(FULL);
        let logging = thread::spawn(move || {
            for _ in 0..4 {
                write(&collector, true, &line);
            }
        });
        // One is being written and one waits: the other two are not taken.
        go.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), FULL);
        assert!(!logging.is_finished());
        for _ in 0..3 {
            go.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), FULL);
        }
        logging.join().unwrap();
        drop(guard);
    }
}
