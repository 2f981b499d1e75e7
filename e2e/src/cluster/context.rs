//! A cluster that others run, reached through a context of the user's kubeconfig.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{Access, Cluster, Images, state};
use crate::{shell, tools};

impl Default for Images {
    /// As they are called where they are loaded into the nodes.
    fn default() -> Self {
        Self {
            registry: "localhost/ambit".to_owned(),
            tag: "dev".to_owned(),
        }
    }
}

impl Cluster {
    /// The cluster of a context, with the user's kubectl and Helm; where one is not in PATH, ours is built.
    ///
    /// # Errors
    /// When there is no such context, or its cluster does not answer.
    pub fn of_context(context: &str, progress: &dyn Fn(&str)) -> Result<Self> {
        let kubectl = match tools::present("kubectl") {
            true => PathBuf::from("kubectl"),
            false => tools::kubernetes(progress)?.program("kubectl"),
        };
        let kubeconfig = match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            Some(list) => PathBuf::from(list),
            None => PathBuf::from(env::var_os("HOME").context("neither KUBECONFIG nor HOME is set")?)
                .join(".kube/config"),
        };
        // A context may have any name, such as that of an EKS cluster.
        let folder = context.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
        let dir = tools::cache_dir()?.join("contexts").join(folder);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut cluster = Self {
            layout: None,
            access: Access {
                name: context.to_owned(),
                kubectl,
                kubeconfig,
                context: None,
                dir,
            },
            images: Images::default(),
            reader: None,
        };
        let known = cluster.run_kubectl(&["config", "get-contexts", "--output=name"])?;
        if !known.lines().any(|name| name == context) {
            bail!(
                "{} has no context {context}, only: {}",
                cluster.kubeconfig().display(),
                Vec::from_iter(known.lines()).join(", ")
            );
        }
        cluster.access.context = Some(context.to_owned());
        cluster
            .run_kubectl(&["get", "--raw", "/readyz", "--request-timeout=10s"])
            .with_context(|| format!("the cluster of context {context} does not answer"))?;
        Ok(cluster)
    }

    /// The cluster of this machine behind the context, if it is one.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn embedded(&self) -> Result<Option<Self>> {
        let server = ["--output=jsonpath={.clusters[0].cluster.server}"];
        let server = shell::run(self.kubectl().args(["config", "view", "--minify"]).args(server))?;
        for name in state::names()? {
            if let Some(layout) = state::load(&name)?.filter(|layout| layout.server() == server.trim()) {
                return Ok(Some(Self::of(layout)));
            }
        }
        Ok(None)
    }
}
