//! The demo on a cluster that exists, reached through a context of the user's kubeconfig. At its end the cluster is as
//! it was.

use std::collections::BTreeSet;

use ambit_e2e::cluster::Cluster;
use ambit_e2e::mesh;
use ambit_e2e::preflight::{self, Work};
use ambit_e2e::sample::Shop;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{act, show};
use crate::images::{self, Profile};
use crate::progress::Progress;
use crate::workspace;

/// The namespace of the sample application.
const SHOP: &str = "shop";

/// Where the demo runs, and with what.
pub(super) struct Options<'a> {
    pub(super) context: &'a str,
    pub(super) registry: Option<&'a str>,
    pub(super) tag: Option<&'a str>,
    pub(super) use_installed: bool,
    pub(super) keep: bool,
}

/// Runs the demo there.
pub(super) fn run(options: &Options, progress: &Progress) -> Result<()> {
    let note = |message: &str| progress.note(message);
    let title = format!("look at the cluster of context {}", options.context);
    let (cluster, before) = progress.step(&title, || {
        let cluster = Cluster::of_context(options.context, &note)?;
        let before = Found::look(&cluster)?;
        before.allow(options)?;
        Ok((cluster, before))
    })?;
    let cluster = with_images(cluster, options, progress)?;
    let result = play(&cluster, options, progress);
    if options.keep {
        show::how_to_go_on(&format!("kubectl config use-context {}", options.context));
        return result;
    }
    let restored = progress.step("leave the cluster as it was", || {
        before.restore(&cluster, options, &note)
    });
    match (result, restored) {
        (Err(first), Err(then)) => bail!("{first:#}; after that: {then:#}"),
        (first, then) => first.and(then),
    }
}

fn play(cluster: &Cluster, options: &Options, progress: &Progress) -> Result<()> {
    if options.use_installed {
        mesh::wait_ready(cluster).context("--use-installed takes a Mesh that is Ready")?;
    } else {
        progress.step("helm install ambit charts/ambit", || {
            mesh::install(cluster, &|message| progress.note(message))
        })?;
    }
    let shop = progress.step("a sample application: two clients talk to a Service", || {
        Shop::deploy(cluster, SHOP)
    })?;
    act::play(cluster, &shop, progress)
}

/// The cluster with the images that its nodes can get: those of a registry, or loaded where the cluster runs on this
/// machine.
fn with_images(cluster: Cluster, options: &Options, progress: &Progress) -> Result<Cluster> {
    if let (Some(registry), Some(tag)) = (options.registry, options.tag) {
        return Ok(cluster.with_images(registry, tag));
    }
    let embedded = cluster.embedded()?;
    ensure!(
        options.registry.is_some() || embedded.is_some(),
        "the nodes of context {} have to get the images from a registry: `--registry registry.example/ambit` pushes them there \
         (buildah, with your credentials); with `--tag TAG` they are there already",
        options.context
    );
    preflight::check(&Work {
        target: Some(&workspace::target()),
        ..Work::default()
    })?;
    let archives = images::build(Profile::Everyday, progress)?;
    match (options.registry, embedded) {
        (Some(registry), _) => {
            let tag = images::push(&archives, registry, progress)?;
            Ok(cluster.with_images(registry, &tag))
        }
        (None, Some(embedded)) => images::load(&embedded, &archives, progress).map(|()| cluster),
        (None, None) => Ok(cluster),
    }
}

/// What a cluster has that the demo could touch.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// The namespaces of operators, and the Meshes.
    installed: BTreeSet<String>,
    /// Our definitions.
    definitions: BTreeSet<String>,
    /// What uninstalling leaves in the namespace of ours; none where there is no such namespace.
    system: Option<BTreeSet<String>>,
    /// Whether there is a namespace of the name that the sample application gets.
    shop: bool,
}

