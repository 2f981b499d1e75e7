//! A port of a pod, reached through the API server: for clusters whose nodes are not on this machine.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;

const LIMIT: Duration = Duration::from_secs(10);

/// `kubectl port-forward` while it runs. It ends when dropped.
pub(crate) struct Forward {
    kubectl: Child,
    // Open as long as kubectl runs: it says something of each connection, and ends where nobody listens.
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Forward {
    /// Forwards a port of this machine to one on the loopback of the pod.
    pub(crate) fn start(cluster: &Cluster, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        let mut kubectl = cluster
            .kubectl()
            .args(["port-forward", "--namespace", namespace, "--address=127.0.0.1"])
            .args([&format!("pod/{pod}"), &format!(":{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start kubectl")?;
        let stdout = kubectl.stdout.take().context("kubectl has no output")?;
        let mut forward = Self {
            kubectl,
            output: BufReader::new(stdout),
            port: 0,
        };
        let mut line = String::new();
        forward.output.read_line(&mut line)?;
        match local_port(&line) {
            Some(port) => forward.port = port,
            None => bail!("kubectl does not forward port {port} of {pod}: `{}`", line.trim()),
        }
        Ok(forward)
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Result<TcpStream> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = TcpStream::connect_timeout(&target, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// `Forwarding from 127.0.0.1:40213 -> 8081`.
fn local_port(line: &str) -> Option<u16> {
    let (from, _) = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?;
    from.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::local_port;

    #[test]
    fn the_local_port_is_read() {
        assert_eq!(
            local_port("Forwarding from 127.0.0.1:40213 -> 8081\n"),
            Some(40213)
        );
        assert_eq!(local_port("error: pod not found"), None);
    }
}
