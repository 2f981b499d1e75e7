//! Programs that run while something is measured, and end with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ambit_bench::l7::{ANSWERED, Verdict, WAITING};
use anyhow::{Context, Result, bail, ensure};

use crate::bench::process::{Memory, Process, Usage};
use crate::workspace;

/// A program that is asked to end has so long.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);
/// Lines of a log that an error quotes.
const QUOTED: usize = 12;

/// A running program, ended when dropped.
pub(super) struct Service {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts one of `ambit-bench-l7`'s servers and waits until it listens.
    pub(super) fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let (service, mut lines) = Self::spawn(name, command, dir, true)?;
        let lines = lines.as_mut().context("its output is piped")?;
        ensure!(
            line(lines)? == WAITING,
            "{name} did not begin to listen; {}",
            service.said()
        );
        Ok(service)
    }

    fn spawn(
        name: &str,
        command: &mut Command,
        dir: &Path,
        piped: bool,
    ) -> Result<(Self, Option<BufReader<ChildStdout>>)> {
        let log = dir.join(format!("{}.log", name.replace([',', ' '], "-")));
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let errors = file.try_clone()?;
        let output = if piped { Stdio::piped() } else { file.into() };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let lines = child.stdout.take().map(BufReader::new);
        let service = Self {
            name: name.to_owned(),
            child,
            log,
        };
        Ok((service, lines))
    }

    /// The end of what it logged.
    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let quoted = lines[lines.len().saturating_sub(QUOTED)..].join("\n");
        let (name, log) = (&self.name, self.log.display());
        format!("{name} ({log}) said last: {quoted}")
    }

    /// Asks it to end, and ends it if it does not.
    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        workspace::output(Command::new("kill").arg(self.child.id().to_string()))?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_LIMIT {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end within {} s", self.name, STOP_LIMIT.as_secs());
            }
            thread::sleep(STEP);
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// A proxy that answers.
pub(super) struct Proxy {
    service: Service,
    /// Ended after the proxy.
    _control: Option<Service>,
    /// From its start until the first request got a response.
    pub(super) start: Duration,
    /// What it lets through.
    pub(super) verdict: Verdict,
}

impl Proxy {
    /// Starts it, while `probe` tries to get a response.
    pub(super) fn start(
        name: &str,
        command: &mut Command,
        mut probe: Command,
        control: Option<Service>,
        dir: &Path,
    ) -> Result<Self> {
        let (mut probing, lines) = Service::spawn("probe", &mut probe, dir, true)?;
        let mut lines = lines.context("its output is piped")?;
        ensure!(
            line(&mut lines)? == WAITING,
            "the probe did not begin; {}",
            probing.said()
        );
        let begun = Instant::now();
        let (mut service, _) = Service::spawn(name, command, dir, false)?;
        let answered = line(&mut lines)?;
        let start = begun.elapsed();
        if answered != ANSWERED {
            let ended = service.child.try_wait()?;
            let ended = ended.map_or("still runs".to_owned(), |status| format!("ended with {status}"));
            bail!(
                "{name} {ended} and answered no request; {}; {}",
                service.said(),
                probing.said()
            );
        }
        let printed = line(&mut lines)?;
        probing.child.wait()?;
        let verdict = serde_json::from_str(&printed)
            .with_context(|| format!("the probe printed {printed:?}; {}", probing.said()))?;
        Ok(Self {
            service,
            _control: control,
            start,
            verdict,
        })
    }

    /// What its processes used since they started.
    pub(super) fn usage(&self) -> Result<Usage> {
        let mut family = self.family()?.into_iter().map(Process::usage);
        family.try_fold(Usage::default(), |sum, usage| Ok(sum + usage?))
    }

    /// Memory of its processes together.
    pub(super) fn memory(&self) -> Result<Memory> {
        let mut sum = Memory { now: 0.0, peak: 0.0 };
        for process in self.family()? {
            let memory = process.memory()?;
            sum.now += memory.now;
            sum.peak += memory.peak;
        }
        Ok(sum)
    }

    /// The end of what it logged.
    pub(super) fn said(&self) -> String {
        self.service.said()
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<()> {
        self.service.end()
    }

    /// The words before the program in its command are gone: each became the next.
    fn family(&self) -> Result<Vec<Process>> {
        Process::new(self.service.child.id()).family()
    }
}

/// A line of a program's output; empty when it has ended.
fn line(lines: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ambit-xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn proxy_is_timed_until_its_first_response() {
        let dir = dir("proxy");
        // The probe sees the proxy's file.
        let flag = dir.join("flag").display().to_string();
        let verdict = r#"{"get":200,"delete":403,"peer":"p"}"#;
        let probe = format!(
            "echo {WAITING}; until [ -e {flag} ]; do sleep 0.01; done; echo {ANSWERED}; echo '{verdict}'"
        );
        let mut proxy = shell(&format!("touch {flag}; exec sleep 60"));
        let proxy = Proxy::start("proxy", &mut proxy, shell(&probe), None, &dir).unwrap();
        assert!(proxy.start > Duration::ZERO && proxy.verdict.delete == 403);
        assert!(proxy.memory().unwrap().now > 0.0 && proxy.usage().unwrap().seconds() >= 0.0);
        proxy.stop().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_proxy_that_ends_at_once_is_quoted() {
        let dir = dir("failing");
        let mut proxy = shell("echo no such cluster >&2; exit 3");
        let probe = shell(&format!("echo {WAITING}; sleep 0.2; exit 1"));
        let error = Proxy::start("proxy", &mut proxy, probe, None, &dir)
            .map(drop)
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("no such cluster") && error.contains("exit status: 3"),
            "{error}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
