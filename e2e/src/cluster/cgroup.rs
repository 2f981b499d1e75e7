//! The cgroups of a cluster's pods, in whichever hierarchies the machine has.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait;

const LIMIT: Duration = Duration::from_secs(10);

/// Removes the cgroup `name` with all below it from every hierarchy; their processes must have ended.
pub(super) fn remove(name: &str) -> Result<()> {
    for root in present(name)? {
        let what = format!("the cgroup {} to be empty", root.display());
        wait::until(&what, LIMIT, String::new, || remove_tree(&root))?;
    }
    Ok(())
}

/// The folders of the cgroup `name`, one for each hierarchy that has it.
pub(super) fn present(name: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let roots = hierarchies(&mounts).into_iter().map(|root| root.join(name));
    Ok(roots.filter(|root| root.is_dir()).collect())
}

/// The processes of the cgroup `name`.
pub(super) fn processes(name: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for root in present(name)? {
        let list = fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default();
        pids.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let fields = mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| matches!(fields.get(2), Some(&"cgroup" | &"cgroup2")))
        .map(|fields| fields[1].into())
        .collect()
}

fn remove_tree(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("cannot remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_seen() {
        let mounts = "cgroup /sys/fs/cgroup/pids cgroup rw 0 0\nx /sys/fs/cgroup cgroup2 rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(
            hierarchies(mounts),
            ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(PathBuf::from)
        );
        assert!(hierarchies("").is_empty());
    }
}
