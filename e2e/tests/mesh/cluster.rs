//! The cluster itself: its making may be killed, and nothing of it stays.

use std::process::{Child, Command, Stdio};
use std::{env, fs};

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::eventually;
use anyhow::{Context, Result, ensure};

use ambit_e2e::lab::{LIMIT, Lab};

/// A second cluster, beside the one of the other tests. `cargo xtask test` and `.ci/run` take it down as well.
const NAME: &str = "ambit-cut";

/// The process that makes it. However the test ends, this goes, and the cluster too.
struct Making(Child);

impl Making {
    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let gone = self.kill().and_then(|()| Cluster::down(NAME));
        if let Err(error) = gone {
            eprintln!("what is left of cluster {NAME} could not be removed: {error:#}");
        }
    }
}

#[test]
#[ignore = "the test below runs it in a process of its own, and kills that"]
fn up_until_killed() -> Result<()> {
    let spec = Spec {
        name: NAME.to_owned(),
        nodes: 1,
    };
    Cluster::up(&spec, &|_| ()).map(drop)
}

/// What the machine lists that has the name.
fn traces() -> Result<Vec<String>> {
    let spaces = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .context("cannot run ip")?;
    let mut found: Vec<String> = String::from_utf8(spaces.stdout)?
        .lines()
        .map(str::to_owned)
        .collect();
    found.extend(fs::read_to_string("/proc/mounts")?.lines().map(str::to_owned));
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"] {
        let Ok(folders) = fs::read_dir(root) else { continue };
        for folder in folders {
            found.push(folder?.path().display().to_string());
        }
    }
    for process in fs::read_dir("/proc")? {
        // Processes come and go while this looks.
        if let Ok(line) = fs::read(process?.path().join("cmdline")) {
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found.retain(|line| line.contains(NAME));
    Ok(found)
}

#[test]
fn killed_cluster_up_leaves_nothing_after_down() -> Result<()> {
    let lab = Lab::enter()?;
    Cluster::down(NAME)?;
    let making = Command::new(env::current_exe()?)
        .args(["--exact", "cluster::up_until_killed", "--ignored"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut making = Making(making);
    eventually("the cluster to be half made", LIMIT, || {
        let status = Cluster::status(NAME)?;
        ensure!(status.counts.0 > 2, "{} processes", status.counts.0);
        ensure!(
            !status.complete,
            "it was made to its end before it could be killed"
        );
        Ok(())
    })?;
    making.kill()?;
    ensure!(
        !traces()?.is_empty(),
        "nothing of the cluster can be seen: the look is wrong"
    );
    Cluster::down(NAME)?;
    eventually("nothing of it to be left", LIMIT, || {
        let left = traces()?;
        ensure!(left.is_empty(), "{left:#?}");
        ensure!(!Cluster::status(NAME)?.exists, "it says that it exists");
        Ok(())
    })?;
    eventually("the cluster beside it to be well", LIMIT, || {
        let status = Cluster::status(lab.cluster.name())?;
        ensure!(status.healthy(), "it suffered: {status}");
        Ok(())
    })
}
