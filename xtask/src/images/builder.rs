//! The program that makes images: buildah, podman or docker, whichever is there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A program that makes images from a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builder {
    Buildah,
    Podman,
    Docker,
}

/// What to make: an image of one target of a Dockerfile.
pub(crate) struct Recipe<'a> {
    pub(crate) dockerfile: &'a Path,
    pub(crate) target: &'a str,
    pub(crate) context: &'a Path,
    pub(crate) reference: &'a str,
}

/// Where an image goes.
pub(crate) enum Destination<'a> {
    /// A docker archive.
    Archive(&'a Path),
    /// The registry that its reference names.
    Registry,
}

impl Builder {
    /// The first that works: docker is there only where its daemon is.
    pub(crate) fn find() -> Result<Self> {
        let works = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let tried = [
            (Self::Buildah, "buildah", "--version"),
            (Self::Podman, "podman", "--version"),
            (Self::Docker, "docker", "info"),
        ];
        let found = tried
            .into_iter()
            .find(|(_, program, sign)| works(program, &[sign]));
        found.map(|(builder, ..)| builder).context(
            "nothing here makes images: install buildah, podman or docker (with its daemon), any one of them",
        )
    }

    /// Makes an image and brings it to its destination. `store` is a folder for the time of it.
    pub(crate) fn make(self, recipe: &Recipe, destination: &Destination, store: &Path) -> Result<()> {
        if let Destination::Archive(archive) = destination
            && archive.exists()
        {
            fs::remove_file(archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        let result = self
            .commands(recipe, destination, store)
            .iter_mut()
            .try_for_each(|command| workspace::output(command).map(drop));
        if store.exists() {
            fs::remove_dir_all(store).with_context(|| format!("cannot remove {}", store.display()))?;
        }
        result?;
        if let Destination::Archive(archive) = destination
            && !archive.exists()
        {
            bail!("{self:?} wrote no {}", archive.display());
        }
        Ok(())
    }

    fn commands(self, recipe: &Recipe, destination: &Destination, store: &Path) -> Vec<Command> {
        let Recipe {
            dockerfile,
            target,
            context,
            reference,
        } = recipe;
        let program = || match self {
            // A store of its own, removed again: the machine's images are left alone.
            Self::Buildah => {
                let mut command = Command::new("buildah");
                command.arg("--root").arg(store.join("root"));
                command.arg("--runroot").arg(store.join("run"));
                command.args(["--storage-driver", "vfs"]);
                command
            }
            Self::Podman => Command::new("podman"),
            Self::Docker => Command::new("docker"),
        };
        let mut build = program();
        match self {
            // Without the time of day, the image of a binary is always the same.
            Self::Buildah => build.args(["bud", "--isolation", "chroot", "--timestamp", "0"]),
            Self::Podman => build.args(["build", "--timestamp", "0"]),
            Self::Docker => build.arg("build"),
        };
        build.args(["--quiet", "--target", target, "--tag", reference]);
        build.arg("--file").arg(dockerfile).arg(context);
        let mut deliver = program();
        match (self, destination) {
            (Self::Docker, Destination::Archive(archive)) => {
                deliver.args(["save", "--output"]).arg(archive).arg(reference)
            }
            (_, Destination::Archive(archive)) => {
                let archive = format!("docker-archive:{}:{reference}", archive.display());
                deliver.args(["push", "--quiet", reference, &archive])
            }
            (Self::Buildah, Destination::Registry) => {
                deliver.args(["push", "--quiet", reference, &format!("docker://{reference}")])
            }
            (_, Destination::Registry) => deliver.args(["push", "--quiet", reference]),
        };
        vec![build, deliver]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(builder: Builder, destination: &Destination) -> Vec<String> {
        let recipe = Recipe {
            dockerfile: Path::new("Dockerfile"),
            target: "agent",
            context: Path::new("context"),
            reference: "r.example/agent:dev",
        };
        let commands = builder.commands(&recipe, destination, Path::new("store"));
        commands.iter().map(workspace::words).collect()
    }

    #[test]
    fn every_builder_writes_archives_and_pushes() {
        let archive = Destination::Archive(Path::new("a.tar"));
        let build = "--quiet --target agent --tag r.example/agent:dev --file Dockerfile context";
        let store = "buildah --root store/root --runroot store/run --storage-driver vfs";
        assert_eq!(
            words(Builder::Docker, &archive),
            [
                format!("docker build {build}"),
                "docker save --output a.tar r.example/agent:dev".into()
            ]
        );
        assert_eq!(
            words(Builder::Podman, &archive),
            [
                format!("podman build --timestamp 0 {build}"),
                "podman push --quiet r.example/agent:dev docker-archive:a.tar:r.example/agent:dev".into()
            ]
        );
        let buildah = words(Builder::Buildah, &archive);
        assert_eq!(
            buildah[0],
            format!("{store} bud --isolation chroot --timestamp 0 {build}")
        );
        for (builder, last) in [
            (
                Builder::Docker,
                "docker push --quiet r.example/agent:dev".to_owned(),
            ),
            (
                Builder::Podman,
                "podman push --quiet r.example/agent:dev".to_owned(),
            ),
            (
                Builder::Buildah,
                format!("{store} push --quiet r.example/agent:dev docker://r.example/agent:dev"),
            ),
        ] {
            assert_eq!(words(builder, &Destination::Registry)[1], last);
        }
    }
}
