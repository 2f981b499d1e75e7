//! What goes over the wire between the nodes: recorded with tcpdump, read back packet by packet.

mod packet;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;
use crate::mesh::PORT_HBONE;

pub use packet::{Packet, contains};

/// A recording that is in progress. Ended by [`Recording::stop`], or thrown away.
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
            .arg(format!("--net=/run/netns/{}", cluster.wire_netns()?))
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

/// The packets that carry `text` in clear.
pub fn in_clear<'a>(packets: &'a [Packet], text: &'a str) -> impl Iterator<Item = &'a Packet> {
    packets.iter().filter(move |packet| packet.carries(text))
}

/// Those packets to or from pods at `addresses` that carry something; all of them have to be HBONE: to or from its
/// port, and TLS from the first byte of every connection whose beginning was recorded.
///
/// # Errors
/// When one is not, or when there is none.
pub fn only_hbone<'a>(packets: &'a [Packet], addresses: &[Ipv4Addr]) -> Result<Vec<&'a Packet>> {
    let ours = || {
        packets
            .iter()
            .filter(|packet| addresses.iter().any(|address| packet.concerns(*address)))
    };
    if let Some(packet) = ours().find(|packet| !packet.has_port(PORT_HBONE)) {
        bail!("this went past HBONE: {packet}");
    }
    for opening in ours().filter(|packet| packet.opens) {
        let from =
            |packet: &&Packet| packet.source == opening.source && packet.destination == opening.destination;
        let first = ours().filter(from).find(|packet| !packet.payload.is_empty());
        if let Some(packet) = first.filter(|packet| !packet.begins_tls_record()) {
            bail!("this connection does not begin with TLS: {packet}");
        }
    }
    let loaded: Vec<&Packet> = ours().filter(|packet| !packet.payload.is_empty()).collect();
    ensure!(
        loaded.iter().any(|packet| packet.begins_tls_record()),
        "no TLS among {} packets",
        loaded.len()
    );
    Ok(loaded)
}
