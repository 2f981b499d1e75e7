//! The program that pushes images to a registry: buildah, podman or docker, whichever is there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::workspace;

/// A program that makes images from a Dockerfile and pushes them, with the user's credentials.
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
            "nothing here pushes images to a registry: install buildah, podman or docker (with its daemon), any one of them",
        )
    }

    /// Makes an image and pushes it to the registry that its reference names. `store` is a folder for the time of it.
    pub(crate) fn push(self, recipe: &Recipe, store: &Path) -> Result<()> {
        let result = self
            .commands(recipe, store)
            .iter_mut()
            .try_for_each(|command| workspace::output(command).map(drop));
        if store.exists() {
            fs::remove_dir_all(store).with_context(|| format!("cannot remove {}", store.display()))?;
        }
        result
    }

    fn commands(self, recipe: &Recipe, store: &Path) -> [Command; 2] {
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
        let mut push = program();
        push.args(["push", "--quiet", reference]);
        if self == Self::Buildah {
            push.arg(format!("docker://{reference}"));
        }
        [build, push]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(builder: Builder) -> [String; 2] {
        let recipe = Recipe {
            dockerfile: Path::new("Dockerfile"),
            target: "agent",
            context: Path::new("context"),
            reference: "r.example/agent:dev",
        };
        builder
            .commands(&recipe, Path::new("store"))
            .map(|command| workspace::words(&command))
    }

    #[test]
    fn every_builder_pushes() {
        let build = "--quiet --target agent --tag r.example/agent:dev --file Dockerfile context";
        let push = "push --quiet r.example/agent:dev";
        assert_eq!(
            words(Builder::Docker),
            [format!("docker build {build}"), format!("docker {push}")]
        );
        assert_eq!(
            words(Builder::Podman),
            [
                format!("podman build --timestamp 0 {build}"),
                format!("podman {push}")
            ]
        );
        let store = "buildah --root store/root --runroot store/run --storage-driver vfs";
        assert_eq!(
            words(Builder::Buildah),
            [
                format!("{store} bud --isolation chroot --timestamp 0 {build}"),
                format!("{store} {push} docker://r.example/agent:dev")
            ]
        );
    }
}
