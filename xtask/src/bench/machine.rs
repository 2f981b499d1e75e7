//! On what, when and of which sources a benchmark was run.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::Result;

use crate::workspace;

/// One line that says it.
pub(super) fn line() -> Result<String> {
    let cores = thread::available_parallelism()?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = value(&cpuinfo, "model name").unwrap_or("unknown processor");
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kibibytes: u64 = value(&meminfo, "MemTotal")
        .and_then(|value| value.trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let date = workspace::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    Ok(format!(
        "{cores} cores ({model}), {} GiB, Linux {}; {}; {}",
        kibibytes >> 20,
        version(&kernel),
        date.trim(),
        commit()?
    ))
}

/// The version in a kernel's release: what follows says who built it, and for which machine.
fn version(release: &str) -> &str {
    let release = release.trim();
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.');
    release[..end.unwrap_or(release.len())].trim_end_matches('.')
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        workspace::output(command.args(arguments).current_dir(workspace::root()))
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?
        .trim()
        .is_empty();
    let changed = if changed { " with uncommitted changes" } else { "" };
    Ok(format!("commit {}{changed}", commit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_version_is_shortened() {
        assert_eq!(version("6.1.0-18-amd64\n"), "6.1.0");
        assert_eq!(version("6.12.3+deb13-cloud"), "6.12.3");
        assert_eq!(version("5.10.16.3-microsoft-standard"), "5.10.16.3");
        assert_eq!(version("6.9"), "6.9");
    }
}
