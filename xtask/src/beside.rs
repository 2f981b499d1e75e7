//! Work that takes minutes, side by side where the memory suffices.

use std::fs;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::progress::Progress;

/// One piece of work.
pub(crate) struct Job<'a> {
    /// Its name, for the one who waits.
    pub(crate) name: &'static str,
    /// The memory that it takes, in MiB.
    pub(crate) memory: u64,
    /// The work itself.
    pub(crate) work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

/// Does all of it, beginning in the order given. A job waits while the available memory does not suffice for it beside
/// those that run; one that runs alone never waits.
pub(crate) fn side_by_side(jobs: Vec<Job<'_>>, progress: &Progress) -> Result<()> {
    within(available()?, jobs, progress)
}

fn within<'a>(memory: u64, jobs: Vec<Job<'a>>, progress: &Progress) -> Result<()> {
    let room = &Room {
        used: Mutex::new(Vec::new()),
        changed: Condvar::new(),
        memory,
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let begin = |job: Job<'a>| {
            let place = room.take(job.memory);
            scope.spawn(move || {
                let _place = place;
                let result = progress.step(job.name, job.work);
                if let Err(error) = &result {
                    // At once: the others may take minutes still.
                    progress.error(error);
                }
                result
            })
        };
        let running: Vec<_> = jobs.into_iter().map(begin).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
            .collect()
    });
    let failed: Vec<String> = results
        .into_iter()
        .filter_map(|result| result.err().map(|error| format!("{error:#}")))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// The memory that running jobs have taken.
struct Room {
    used: Mutex<Vec<u64>>,
    changed: Condvar,
    memory: u64,
}

impl Room {
    fn take(&self, memory: u64) -> Place<'_> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let crowded =
            |used: &mut Vec<u64>| !used.is_empty() && used.iter().sum::<u64>() + memory > self.memory;
        let mut used = self
            .changed
            .wait_while(used, crowded)
            .unwrap_or_else(PoisonError::into_inner);
        used.push(memory);
        Place { room: self, memory }
    }
}

/// Given back when dropped.
struct Place<'a> {
    room: &'a Room,
    memory: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut used = self.room.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = used.iter().position(|memory| *memory == self.memory) {
            used.swap_remove(index);
        }
        self.room.changed.notify_all();
    }
}

/// What may be taken without swapping, in MiB.
fn available() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    mebibytes(&meminfo).context("/proc/meminfo has no MemAvailable")
}

fn mebibytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes >> 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn job<'a>(memory: u64, work: impl FnOnce() -> Result<()> + Send + 'a) -> Job<'a> {
        let name = "job";
        let work = Box::new(work);
        Job { name, memory, work }
    }

    #[test]
    fn jobs_run_beside_each_other_where_memory_suffices() {
        let meet = Barrier::new(2);
        let meeting = || {
            // Would wait for ever if they took turns.
            meet.wait();
            Ok(())
        };
        within(10, vec![job(5, meeting), job(5, meeting)], &Progress::new()).unwrap();
    }

    #[test]
    fn jobs_take_turns_where_it_does_not_and_a_large_one_runs_alone() {
        let running = AtomicUsize::new(0);
        let alone = || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        let jobs = vec![job(100, alone), job(6, alone), job(6, alone)];
        within(10, jobs, &Progress::new()).unwrap();
    }

    #[test]
    fn every_failure_is_told_and_keeps_no_other_from_running() {
        let done = AtomicUsize::new(0);
        let jobs = vec![
            job(6, || bail!("one")),
            job(6, || bail!("two")),
            job(6, || {
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }),
        ];
        let error = within(10, jobs, &Progress::new()).unwrap_err().to_string();
        assert_eq!(error, "one; two");
        assert_eq!(done.into_inner(), 1);
    }

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24684528 kB\nMemAvailable:   2097152 kB\n";
        assert_eq!(mebibytes(text), Some(2048));
        assert!(available().unwrap() > 0);
    }
}
