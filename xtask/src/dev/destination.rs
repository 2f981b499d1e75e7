//! Which cluster an edit goes to, and how its nodes get an image.

use std::fs;
use std::path::Path;
use std::process::Command;

use ambit_e2e::cluster::Cluster as Embedded;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::images::{self, Builder, Image, Recipe};
use crate::workspace;

/// A cluster, of a context in the kubeconfig.
pub(super) struct Cluster {
    context: String,
    way: Way,
}

/// An image that the nodes of a cluster have, or pull when they need it.
pub(super) struct Brought {
    /// What pods call it.
    pub(super) reference: String,
    /// What a pod's status has for it; none where that is not known.
    pub(super) id: Option<String>,
}

/// How its nodes get an image.
enum Way {
    /// One of `cargo xtask cluster`: it is loaded.
    Embedded(Box<Embedded>),
    /// It is loaded by kind, into the cluster of this name.
    Kind(String),
    /// It is loaded by k3d, into the cluster of this name.
    K3d(String),
    /// They pull it from a registry.
    Registry(String),
}

impl Cluster {
    /// The cluster of a context, or of the current one. A registry that is given is used whatever the cluster is.
    pub(super) fn find(context: Option<&str>, registry: Option<&str>) -> Result<Self> {
        let context = match context {
            Some(context) => context.to_owned(),
            None => workspace::output(Command::new("kubectl").args(["config", "current-context"]))
                .context("no context is given, and the kubeconfig names no current one (--context)")?
                .trim()
                .to_owned(),
        };
        let way = match registry {
            Some(registry) => Way::Registry(registry.trim_end_matches('/').to_owned()),
            None => Way::of(&context, &Embedded::names()?)?,
        };
        Ok(Self { context, way })
    }

    /// The context's name.
    pub(super) fn context(&self) -> &str {
        &self.context
    }

    /// What an image is called there.
    pub(super) fn reference(&self, image: &Image) -> String {
        match &self.way {
            Way::Registry(registry) => image.reference(registry),
            _ => image.reference(images::REGISTRY),
        }
    }

    /// `kubectl get … --output=json`, its items.
    pub(super) fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let list = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        let mut list: Value = serde_json::from_str(&list).context("kubectl printed no JSON")?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("kubectl get {} returned no list", arguments.join(" ")),
        }
    }

    /// Runs kubectl.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = match &self.way {
            Way::Embedded(cluster) => cluster.kubectl(),
            _ => {
                let mut kubectl = Command::new("kubectl");
                kubectl.args(["--context", &self.context]);
                kubectl
            }
        };
        workspace::output(kubectl.args(arguments))
    }

    /// Makes the image of a binary and brings it to where the nodes take it from. What is made on the way is in `dir`.
    pub(super) fn bring(&self, image: &Image, binary: &Path, dir: &Path) -> Result<Brought> {
        let reference = self.reference(image);
        if let Way::Registry(_) = self.way {
            let context = dir.join("context");
            fs::create_dir_all(&context).with_context(|| format!("cannot create {}", context.display()))?;
            fs::copy(binary, context.join(image.binary))
                .with_context(|| format!("cannot copy {}", binary.display()))?;
            let recipe = Recipe {
                dockerfile: &images::dockerfile(),
                target: image.target,
                context: &context,
                reference: &reference,
            };
            Builder::find()?.push(&recipe, &dir.join("store"))?;
            return Ok(Brought { reference, id: None });
        }
        let archive = dir.join(format!("{}.tar", image.target));
        let id = image.write(&archive, &reference, binary)?;
        if let Way::Embedded(cluster) = &self.way {
            images::forget(cluster)?;
            cluster.load_image(&archive)?;
            return Ok(Brought {
                reference,
                id: Some(id),
            });
        }
        if let Some(mut load) = self.way.load(&archive) {
            workspace::output(&mut load)?;
        }
        Ok(Brought { reference, id: None })
    }
}

impl Way {
    fn of(context: &str, embedded: &[String]) -> Result<Self> {
        if let Some(name) = context.strip_prefix("ambit-")
            && embedded.iter().any(|cluster| cluster == name)
        {
            return Ok(Self::Embedded(Box::new(Embedded::attach(name)?)));
        }
        if let Some(name) = context.strip_prefix("kind-") {
            return Ok(Self::Kind(name.to_owned()));
        }
        if let Some(name) = context.strip_prefix("k3d-") {
            return Ok(Self::K3d(name.to_owned()));
        }
        bail!(
            "the nodes of context {context} get no image: it is no cluster of `cargo xtask cluster`, kind or k3d. Name a registry that they pull \
             from and you may push to: --registry, or `registry` in tilt_config.json"
        )
    }

    /// The command that loads an archive, where another program does it.
    fn load(&self, archive: &Path) -> Option<Command> {
        let (program, words, name) = match self {
            Self::Kind(name) => ("kind", ["load", "image-archive"], ["--name", name]),
            Self::K3d(name) => ("k3d", ["image", "import"], ["--cluster", name]),
            Self::Embedded(_) | Self::Registry(_) => return None,
        };
        let mut command = Command::new(program);
        command.args(words).arg(archive).args(name);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_says_who_loads_images() {
        let load = |context: &str| {
            let command = Way::of(context, &[]).unwrap().load(Path::new("a.tar"));
            workspace::words(&command.unwrap())
        };
        assert_eq!(load("kind-dev"), "kind load image-archive a.tar --name dev");
        assert_eq!(load("k3d-dev"), "k3d image import a.tar --cluster dev");
    }

    #[test]
    fn a_cluster_somewhere_takes_a_registry() {
        for context in ["prod", "ambit-gone"] {
            let error = Way::of(context, &[]).err().unwrap().to_string();
            assert!(error.contains(context) && error.contains("--registry"), "{error}");
        }
        let cluster = Cluster::find(Some("prod"), Some("r.example/ambit/")).unwrap();
        let agent = images::IMAGES
            .iter()
            .find(|image| image.target == "agent")
            .unwrap();
        assert_eq!(cluster.reference(agent), "r.example/ambit/agent:dev");
    }
}
