//! A look at the machine before anything begins: all that is missing in one message, each with how to go on.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{shell, tools};

/// How much of a file system a kubelet wants free: with less it evicts pods and deletes images, that of the pods'
/// sandboxes too.
pub(crate) const KUBELET_RESERVE_PERCENT: u64 = 1;

const GB: u64 = 1_000_000_000;

/// What Go downloads and compiles for Argo CD. Measured: 1.7 GB of modules with their archives, 0.9 GB compiled, 0.2 GB of
/// programs.
const ARGOCD: u64 = 3 * GB;

// Estimates, not measurements.

/// What programs and images of a cluster of two nodes take, with the logs of a run.
const NODES: u64 = 2 * GB;
/// What Go downloads and compiles for Kubernetes and Helm.
const GO: u64 = 5 * GB;
/// What Cargo compiles: first for images and developer commands, then for all tests. Once it is there, little is added.
const RUST: u64 = 4 * GB;
const RUST_TESTS: u64 = 10 * GB;
const RUST_AGAIN: u64 = GB;

/// What is going to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work<'a> {
    /// Whether a cluster is made.
    pub cluster: bool,
    /// Cargo's target folder, where Rust is compiled.
    pub target: Option<&'a Path>,
    /// Whether tests are compiled too, after format and clippy.
    pub tests: bool,
    /// Whether the tests run Argo CD.
    pub argocd: bool,
}

/// Looks for all that `work` takes.
///
/// # Errors
/// What is missing, all of it, and how to go on.
pub fn check(work: &Work) -> Result<()> {
    let go_needed = work.cluster && !tools::go_built()?;
    let argocd_needed = work.argocd && !tools::argocd_built()?;
    let places = places(work, &tools::cache_dir()?, go_needed, argocd_needed);
    let mut problems: Vec<Option<String>> = Vec::new();
    if work.cluster {
        problems.extend([root(is_root()), tools::missing_packages()]);
    }
    if go_needed || argocd_needed {
        problems.push(go());
    }
    if work.target.is_some() {
        problems.push(compiler(&env::var_os("CC").unwrap_or_else(|| "cc".into())));
    }
    if work.tests {
        problems.extend(["fmt", "clippy"].map(component));
    }
    let mut problems: Vec<String> = problems.into_iter().flatten().collect();
    problems.extend(disks(&places)?);
    told(&problems)
}

