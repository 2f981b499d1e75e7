//! What a process of this machine used, as /proc tells it.

use std::fs;
use std::ops::Add;

use anyhow::{Context, Result};

/// `/proc/PID/stat` counts in hundredths of a second on every architecture that Kubernetes runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
}

/// What a process used of the processors since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Seconds in user mode.
    pub(super) user: f64,
    /// Seconds in kernel mode.
    pub(super) kernel: f64,
    /// How often a thread waited for something.
    pub(super) waits: f64,
}

impl Usage {
    /// Seconds of both modes.
    pub(super) fn seconds(self) -> f64 {
        self.user + self.kernel
    }

    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            kernel: self.kernel - before.kernel,
            waits: self.waits - before.waits,
        }
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            kernel: self.kernel + other.kernel,
            waits: self.waits + other.waits,
        }
    }
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) now: f64,
    /// The most that ever was.
    pub(super) peak: f64,
}

impl Process {
    /// The one with this id.
    pub(super) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Processor time of all its threads since it started, in seconds.
    pub(super) fn cpu(self) -> Result<f64> {
        Ok(self.times()?.seconds())
    }

    /// What all its threads used since it started; waits are those of threads that still run.
    pub(super) fn usage(self) -> Result<Usage> {
        let tasks = format!("/proc/{}/task", self.pid);
        let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
        let mut waits = 0.0;
        for task in tasks {
            // A thread may have ended meanwhile.
            if let Ok(status) = fs::read_to_string(task?.path().join("status")) {
                waits += number(&status, "voluntary_ctxt_switches:")?;
            }
        }
        Ok(Usage {
            waits,
            ..self.times()?
        })
    }

    fn times(self) -> Result<Usage> {
        let stat = self.read("stat")?;
        times(&stat).with_context(|| format!("/proc/{}/stat: {stat}", self.pid))
    }

    /// Its memory.
    pub(super) fn memory(self) -> Result<Memory> {
        let status = self.read("status")?;
        memory(&status).with_context(|| format!("/proc/{}/status", self.pid))
    }

    /// It and the processes that its first thread started.
    pub(super) fn family(self) -> Result<Vec<Self>> {
        let children = self.read(&format!("task/{}/children", self.pid))?;
        let children = children.split_whitespace().map(|pid| Ok(Self::new(pid.parse()?)));
        std::iter::once(Ok(self)).chain(children).collect()
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// proc_pid_stat(5): fields 14 and 15 are time in user and kernel mode; field 2, a name in parentheses, may hold
/// anything.
fn times(stat: &str) -> Result<Usage> {
    let (_, rest) = stat.rsplit_once(')').context("no name in it")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut seconds = || -> Result<f64> {
        let ticks: f64 = fields.next().context("it is too short")?.parse()?;
        Ok(ticks / TICKS_PER_SECOND)
    };
    Ok(Usage {
        user: seconds()?,
        kernel: seconds()?,
        waits: 0.0,
    })
}

fn memory(status: &str) -> Result<Memory> {
    Ok(Memory {
        now: number(status, "VmRSS:")? / 1024.0,
        peak: number(status, "VmHWM:")? / 1024.0,
    })
}

/// The number behind a name in a status of /proc, whatever its unit.
fn number(status: &str, name: &str) -> Result<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let value = value.with_context(|| format!("no {name} in it"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn processor_time_is_that_of_user_and_kernel_mode() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 20 0 4 0 100";
        let times = times(stat).unwrap();
        assert_eq!((times.user, times.kernel, times.seconds()), (2.5, 0.5, 3.0));
        assert!(super::times("42 (a) S 1 2").is_err() && super::times("").is_err());
    }

    #[test]
    fn memory_is_read_by_name() {
        let status = "Name:\tztunnel\nVmHWM:\t   61440 kB\nVmRSS:\t   20480 kB\n";
        assert_eq!(
            memory(status).unwrap(),
            Memory {
                now: 20.0,
                peak: 60.0
            }
        );
        assert!(
            memory("Name:\tztunnel\n")
                .unwrap_err()
                .to_string()
                .contains("VmRSS")
        );
    }

    #[test]
    fn the_own_process_can_be_read() {
        let own = Process::new(std::process::id());
        let before = own.usage().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let used = own.usage().unwrap().since(before);
        assert!(own.cpu().unwrap() >= 0.0 && used.seconds() >= 0.0);
        assert!(used.waits >= 1.0, "{used:?}");
        let memory = own.memory().unwrap();
        assert!(memory.now > 0.0 && memory.peak >= memory.now);
    }

    #[test]
    fn a_family_has_the_child() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let family = Process::new(shell.id()).family().unwrap();
        for member in &family[1..] {
            Command::new("kill").arg(member.pid.to_string()).status().unwrap();
        }
        shell.wait().unwrap();
        assert_eq!((family[0], family.len()), (Process::new(shell.id()), 2));
    }
}
