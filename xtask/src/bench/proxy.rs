//! What the ztunnel of a node used: read from /proc, where its process is one of this machine's.

use std::fs;

use ambit_e2e::cluster::{Cluster, Node};
use anyhow::{Context, Result, bail};

/// `/proc/PID/stat` counts in hundredths of a second on every architecture that Kubernetes runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The running ztunnel of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ztunnel {
    /// The node's name.
    pub(super) node: String,
    pid: u32,
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) now: f64,
    /// The most that ever was.
    pub(super) peak: f64,
}

impl Ztunnel {
    /// The one on this node. More than one is an error: the work of a connection could not be told apart.
    pub(super) fn find(cluster: &Cluster, node: &Node) -> Result<Self> {
        let name = node.name();
        let selector = format!("--field-selector=spec.nodeName={name},status.phase=Running");
        let pods = cluster.list(&[
            "pods",
            "--namespace=ambit-system",
            "--selector=app=ztunnel",
            &selector,
        ])?;
        let [pod] = pods.as_slice() else {
            bail!(
                "{name} runs {} ztunnels; wait until a roll-out is over",
                pods.len()
            );
        };
        let uid = pod["metadata"]["uid"].as_str().context("a pod without a UID")?;
        let pid = node.container_pid(uid, "ztunnel")?;
        Ok(Self { node: name, pid })
    }

    /// Processor time since it started, in seconds.
    pub(super) fn cpu(&self) -> Result<f64> {
        let stat = self.read("stat")?;
        cpu(&stat).with_context(|| format!("/proc/{}/stat: {stat}", self.pid))
    }

    /// Its memory.
    pub(super) fn memory(&self) -> Result<Memory> {
        let status = self.read("status")?;
        memory(&status).with_context(|| format!("/proc/{}/status", self.pid))
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).with_context(|| {
            format!(
                "the ztunnel of {} (pid {}) ended during the benchmark",
                self.node, self.pid
            )
        })
    }
}

/// proc_pid_stat(5): fields 14 and 15 are time in user and kernel mode; field 2, a name in parentheses, may hold anything.
fn cpu(stat: &str) -> Result<f64> {
    let (_, rest) = stat.rsplit_once(')').context("no name in it")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut field = || -> Result<f64> { Ok(fields.next().context("it is too short")?.parse()?) };
    Ok((field()? + field()?) / TICKS_PER_SECOND)
}

fn memory(status: &str) -> Result<Memory> {
    let kibibytes = |name: &str| -> Result<f64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("no {name} in it"))?;
        Ok(value.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Memory {
        now: kibibytes("VmRSS:")? / 1024.0,
        peak: kibibytes("VmHWM:")? / 1024.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_user_and_kernel_mode() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 20 0 4 0 100";
        assert_eq!(cpu(stat).unwrap(), 3.0);
        assert!(cpu("42 (a) S 1 2").is_err() && cpu("").is_err());
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
        let own = Ztunnel {
            node: "n1".into(),
            pid: std::process::id(),
        };
        assert!(own.cpu().unwrap() >= 0.0);
        let memory = own.memory().unwrap();
        assert!(0.0 < memory.now && memory.now <= memory.peak, "{memory:?}");
        let ended = Ztunnel {
            node: "n1".into(),
            pid: u32::MAX,
        };
        assert!(ended.cpu().unwrap_err().to_string().contains("n1"));
    }
}
