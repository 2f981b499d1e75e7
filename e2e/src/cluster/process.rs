//! The processes of a cluster: started so that they outlive the caller, found again and ended with certainty.
//!
//! Each carries two variables in its environment: the state folder of its cluster and its role there. So nothing has to be
//! written down when one starts, a run that was killed half-way leaves nothing unknown, and no foreign process is ever hit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{shell, wait};

const CLUSTER: &str = "AMBIT_CLUSTER_DIR";
const ROLE: &str = "AMBIT_CLUSTER_ROLE";
const END_LIMIT: Duration = Duration::from_secs(30);

/// A process of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) role: String,
}

/// A process that this one started, and how it ended if it did.
#[derive(Debug)]
pub(crate) struct Started {
    role: String,
    log: PathBuf,
    end: Arc<OnceLock<ExitStatus>>,
}

impl Started {
    /// An error that quotes the log if the process has ended.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(status) = self.end.get() else {
            return Ok(());
        };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        bail!(
            "{} ended with {status}; the end of {}:\n{}",
            self.role,
            self.log.display(),
            shell::tail(&text, 10)
        )
    }
}

/// Starts `program` in the background, in a session of its own, its output appended to `log`.
pub(super) fn spawn(dir: &Path, role: &str, log: &Path, program: &[String]) -> Result<Started> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let out = File::options().create(true).append(true).open(log);
    let out = out.with_context(|| format!("cannot open {}", log.display()))?;
    let mut command = Command::new("setsid");
    command
        .args(program)
        .env(CLUSTER, dir)
        .env(ROLE, role)
        .current_dir("/");
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = command.spawn().with_context(|| format!("cannot start {role}"))?;
    // Reaped when it ends before we do, or else by the system.
    let end = Arc::new(OnceLock::new());
    let started = Started {
        role: role.into(),
        log: log.into(),
        end: Arc::clone(&end),
    };
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _ = end.set(status);
        }
    });
    Ok(started)
}

/// The cluster's processes that live now.
pub(super) fn list(dir: &Path) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if let Some(role) = role(dir, pid) {
            found.push(Process { pid, role });
        }
    }
    Ok(found)
}

/// Ends every process whose role `chosen` accepts, at once, and waits until they are gone.
pub(super) fn kill(dir: &Path, chosen: impl Fn(&str) -> bool) -> Result<()> {
    let what = format!("the processes of {} to end", dir.display());
    // A process shows no environment at the moment in which it turns into another program: one look is not enough.
    let mut looks_without = 0;
    wait::until(&what, END_LIMIT, String::new, || {
        let left: Vec<Process> = list(dir)?
            .into_iter()
            .filter(|process| chosen(&process.role))
            .collect();
        // Those in a namespace of their own go first: who started them then sees them end, and ends itself.
        let (inner, outer): (Vec<&Process>, Vec<&Process>) =
            left.iter().partition(|process| inner_pid(process.pid).is_some());
        for process in if inner.is_empty() { outer } else { inner } {
            kill_one(dir, process)?;
        }
        looks_without = if left.is_empty() { looks_without + 1 } else { 0 };
        if looks_without < 2 {
            bail!("{left:?} still there");
        }
        Ok(())
    })
}

/// The pid, on the machine, of the process that is number 1 of the pid namespace which role `role` made.
pub(super) fn namespace_init(dir: &Path, role: &str) -> Result<u32> {
    let processes = list(dir)?;
    let init = processes
        .iter()
        .filter(|process| process.role == role)
        .find(|process| inner_pid(process.pid) == Some(1));
    Ok(init
        .with_context(|| format!("no process of {} has the role {role}", dir.display()))?
        .pid)
}

/// The pid that a process has in its innermost pid namespace, if that is not the machine's own.
fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    innermost(&status)
}

fn innermost(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Vec<&str> = line.split_whitespace().collect();
    if pids.len() < 2 {
        None
    } else {
        pids.last()?.parse().ok()
    }
}

fn role(dir: &Path, pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variable = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|pair| {
            Some(
                String::from_utf8_lossy(pair)
                    .strip_prefix(name)?
                    .strip_prefix('=')?
                    .to_owned(),
            )
        })
    };
    if PathBuf::from(variable(CLUSTER)?) == dir {
        variable(ROLE)
    } else {
        None
    }
}

/// The handle is taken before the identity is checked again: a pid that was used anew in between is not hit.
fn kill_one(dir: &Path, process: &Process) -> Result<()> {
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a pid is positive")?;
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    if role(dir, process.pid).as_ref() != Some(&process.role) {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot end process {} ({})", process.pid, process.role))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_cluster_and_ended() {
        let dir = std::env::temp_dir().join(format!("ambit-e2e-process-{}", std::process::id()));
        let log = dir.join("log/x.log");
        spawn(&dir, "sleeper", &log, &["sleep".into(), "600".into()]).unwrap();
        let seen = wait::until("it to start", END_LIMIT, String::new, || {
            list(&dir)?
                .into_iter()
                .find(|process| process.role == "sleeper")
                .context("none")
        });
        assert_ne!(seen.unwrap().pid, std::process::id());
        assert!(list(Path::new("/elsewhere")).unwrap().is_empty());
        kill(&dir, |role| role == "other").unwrap();
        assert_eq!(list(&dir).unwrap().len(), 1);
        kill(&dir, |_| true).unwrap();
        assert!(list(&dir).unwrap().is_empty());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_innermost_pid_is_the_last() {
        assert_eq!(innermost("Name:\tx\nNSpid:\t812\t1\n"), Some(1));
        assert_eq!(innermost("NSpid:\t812\n"), None);
        assert_eq!(innermost(""), None);
    }
}