/// Where something is going to be written. `go` and `argocd`: whether these are built first.
fn places(work: &Work, cache: &Path, go: bool, argocd: bool) -> Vec<Place> {
    let in_cache = |bytes, what, kubelets| Place {
        path: cache.to_owned(),
        bytes,
        what,
        move_with: "XDG_CACHE_HOME",
        kubelets,
    };
    let compiled = work.target.map(|target| Place {
        path: target.to_owned(),
        bytes: rust(target, work.tests),
        what: "compiled Rust",
        move_with: "CARGO_TARGET_DIR",
        kubelets: false,
    });
    [
        work.cluster
            .then(|| in_cache(NODES, "nodes and their images", true)),
        go.then(|| in_cache(GO, "Kubernetes and Helm, built once", false)),
        argocd.then(|| in_cache(ARGOCD, "Argo CD, built once", false)),
        compiled,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn told(problems: &[String]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let mut text = String::from("this machine lacks what that takes:");
    for problem in problems {
        let _ = write!(text, "\n  - {problem}");
    }
    bail!(text)
}

/// Whether this process may make namespaces, mounts and cgroups.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn root(is_root: bool) -> Option<String> {
    (!is_root).then(|| {
        "root: a cluster is made of network namespaces, mounts and cgroups. Run it as root (`sudo -E env PATH=\"$PATH\" cargo xtask …`), \
         in a virtual machine if you prefer; on a cluster that exists, `cargo xtask demo --context NAME` needs no root"
            .to_owned()
    })
}

/// Asks Go itself about the module, which says what version it takes.
fn go() -> Option<String> {
    if !tools::present("go") {
        return Some(
            "Go: `go` is not in PATH, and the embedded Kubernetes is built with it. Install 1.26 or later from https://go.dev/dl and \
             put its `bin` into PATH"
                .to_owned(),
        );
    }
    let asked = tools::go().and_then(|mut go| {
        go.args(["list", "-m"])
            .current_dir(crate::workspace().join("e2e/conformance"));
        shell::run(&mut go)
    });
    let error = asked.err()?;
    Some(format!(
        "Go 1.26 or later, from https://go.dev/dl: the one in PATH does not take the module in e2e/conformance: {error:#}"
    ))
}

fn compiler(cc: &OsStr) -> Option<String> {
    let try_out = || -> Result<()> {
        let mut child = Command::new(cc)
            .args(["-x", "c", "-fsyntax-only", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start it")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(b"#include <stdlib.h>\n")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    let error = try_out().err()?;
    Some(format!(
        "a C compiler with the headers of libc, which the TLS library is compiled with: `{}`: {error:#}. On Debian: `apt-get install gcc \
         libc6-dev`",
        cc.to_string_lossy()
    ))
}

fn component(name: &str) -> Option<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let asked = shell::run(Command::new(cargo).args([name, "--version"]));
    let component = if name == "fmt" { "rustfmt" } else { name };
    asked.err().map(|_| {
        format!(
            "`cargo {name}`, which tests begin with: `rustup component add {component}`, or the package of your distribution"
        )
    })
}

fn rust(target: &Path, tests: bool) -> u64 {
    // The last that a run compiles: static binaries, which images are made of.
    if target.join("images").is_dir() {
        RUST_AGAIN
    } else if tests {
        RUST_TESTS
    } else {
        RUST
    }
}

/// Bytes that are going to be written to a folder.
#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    bytes: u64,
    what: &'static str,
    /// The variable that has the folder elsewhere.
    move_with: &'static str,
    /// Whether kubelets watch the disk.
    kubelets: bool,
}

/// A file system, and what of it is free.
#[derive(Debug, Clone, Copy)]
struct Space {
    free: u64,
    size: u64,
}

/// The problems of all file systems that the places lie on.
fn disks(places: &[Place]) -> Result<Vec<String>> {
    let mut by_disk: BTreeMap<u64, (Space, Vec<&Place>)> = BTreeMap::new();
    for place in places {
        // The folder itself may be made later.
        let mut there = place.path.as_path();
        while !there.exists() {
            there = there.parent().unwrap_or(Path::new("/"));
        }
        let device = there.metadata()?.dev();
        let found = rustix::fs::statvfs(there)
            .with_context(|| format!("cannot ask for the space of {}", there.display()))?;
        let space = Space {
            free: found.f_bavail * found.f_frsize,
            size: found.f_blocks * found.f_frsize,
        };
        by_disk.entry(device).or_insert((space, Vec::new())).1.push(place);
    }
    Ok(by_disk
        .values()
        .filter_map(|(space, places)| disk(*space, places))
        .collect())
}

/// The problem of one file system. Where nodes lie, kubelets want some of it free.
fn disk(space: Space, places: &[&Place]) -> Option<String> {
    let watched = places.iter().any(|place| place.kubelets);
    let reserve = if watched {
        space.size / 100 * KUBELET_RESERVE_PERCENT
    } else {
        0
    };
    let needed = reserve + places.iter().map(|place| place.bytes).sum::<u64>();
    if space.free >= needed {
        return None;
    }
    let mut parts: Vec<String> = places
        .iter()
        .map(|place| {
            format!(
                "{} for {} ({})",
                gb(place.bytes),
                place.what,
                place.path.display()
            )
        })
        .collect();
    if reserve > 0 {
        parts.push(format!(
            "{} that stay free: below that kubelets delete images and evict pods, and nothing starts any more",
            gb(reserve)
        ));
    }
    let mut ways: Vec<&str> = places.iter().map(|place| place.move_with).collect();
    ways.dedup();
    Some(format!(
        "space on disk: {} are free and {} are needed: {}. Free the difference, or have it on another disk with {}",
        gb(space.free),
        gb(needed),
        parts.join(", "),
        ways.join(" and ")
    ))
}

fn gb(bytes: u64) -> String {
    format!("{}.{} GB", bytes / GB, bytes % GB / (GB / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, bytes: u64) -> Place {
        Place {
            path: path.into(),
            bytes,
            what: "things",
            move_with: "SOME_DIR",
            kubelets: false,
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        told(&[]).unwrap();
        let error = told(&["one".into(), "two".into()]).unwrap_err().to_string();
        assert!(error.contains("\n  - one\n  - two"), "{error}");
    }

    #[test]
    fn who_is_not_root_learns_how_to_go_on() {
        assert_eq!(root(true), None);
        assert!(root(false).is_some_and(|text| text.contains("sudo") && text.contains("--context")));
    }

    #[test]
    fn a_compiler_is_tried_out() {
        let text = compiler(OsStr::new("no-such-compiler")).unwrap();
        assert!(
            text.contains("no-such-compiler") && text.contains("apt-get install gcc"),
            "{text}"
        );
        // It is there and succeeds at nothing.
        assert!(compiler(OsStr::new("false")).is_some());
    }

    #[test]
    fn what_is_built_is_counted_once() {
        let work = Work {
            cluster: true,
            argocd: true,
            ..Work::default()
        };
        let bytes = |go, argocd| -> Vec<u64> {
            let places = places(&work, Path::new("/c"), go, argocd);
            places.iter().map(|place| place.bytes).collect()
        };
        assert_eq!(bytes(true, true), [NODES, GO, ARGOCD]);
        assert_eq!(bytes(false, true), [NODES, ARGOCD]);
        assert_eq!(bytes(false, false), [NODES]);
    }

    #[test]
    fn a_disk_has_to_take_everything_that_lies_on_it() {
        let space = Space {
            free: 10 * GB,
            size: 100 * GB,
        };
        let (small, large) = (place("/t", 3 * GB), place("/t", 8 * GB));
        let nodes = Place {
            kubelets: true,
            ..place("/c", 2 * GB)
        };
        assert_eq!(disk(space, &[&nodes, &small]), None);
        let text = disk(space, &[&nodes, &large]).unwrap();
        assert!(text.contains("10.0 GB are free and 11.0 GB are needed"), "{text}");
        assert!(
            text.contains("/t") && text.contains("kubelets") && text.contains("SOME_DIR"),
            "{text}"
        );
        // Kubelets' reserve is only for the disk of the nodes.
        assert_eq!(disk(space, &[&large]), None);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_found() {
        assert!(
            disks(&[place("/proc/self/no/such/folder", 0)])
                .unwrap()
                .is_empty()
        );
        let there = env::temp_dir().join("not/yet");
        let huge = Place {
            path: there,
            ..place("", u64::MAX / 2)
        };
        assert_eq!(disks(&[huge]).unwrap().len(), 1);
    }
}
