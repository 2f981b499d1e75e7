//! The memory limit of this process.

use std::path::{Path, PathBuf};

/// The mount point of control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Without a limit, version 1 shows a larger value, which depends on the page size.
const NO_LIMIT: usize = 1 << 60;

/// The memory limit of this container in bytes, if there is one.
pub fn memory_limit() -> Option<usize> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_in(Path::new(CGROUPS), &own)
}

/// The lowest limit under `root`. A container sees either its own group as the root of the tree, or the whole tree, in
/// which `own` names its group.
fn limit_in(root: &Path, own: &str) -> Option<usize> {
    let mut files = vec![root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            files.push(root.join(path).join("memory.max"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(root.join("memory").join(path).join("memory.limit_in_bytes"));
        }
    }
    let read = |file: PathBuf| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    files
        .into_iter()
        .filter_map(read)
        .filter(|limit| *limit < NO_LIMIT)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found_in_both_versions_and_none_where_there_is_none() {
        let root = std::env::temp_dir().join(format!("ambit-cgroup-{}", std::process::id()));
        let (second, first) = (root.join("kubepods/pod1"), root.join("memory/kubepods/pod1"));
        for folder in [&second, &first] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let own = "5:cpu,memory:/kubepods/pod1\n0::/kubepods/pod1\n";
        assert_eq!(limit_in(&root, own), None);
        std::fs::write(second.join("memory.max"), "max\n").unwrap();
        std::fs::write(first.join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(limit_in(&root, own), None);
        std::fs::write(first.join("memory.limit_in_bytes"), "536870912\n").unwrap();
        assert_eq!(limit_in(&root, own), Some(512 << 20));
        std::fs::write(second.join("memory.max"), "268435456\n").unwrap();
        assert_eq!(limit_in(&root, own), Some(256 << 20));
        assert_eq!(limit_in(&root, ""), None);
        std::fs::write(root.join("memory.max"), "134217728\n").unwrap();
        assert_eq!(limit_in(&root, ""), Some(128 << 20));
        std::fs::remove_dir_all(root).unwrap();
    }
}
