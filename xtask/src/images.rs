//! `cargo xtask images`: static binaries, and an image of each.

mod builder;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::cluster::Cluster;
use ambit_e2e::{mesh, tools};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::release::Target;
use crate::workspace::{self, cargo};

pub(crate) use builder::{Builder, Recipe};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also load them into the cluster of this name; pods with older images there restart.
    #[arg(long, value_name = "CLUSTER")]
    load: Option<String>,
    /// Optimize the programs as those of a release are: that takes longer.
    #[arg(long)]
    release: bool,
}

/// How programs are compiled: a profile of Cargo.toml.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Optimized, and soon built: for tests and the demonstration.
    Everyday,
    /// As published, and as measured.
    Dist,
}

impl Profile {
    /// Cargo's name of it, and that of the folder with the programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Everyday => "release",
            Self::Dist => "dist",
        }
    }
}

/// An image: the Dockerfile's target and the binary in it.
pub(crate) struct Image {
    pub(crate) target: &'static str,
    pub(crate) package: &'static str,
    pub(crate) binary: &'static str,
}

/// All of them.
pub(crate) const IMAGES: &[Image] = &[
    Image {
        target: "operator",
        package: "ambit-operator",
        binary: "ambit-operator",
    },
    Image {
        target: "agent",
        package: "ambit-agent",
        binary: "ambit-agent",
    },
    Image {
        target: "ztunnel",
        package: "ambit-ztunnel",
        binary: "ambit-ztunnel",
    },
    Image {
        target: "waypoint",
        package: "ambit-waypoint",
        binary: "ambit-waypoint",
    },
    Image {
        target: "sample",
        package: "ambit-sample",
        binary: "ambit-sample",
    },
    Image {
        target: "bench",
        package: "ambit-bench",
        binary: "ambit-bench",
    },
];

/// Where they are from, as the chart has it by default.
pub(crate) const REGISTRY: &str = "localhost/ambit";

const TAG: &str = "dev";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let profile = if arguments.release {
        Profile::Dist
    } else {
        Profile::Everyday
    };
    let archives = build(profile, progress)?;
    if let Some(name) = &arguments.load {
        let cluster = Cluster::attach(name)?;
        load(&cluster, &archives, progress)?;
        renew(&cluster, &archives, progress)?;
    }
    for archive in archives {
        println!("{}", archive.display());
    }
    Ok(())
}

/// Makes every image and returns their docker archives.
pub(crate) fn build(profile: Profile, progress: &Progress) -> Result<Vec<PathBuf>> {
    let binaries = progress.step("build static binaries", || binaries(profile, &[], progress))?;
    progress.step("build images", || {
        let dir = workspace::target().join("images");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        IMAGES
            .iter()
            .map(|image| image.archive(&binaries, &dir, progress))
            .collect()
    })
}

/// Loads images into every node of a cluster. Their names are always the same, so existing pods keep running the old
/// ones: see [`renew`].
pub(crate) fn load(cluster: &Cluster, archives: &[PathBuf], progress: &Progress) -> Result<()> {
    let running = Running::on(cluster);
    if !running.are(&digests(archives)?) {
        running.forget()?;
    }
    progress.step("load images into the nodes", || {
        archives
            .iter()
            .try_for_each(|archive| cluster.load_image(archive))
    })
}

/// Restarts the pods that may run other images than these, which were loaded.
pub(crate) fn renew(cluster: &Cluster, archives: &[PathBuf], progress: &Progress) -> Result<()> {
    let (running, digests) = (Running::on(cluster), digests(archives)?);
    if !running.are(&digests) {
        let pods = mesh::restart(cluster)?;
        if pods > 0 {
            progress.note(&format!(
                "{pods} pods restarted, since they may have run older images"
            ));
        }
        running.note(&digests)?;
    }
    Ok(())
}

/// Pushes images to a registry, with the user's credentials; returns their tag, which follows from what is in them.
pub(crate) fn push(archives: &[PathBuf], registry: &str, progress: &Progress) -> Result<String> {
    tools::ensure(&[tools::BUILDAH], &|message| progress.note(message))?;
    let content = Sha256::digest(digests(archives)?);
    let tag: String = content.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let store = workspace::target().join("images/store");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.join("root"));
        command.arg("--runroot").arg(store.join("run"));
        workspace::output(command.args(["--storage-driver", "vfs"]).args(arguments)).map(drop)
    };
    let result = progress.step(&format!("push images to {registry}, tag {tag}"), || {
        archives.iter().try_for_each(|archive| {
            let name = archive.file_stem().unwrap_or_default().to_string_lossy();
            buildah(&[
                "pull",
                "--quiet",
                &format!("docker-archive:{}", archive.display()),
            ])?;
            let (from, to) = (
                format!("localhost/ambit/{name}:{TAG}"),
                format!("docker://{registry}/{name}:{tag}"),
            );
            buildah(&["push", "--quiet", &from, &to])
        })
    });
    if store.exists() {
        fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
    }
    result.map(|()| tag)
}

/// Forgets which images the pods of a cluster run: others were loaded, beside what this module knows of.
pub(crate) fn forget(cluster: &Cluster) -> Result<()> {
    Running::on(cluster).forget()
}

/// The record of the images that the pods of a cluster run, in the cluster's folder; none if some may run others.
struct Running(PathBuf);

