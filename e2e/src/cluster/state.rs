//! A cluster's folder: how one is begun, found and removed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::layout::{Layout, SLOTS, Spec};
use super::{cgroup, network, process};
use crate::tools;

/// Refuses whoever is not root, which namespaces, mounts and cgroups take.
pub(super) fn require_root() -> Result<()> {
    if !crate::preflight::is_root() {
        bail!("root is needed: a cluster consists of network namespaces, mounts and cgroups");
    }
    Ok(())
}

/// Held by whoever makes or removes a cluster.
pub(super) fn lock(name: &str) -> Result<File> {
    tools::lock(&folder()?.join(format!("{name}.lock")))
}

/// The facts of a cluster that was begun.
pub(super) fn load(name: &str) -> Result<Option<Layout>> {
    read(&folder()?.join(name))
}

/// The names of all clusters that were begun and not removed, in order.
pub(super) fn names() -> Result<Vec<String>> {
    let folder = folder()?;
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if Layout::file(&entry.path()).exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Begins a cluster: gives it a slot and writes its facts down, before anything of it exists.
pub(super) fn create(spec: &Spec, programs: &Path) -> Result<Layout> {
    let folder = folder()?;
    let _lock = tools::lock(&folder.join(".slots.lock"))?;
    let taken = taken(&folder)?;
    let mut slot = 0;
    while slot < SLOTS && (taken.contains(&slot) || network::slot_in_use(slot)?) {
        slot += 1;
    }
    if slot == SLOTS {
        bail!(
            "no network is free for a cluster: each of {SLOTS} belongs to another cluster, or overlaps a route of this machine"
        );
    }
    let dir = folder.join(&spec.name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let layout = Layout {
        name: spec.name.clone(),
        slot,
        nodes: spec.nodes,
        dir: dir.clone(),
        programs: programs.into(),
    };
    let (part, file) = (dir.join("cluster.part"), Layout::file(&dir));
    fs::write(&part, serde_json::to_vec_pretty(&layout)?)
        .with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(layout)
}

/// Notes that a cluster was made to its end.
pub(super) fn complete(layout: &Layout) -> Result<()> {
    let file = layout.complete();
    File::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
    Ok(())
}

/// Removes all there is of a cluster; each step passes over what is gone already.
pub(super) fn remove(name: &str) -> Result<()> {
    let dir = folder()?.join(name);
    process::kill(&dir, |_| true)?;
    if let Some(layout) = read(&dir)? {
        for index in 1..=layout.nodes {
            network::remove_node(&layout, index)?;
        }
        network::remove_wire(&layout)?;
        cgroup::remove(&layout.cgroup())?;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    if let Some(mount) = mounted_below(&mounts, &dir) {
        bail!("{mount} is still mounted: unmount it, since its content would be deleted");
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn folder() -> Result<PathBuf> {
    Ok(tools::cache_dir()?.join("clusters"))
}

fn read(dir: &Path) -> Result<Option<Layout>> {
    let file = Layout::file(dir);
    match fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        content => {
            let content = content.with_context(|| format!("cannot read {}", file.display()))?;
            let layout = serde_json::from_slice(&content);
            layout
                .map(Some)
                .with_context(|| format!("{} is damaged", file.display()))
        }
    }
}

fn taken(folder: &Path) -> Result<Vec<u8>> {
    let mut slots = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        slots.extend(read(&entry?.path()).ok().flatten().map(|layout| layout.slot));
    }
    Ok(slots)
}

fn mounted_below<'a>(mountinfo: &'a str, dir: &Path) -> Option<&'a str> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().find(|point| Path::new(point).starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_the_folder_is_found() {
        let info = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:1 / /c/x/disk rw - tmpfs t rw\n";
        assert_eq!(mounted_below(info, Path::new("/c/x")), Some("/c/x/disk"));
        assert_eq!(mounted_below(info, Path::new("/c/xy")), None);
    }
}
