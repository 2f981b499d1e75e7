//! The cgroups of a cluster's pods, in whichever hierarchies the machine has.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Makes the cgroup `name` in every hierarchy, able to hand every controller on to those below it.
pub(super) fn create(name: &str) -> Result<()> {
    for root in hierarchies(&mounts()?) {
        let dir = root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create the cgroup {}", dir.display()))?;
        // In version 2, and only there, a controller is handed on level by level.
        let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) else {
            continue;
        };
        let enable: Vec<String> = controllers
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        if enable.is_empty() {
            continue;
        }
        let levels = dir
            .ancestors()
            .skip(1)
            .take_while(|level| level.starts_with(&root));
        for level in levels.collect::<Vec<_>>().into_iter().rev() {
            let file = level.join("cgroup.subtree_control");
            fs::write(&file, enable.join(" ")).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

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
    let roots = hierarchies(&mounts()?).into_iter().map(|root| root.join(name));
    Ok(roots.filter(|root| root.is_dir()).collect())
}

/// The processes of the cgroup called `leaf`, somewhere below the cgroup `name`.
pub(super) fn processes(name: &str, leaf: &str) -> Result<Vec<u32>> {
    for root in present(name)? {
        let Some(dir) = find(&root, leaf) else { continue };
        let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
        if !pids.is_empty() {
            return Ok(pids);
        }
    }
    Ok(Vec::new())
}

fn find(dir: &Path, leaf: &str) -> Option<PathBuf> {
    let below = fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    let below: Vec<PathBuf> = below.collect();
    let found = below
        .iter()
        .find(|path| path.file_name().is_some_and(|name| name == leaf))
        .cloned();
    found.or_else(|| below.iter().find_map(|path| find(path, leaf)))
}

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")
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
