//! What goes over the wire between the nodes: recorded with tcpdump, read back packet by packet.

mod packet;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;

pub use packet::{Packet, contains};

/// A recording that is under way. Ended by [`Recording::stop`], or thrown away.
#[derive(Debug)]
pub struct Recording {
    tcpdump: Child,
    file: PathBuf,
}

impl Recording {
    /// Begins to record TCP between the nodes into `file`; when this returns, every packet from then on is in it.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn start(cluster: &Cluster, file: &Path) -> Result<Self> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", cluster.wire_netns()))
            .arg("--");
        command
            .args([
                "tcpdump", "-i", "wire", "-n", "-U", "-s", "0", "-B", "16384", "-Z", "root", "-w",
            ])
            .arg(file)
            .arg("tcp");
        let mut tcpdump = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let mut said = String::new();
        let stderr = tcpdump.stderr.take().context("tcpdump has no output")?;
        let mut lines = BufReader::new(stderr);
        while !said.contains("listening on") {
            if lines.read_line(&mut said)? == 0 {
                bail!("tcpdump ended at once: {}", said.trim());
            }
        }
        // What it says at its end has to go somewhere.
        tcpdump.stderr = Some(lines.into_inner());
        Ok(Self {
            tcpdump,
            file: file.to_owned(),
        })
    }

    /// Ends the recording and returns its packets.
    ///
    /// # Errors
    /// When tcpdump does not end well or wrote something else than packets.
    pub fn stop(mut self) -> Result<Vec<Packet>> {
        interrupt(&self.tcpdump)?;
        let status = self.tcpdump.wait().context("tcpdump was lost")?;
        if !status.success() {
            bail!("tcpdump ended with {status}");
        }
        let bytes = fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        packet::parse(&bytes).with_context(|| format!("{} is broken", self.file.display()))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

fn interrupt(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("tcpdump has no pid")?;
    kill_process(pid, Signal::INT).context("cannot interrupt tcpdump")
}