impl Running {
    fn on(cluster: &Cluster) -> Self {
        Self(cluster.dir().join("running-images"))
    }

    fn are(&self, digests: &str) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|noted| noted == digests)
    }

    fn note(&self, digests: &str) -> Result<()> {
        fs::write(&self.0, digests).with_context(|| format!("cannot write {}", self.0.display()))
    }

    fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The content of the archives, one per line.
fn digests(archives: &[PathBuf]) -> Result<String> {
    let mut lines = String::new();
    for archive in archives {
        let recorded = archive.with_extension("sha256");
        let digest = fs::read_to_string(&recorded);
        lines += &digest.with_context(|| format!("cannot read {}", recorded.display()))?;
        lines.push('\n');
    }
    Ok(lines)
}

/// One run of cargo for all binaries, and for those of `more` packages, which have the package's name; returns their
/// folder. With `--target`, the flags for static linking do not apply to build scripts and macros, and the output is
/// separate from everyday builds.
pub(crate) fn binaries(profile: Profile, more: &[&str], progress: &Progress) -> Result<PathBuf> {
    let host = host()?;
    let mut build = cargo(&[
        "build",
        "--profile",
        profile.name(),
        "--locked",
        "--target",
        &host,
    ]);
    for image in IMAGES {
        build.args(["--package", image.package, "--bin", image.binary]);
    }
    for package in more {
        build.args(["--package", package, "--bin", package]);
    }
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    workspace::build(&mut build, "static binaries", progress)?;
    folder(profile)
}

/// The output folder of [`binaries`].
pub(crate) fn folder(profile: Profile) -> Result<PathBuf> {
    Ok(workspace::target().join(host()?).join(profile.name()))
}

/// The triple of this machine.
pub(crate) fn host() -> Result<String> {
    let version = workspace::output(Command::new("rustc").arg("-vV").current_dir(workspace::root()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

impl Image {
    pub(crate) fn reference(&self, registry: &str) -> String {
        format!("{registry}/{}:{TAG}", self.target)
    }

    /// Its docker archive, built unless the existing one came from the same binary and the same Dockerfile.
    fn archive(&self, binaries: &Path, dir: &Path, progress: &Progress) -> Result<PathBuf> {
        let archive = dir.join(format!("{}.tar", self.target));
        let recorded = dir.join(format!("{}.sha256", self.target));
        let binary = binaries.join(self.binary);
        let digest = digest(&[&binary, &dockerfile()])?;
        if archive.exists() && fs::read_to_string(&recorded).is_ok_and(|found| found == digest) {
            return Ok(archive);
        }
        if recorded.exists() {
            fs::remove_file(&recorded).with_context(|| format!("cannot remove {}", recorded.display()))?;
        }
        let reference = self.reference(REGISTRY);
        self.write(&archive, &reference, &binary)?;
        fs::write(&recorded, digest).with_context(|| format!("cannot write {}", recorded.display()))?;
        let size = fs::metadata(&archive)?.len() / 1_000_000;
        progress.note(&format!("{reference} ({size} MB)"));
        Ok(archive)
    }

    /// Writes its docker archive, as the Dockerfile has it, without a builder; returns the image's id.
    pub(crate) fn write(&self, archive: &Path, reference: &str, binary: &Path) -> Result<String> {
        let path = dockerfile();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let target = Target::read(&text, self.target)?;
        tools::write_image(archive, reference, binary, Some(&target.user))
    }
}

/// The recipe of all images.
pub(crate) fn dockerfile() -> PathBuf {
    workspace::root().join("Dockerfile")
}

fn digest(files: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(Sha256::digest(content));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_has_every_target_with_its_binary_and_no_other() {
        let text = fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        let targets: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("FROM scratch AS "))
            .collect();
        assert_eq!(
            targets,
            IMAGES.iter().map(|image| image.target).collect::<Vec<_>>()
        );
        for image in IMAGES {
            let entrypoint = format!("COPY {0} /{0}\n", image.binary);
            assert!(text.contains(&entrypoint), "{entrypoint}");
            assert!(text.contains(&format!("ENTRYPOINT [\"/{}\"]", image.binary)));
        }
    }

    #[test]
    fn record_of_images_ends_when_others_are_loaded() {
        let dir = std::env::temp_dir().join(format!("ambit-xtask-running-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let running = Running(dir.join("running-images"));
        running.forget().unwrap();
        assert!(!running.are("a\n"));
        running.note("a\n").unwrap();
        assert!(running.are("a\n") && !running.are("b\n"));
        running.forget().unwrap();
        assert!(!running.are("a\n"));
        fs::write(dir.join("x.sha256"), "1").unwrap();
        fs::write(dir.join("y.sha256"), "2").unwrap();
        assert_eq!(
            digests(&[dir.join("x.tar"), dir.join("y.tar")]).unwrap(),
            "1\n2\n"
        );
        assert!(digests(&[dir.join("z.tar")]).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_digest_follows_every_file() {
        let dir = std::env::temp_dir().join(format!("ambit-xtask-digest-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "1").unwrap();
        let first = digest(&[&a, &b]).unwrap();
        fs::write(&b, "2").unwrap();
        assert_ne!(first, digest(&[&a, &b]).unwrap());
        fs::remove_dir_all(dir).unwrap();
    }
}
