//! The test of the Tiltfile: `tilt ci`, a button, and edits that reach running pods, on a cluster of its own.
//!
//! It runs in a copy of the work tree, since it edits source files.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ambit_e2e::{eventually, mesh};
use anyhow::{Context, Result, bail, ensure};

use super::Tilt;
use super::edit::EDITS;
use crate::progress::{Progress, seconds};
use crate::workspace;

/// The cluster of this test.
pub(crate) const CLUSTER: &str = "ambit-edit";

/// From nothing compiled, on a busy machine.
const DEPLOY_LIMIT: Duration = Duration::from_secs(40 * 60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Runs the test. The cluster stays: the caller removes it.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    let dir = workspace::target().join("tmp/tilt");
    let tree = copy(&dir)?;
    let tilt = Tilt::prepare(CLUSTER, None, false, progress)?;
    let session = Session { tilt, dir, tree };
    progress.step("tilt ci", || session.ci())?;
    let (port, running) = session.up()?;
    progress.step("tilt up", || {
        session.wait(port, &["control", "operator", "agent", "ztunnel", "web"])
    })?;
    progress.step("tilt trigger enrol", || session.enrol(port))?;
    for edit in &EDITS {
        let title = format!("an edit of the {}", edit.program);
        let edited = progress.step(&title, || {
            let edited = edit.make(&session.tree, &session.tilt.cluster);
            edited.with_context(|| end_of(&running.log))
        });
        progress.note(&format!(
            "the edited {} runs in every pod {} after the edit",
            edit.program,
            seconds(edited?)
        ));
    }
    running.stop()?;
    progress.step("tilt down", || session.down())
}

/// The work tree as it is, with what is not committed yet.
fn copy(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    let mut list = Command::new("git");
    list.current_dir(workspace::root());
    let files =
        workspace::output(list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let files = files
        .split_terminator('\0')
        .filter(|file| workspace::root().join(file).is_file());
    let mut copy = Command::new("cp");
    copy.current_dir(workspace::root());
    // With their times: cargo compiles only what is newer than before.
    copy.args(["--parents", "--preserve=timestamps", "--target-directory"])
        .arg(&tree);
    workspace::output(copy.args(files))?;
    EDITS.iter().try_for_each(|edit| edit.touch(&tree))?;
    Ok(tree)
}

struct Session {
    tilt: Tilt,
    dir: PathBuf,
    tree: PathBuf,
}

impl Session {
    /// Tilt in the copy; what it prints goes to a file.
    fn command(&self, words: &[&str], log: &str) -> Result<(Command, PathBuf)> {
        let log = self.dir.join(log);
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = self.tilt.command(words)?;
        command
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", workspace::target());
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok((command, log))
    }

    fn ci(&self) -> Result<()> {
        let (mut command, log) = self.command(&["ci", "--port", "0"], "ci.log")?;
        let status = command.status().context("cannot start Tilt")?;
        ensure!(
            status.success(),
            "`tilt ci` ended with {status}: {}",
            end_of(&log)
        );
        Ok(())
    }

    /// `tilt up` in the background, and its port.
    fn up(&self) -> Result<(u16, Running)> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (mut command, log) = self.command(&["up", "--stream", "--port", &port.to_string()], "up.log")?;
        let child = command.spawn().context("cannot start Tilt")?;
        Ok((port, Running { child, log }))
    }

    /// Waits until resources of Tilt's are ready.
    fn wait(&self, port: u16, resources: &[&str]) -> Result<()> {
        let port = port.to_string();
        let named: Vec<String> = resources
            .iter()
            .map(|name| format!("uiresource/{name}"))
            .collect();
        let mut words = vec!["wait", "--port", &port, "--for=condition=Ready", "--timeout=20s"];
        words.extend(named.iter().map(String::as_str));
        eventually("Tilt's resources to be ready", DEPLOY_LIMIT, || {
            workspace::output(&mut self.tilt.command(&words)?).map(drop)
        })
        .with_context(|| end_of(&self.dir.join("up.log")))
    }

    /// Presses the button that enrols the sample.
    fn enrol(&self, port: u16) -> Result<()> {
        let words = ["trigger", "enrol", "--port", &port.to_string()];
        workspace::output(&mut self.tilt.command(&words)?)?;
        eventually(
            "the sample to be in the mesh, behind a waypoint",
            DEPLOY_LIMIT,
            || {
                let policy = self
                    .tilt
                    .cluster
                    .get(&["waypointpolicy", "orders", "--namespace=shop"])?;
                let targets = &policy["status"]["targets"];
                ensure!(targets == "1/1", "the policy is enforced for {targets}");
                Ok(())
            },
        )
        .with_context(|| end_of(&self.dir.join("up.log")))
    }

    /// `tilt down` removes Ambit and the sample.
    fn down(&self) -> Result<()> {
        let (mut command, log) = self.command(&["down"], "down.log")?;
        let status = command.status().context("cannot start Tilt")?;
        ensure!(
            status.success(),
            "`tilt down` ended with {status}: {}",
            end_of(&log)
        );
        let cluster = &self.tilt.cluster;
        let left = cluster.list(&["deployments,daemonsets", "--namespace", mesh::NAMESPACE])?;
        ensure!(left.is_empty(), "`tilt down` left {left:?}");
        let left = cluster.run_kubectl(&["get", "namespace", "shop", "--ignore-not-found"])?;
        ensure!(left.is_empty(), "`tilt down` left the sample: {left}");
        Ok(())
    }
}

/// `tilt up`, ended in any case.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Ends it as a person would, and waits for its end.
    fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("`tilt up` ended with {status}: {}", end_of(&self.log));
        }
        workspace::output(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                start.elapsed() < STOP_LIMIT,
                "`tilt up` does not end: {}",
                end_of(&self.log)
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        if matches!(self.child.try_wait(), Ok(None)) {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}

/// The end of a log, and where all of it is.
fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!(
        "{}:\n{}",
        log.display(),
        lines[lines.len().saturating_sub(30)..].join("\n")
    )
}
