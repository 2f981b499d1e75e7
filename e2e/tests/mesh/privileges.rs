//! The proxy has none.

use std::fs;

use ambit_e2e::mesh;
use anyhow::{Context, Result, ensure};

use crate::lab::Lab;

#[test]
fn a_ztunnel_runs_without_any_privilege() -> Result<()> {
    let lab = Lab::enter()?;
    for ztunnel in mesh::ztunnels(&lab.cluster)? {
        let pid = ztunnel
            .node(&lab.cluster)?
            .container_pid(&ztunnel.uid, "ztunnel")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<Vec<&str>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line
                .with_context(|| format!("no {name} in {status}"))?
                .split_whitespace()
                .collect())
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            ensure!(field(set)? == ["0000000000000000"], "{set} {:?}", field(set)?);
        }
        ensure!(field("Uid:")? == ["65532"; 4], "Uid {:?}", field("Uid:")?);
        ensure!(field("NoNewPrivs:")? == ["1"], "it may gain privileges");
        ensure!(field("Seccomp:")? == ["2"], "no seccomp filter");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some("/"))
            .context("no root")?;
        let options = root.split(' ').nth(3).unwrap_or_default();
        ensure!(
            options.split(',').any(|option| option == "ro"),
            "its root can be written: {root}"
        );
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        ensure!(
            namespace(&pid.to_string())? != namespace("self")?,
            "it is on the host's network"
        );
    }
    Ok(())
}