impl Found {
    fn look(cluster: &Cluster) -> Result<Self> {
        let definitions: BTreeSet<String> = names(&cluster.list(&["customresourcedefinitions"])?)
            .filter(|name| name.ends_with(".ambit.dev"))
            .collect();
        let selector = "app.kubernetes.io/name=ambit-operator";
        let operators = cluster.list(&["deployments", "--all-namespaces", "--selector", selector])?;
        let mut installed: BTreeSet<String> = operators
            .iter()
            .filter_map(|operator| operator["metadata"]["namespace"].as_str())
            .map(|namespace| format!("an operator in namespace {namespace}"))
            .collect();
        if definitions.contains("meshes.ambit.dev") {
            installed.extend(names(&cluster.list(&["meshes"])?).map(|name| format!("Mesh {name}")));
        }
        let namespaces: BTreeSet<String> = names(&cluster.list(&["namespaces"])?).collect();
        let system = namespaces
            .contains(mesh::NAMESPACE)
            .then(|| leftovers(cluster))
            .transpose()?;
        Ok(Self {
            installed,
            definitions,
            system,
            shop: namespaces.contains(SHOP),
        })
    }

    /// Refuses a cluster on which the demo would change what others made.
    fn allow(&self, options: &Options) -> Result<()> {
        ensure!(
            !self.shop,
            "the cluster has a namespace {SHOP}, and the demo makes and removes one of that name: it changes nothing here"
        );
        let found = Vec::from_iter(self.installed.iter().map(String::as_str)).join(", ");
        match (options.use_installed, self.installed.is_empty()) {
            (false, false) => bail!(
                "Ambit is installed in this cluster already ({found}): the demo changes nothing here. With `--use-installed` it runs on \
                 what is installed, and adds no more than a namespace {SHOP}, which it removes again"
            ),
            (true, true) => bail!("--use-installed, but Ambit is not installed in this cluster"),
            _ => Ok(()),
        }
    }

    /// Removes what the demo added, and makes sure that nothing of it is left.
    fn restore(&self, cluster: &Cluster, options: &Options, note: &dyn Fn(&str)) -> Result<()> {
        delete(cluster, &["namespace", SHOP])?;
        if !options.use_installed {
            if Self::look(cluster)?.installed != self.installed {
                mesh::uninstall(cluster, note)?;
            }
            let now = Self::look(cluster)?;
            for definition in now.definitions.difference(&self.definitions) {
                delete(cluster, &["customresourcedefinition", definition])?;
            }
            match &self.system {
                None => delete(cluster, &["namespace", mesh::NAMESPACE])?,
                Some(before) => {
                    for object in now.system.unwrap_or_default().difference(before) {
                        delete(cluster, &["--namespace", mesh::NAMESPACE, object])?;
                    }
                }
            }
        }
        let after = Self::look(cluster)?;
        ensure!(after == *self, "it is not as it was: {after:?}, before: {self:?}");
        Ok(())
    }
}

/// `kind/name` of what uninstalling leaves in our namespace.
fn leftovers(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = "secrets,configmaps,leases.coordination.k8s.io";
    let names = cluster.run_kubectl(&["get", kinds, "--namespace", mesh::NAMESPACE, "--output=name"])?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn delete(cluster: &Cluster, what: &[&str]) -> Result<()> {
    let how = ["delete", "--ignore-not-found", "--timeout=3m"];
    cluster.run_kubectl(&[&how[..], what].concat()).map(drop)
}

fn names(objects: &[Value]) -> impl Iterator<Item = String> {
    objects
        .iter()
        .filter_map(|object| object["metadata"]["name"].as_str())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(use_installed: bool) -> Options<'static> {
        Options {
            context: "x",
            registry: None,
            tag: None,
            use_installed,
            keep: false,
        }
    }

    fn found(installed: &[&str], shop: bool) -> Found {
        Found {
            installed: installed.iter().map(|&what| what.to_owned()).collect(),
            definitions: BTreeSet::new(),
            system: None,
            shop,
        }
    }

    #[test]
    fn an_installed_ambit_is_not_touched_unless_told() {
        let there = found(&["an operator in namespace mesh", "Mesh default"], false);
        let refused = there.allow(&options(false)).unwrap_err().to_string();
        assert!(refused.contains("an operator in namespace mesh"), "{refused}");
        assert!(refused.contains("--use-installed"), "{refused}");
        there.allow(&options(true)).unwrap();
        found(&[], false).allow(&options(false)).unwrap();
        found(&[], false).allow(&options(true)).unwrap_err();
    }

    #[test]
    fn a_namespace_of_that_name_is_not_touched() {
        found(&[], true).allow(&options(false)).unwrap_err();
        found(&["Mesh default"], true).allow(&options(true)).unwrap_err();
    }
}
