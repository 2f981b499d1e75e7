//! The writer of log lines: a separate thread writes them in order, many at a time. A system call per line would be a
//! third of the cost of a line of the access log. While the output is blocked, lines wait up to a limit; further lines
//! are dropped and counted. No caller ever waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::throttle;

/// The longest time that a line of the access log waits for others.
const PATIENCE: Duration = Duration::from_millis(50);
/// With this many bytes, lines are written at once.
const BATCH: usize = 64 << 10;
/// The maximum of bytes that wait for the output; further lines are dropped.
const FULL: usize = 1 << 20;
/// How often the idle thread checks whether a report of suppressed lines is due.
const LOOK: Duration = Duration::from_secs(10);
/// How long the program waits at its end for a blocked output.
const LAST_WRITE: Duration = Duration::from_secs(2);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Dropped lines in the whole process.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Accepts lines. Dropping [`LogGuard`] ends the writer.
pub(super) struct Collector(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// Signals new lines, or a reason to write them now.
    work: Condvar,
    /// Signals that the thread has ended.
    done: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    /// Dropped since the last report.
    dropped: u64,
    /// The lines are to be written at once.
    now: bool,
    ended: bool,
    done: bool,
}

/// Writes the remaining lines when dropped, if the output accepts them within two seconds. Later lines are lost.
pub struct LogGuard {
    shared: Arc<Shared>,
}

/// One line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    /// Only lines of the access log wait: other lines are few, and a person may be reading them.
    patient: bool,
}

impl Collector {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.write_to(output))?;
        let guard = LogGuard {
            shared: Arc::clone(&shared),
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
        if pending.lines.len() + line.len() > FULL {
            pending.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
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
            if self.work.wait_while_for(&mut pending, idle, LOOK).timed_out() {
                drop(pending);
                throttle::report();
                continue;
            }
            let early = |pending: &mut Pending| !pending.now && !pending.ended;
            self.work.wait_while_for(&mut pending, early, PATIENCE);
            let ended = pending.ended;
            let dropped = std::mem::take(&mut pending.dropped);
            pending.now = false;
            std::mem::swap(&mut pending.lines, &mut taken);
            drop(pending);
            // An error could not be reported anywhere.
            let _ = output.write_all(&taken).and_then(|()| output.flush());
            if dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    "log lines were dropped: the log was not read fast enough"
                );
            }
            if ended {
                self.pending.lock().done = true;
                self.done.notify_all();
                return;
            }
            taken.clear();
            taken.shrink_to(2 * BATCH);
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut pending = self.shared.pending.lock();
        pending.ended = true;
        self.shared.work.notify_one();
        let waiting = |pending: &mut Pending| !pending.done;
        self.shared.done.wait_while_for(&mut pending, waiting, LAST_WRITE);
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
        let expected: Vec<String> = (0..2000).map(|n| format!("{n} {:500}\n", "")).collect();
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

    /// Takes nothing until it is allowed to: a pipe that nobody reads.
    struct Stalled(mpsc::Receiver<()>, mpsc::Sender<String>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error: for ever from now on.
            let _ = self.0.recv();
            let text = String::from_utf8(bytes.to_owned()).map_err(io::Error::other)?;
            self.1.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing() {
        let ((go, gone), (sender, written)) = (mpsc::channel(), mpsc::channel());
        let (collector, guard) = Collector::start(Stalled(gone, sender)).unwrap();
        let line = format!("{:1023}\n", "");
        let before = dropped_lines();
        let lines = 5000;
        // Warnings too. This returns, whoever reads.
        for n in 0..lines {
            write(&collector, n % 2 == 0, &line);
        }
        let dropped = usize::try_from(dropped_lines() - before).unwrap();
        // One batch is being written, and one waits.
        assert!(dropped >= lines - 2 * FULL / line.len(), "{dropped}");
        drop(go);
        drop(guard);
        let text: String = written.iter().collect();
        assert_eq!(text.len() / line.len(), lines - dropped);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let ((_go, gone), (sender, _written)) = (mpsc::channel(), mpsc::channel());
        let (collector, guard) = Collector::start(Stalled(gone, sender)).unwrap();
        write(&collector, false, "line\n");
        drop(guard);
    }
}
