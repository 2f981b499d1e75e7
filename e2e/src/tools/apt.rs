//! Packages of a Debian-like distribution.

mod record;

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Progress;
use crate::shell;
use record::Record;

/// A program that is needed, the package that has it, and what it is needed for.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// What the distribution calls it.
    pub name: &'static str,
    /// A program looked up in PATH, or an absolute path.
    pub program: &'static str,
    /// Told to the person at the terminal when it is installed.
    pub why: &'static str,
}

/// What images are pushed with.
pub const BUILDAH: Package = Package {
    name: "buildah",
    program: "buildah",
    why: "reading images, and pushing them to a registry, without a daemon",
};

const PACKAGES: &[Package] = &[
    Package {
        name: "iproute2",
        program: "ip",
        why: "the networks of the nodes",
    },
    Package {
        name: "util-linux",
        program: "nsenter",
        why: "the namespaces of the nodes",
    },
    Package {
        name: "procps",
        program: "sysctl",
        why: "the kernel's settings in the namespaces of tests",
    },
    Package {
        name: "containerd",
        program: "containerd",
        why: "the container runtime of the nodes",
    },
    Package {
        name: "runc",
        program: "runc",
        why: "what containerd starts containers with",
    },
    Package {
        name: "containernetworking-plugins",
        program: "/usr/lib/cni/bridge",
        why: "the network of the pods",
    },
    Package {
        name: "nftables",
        program: "nft",
        why: "kube-proxy's rules, and to look at a pod's",
    },
    Package {
        name: "iptables",
        program: "iptables",
        why: "host ports of pods (the portmap plugin)",
    },
    Package {
        name: "conntrack",
        program: "conntrack",
        why: "kube-proxy's clean-up of old connections",
    },
    Package {
        name: "tcpdump",
        program: "tcpdump",
        why: "looking at the wire between the nodes",
    },
];

/// Installs what the cluster needs and is missing.
pub fn ensure_packages(progress: Progress) -> Result<()> {
    ensure(PACKAGES, progress)
}

/// What is missing of what the cluster needs, where no apt-get is there to install it.
pub(crate) fn missing_packages() -> Option<String> {
    let missing = missing(PACKAGES);
    (!missing.is_empty() && !present("apt-get")).then(|| by_hand(&missing))
}

fn missing(packages: &[Package]) -> Vec<&Package> {
    packages
        .iter()
        .filter(|package| !present(package.program))
        .collect()
}

fn by_hand(missing: &[&Package]) -> String {
    let list = |of: fn(&Package) -> &str| {
        missing
            .iter()
            .map(|package| of(package))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "these programs, and there is no apt-get to install them: {}. On Debian they are in the packages {}; install what corresponds to \
         them here",
        list(|package| package.program),
        list(|package| package.name)
    )
}

/// Installs the packages whose programs are missing, and notes for [`installed_here`] which of them were.
pub fn ensure(packages: &[Package], progress: Progress) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !present("apt-get") {
        bail!(by_hand(&missing));
    }
    for package in &missing {
        progress(&format!(
            "installing {} with apt-get: {}",
            package.name, package.why
        ));
    }
    shell::run(apt_get().args(["update", "-qq"])).context("cannot refresh the package lists")?;
    let install = ["install", "--yes", "-qq", "--no-install-recommends"];
    // A program may be out of PATH though its package is there.
    let before = on_system(&names)?;
    let result = shell::run(apt_get().args(install).args(&names));
    // Of several, some may be there even so.
    let here: BTreeSet<String> = on_system(&names)?.difference(&before).cloned().collect();
    Record::of_user()?.add(&here)?;
    result.context("cannot install the packages")?;
    let still: Vec<&str> = missing
        .iter()
        .filter(|package| !present(package.program))
        .map(|package| package.program)
        .collect();
    if !still.is_empty() {
        bail!(
            "installed {}, but {} is still not found in PATH",
            names.join(", "),
            still.join(", ")
        );
    }
    Ok(())
}

/// Names of the packages that [`ensure`] installed on this machine for this user, now or earlier: none that was there
/// before.
///
/// # Errors
/// When the note of them cannot be read.
pub fn installed_here() -> Result<BTreeSet<String>> {
    Record::of_user()?.names()
}

/// Those of the packages that are installed.
fn on_system(names: &[&str]) -> Result<BTreeSet<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]);
    // It fails where it does not know one of them, and tells of the others.
    let output = shell::output(query.args(names))?;
    Ok(installed(&String::from_utf8_lossy(&output.stdout)))
}

fn installed(listed: &str) -> BTreeSet<String> {
    let lines = listed.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(_, status)| *status == "installed")
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Whether `program` is in PATH, or in the system folders that a user's PATH may lack.
pub(crate) fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_is_by_path_or_by_name() {
        assert!(present("sh"));
        assert!(present("/proc/self/exe"));
        assert!(!present("no-such-program"));
        assert!(!present("/no/such/program"));
    }

    #[test]
    fn programs_of_tests_are_installed_first() {
        for program in ["ip", "nft", "nsenter", "sysctl"] {
            assert!(
                PACKAGES.iter().any(|package| package.program == program),
                "{program}"
            );
        }
    }

    #[test]
    fn only_installed_packages_count_as_present() {
        let listed = "runc installed\ncontainerd config-files\nnftables not-installed\niptables installed\n";
        assert_eq!(Vec::from_iter(installed(listed)), ["iptables", "runc"]);
        assert!(installed("").is_empty());
    }
}
