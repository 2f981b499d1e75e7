//! What is built with Go: the embedded Kubernetes, Helm, kubeconform, and h2spec.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Progress, apt, cache_dir, image, lock};
use crate::{long, shell};

/// The version of Kubernetes that the cluster runs; `e2e/cluster/go.mod` requires the same.
pub const KUBERNETES_VERSION: &str = "1.34.4";

/// The version of Helm that installs the chart.
pub const HELM_VERSION: &str = "3.22.0";

/// The version of kubeconform that checks the chart's manifests.
const KUBECONFORM_VERSION: &str = "0.8.0";

/// The image of CoreDNS.
pub(crate) const COREDNS_IMAGE: &str = "localhost/coredns:1";

/// The image of the process that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// Names under which the one binary of Kubernetes is linked, beside it.
const COMPONENTS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// What Go keeps lies in our cache, and goes with it; where a user has said otherwise, there. Programs that are built need none of it.
const GO_FOLDERS: &[(&str, &str)] = &[
    ("GOPATH", "path"),
    ("GOMODCACHE", "modules"),
    ("GOCACHE", "build"),
];

/// The programs built from `e2e/cluster`.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    dir: PathBuf,
}

impl Kubernetes {
    /// The folder that holds them all; put it into PATH to have `kubectl`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one program: `kubectl`, `kubelet`, `etcd`, `kube-apiserver`, …, `coredns`, `pause`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Where, beside the programs, the images are that every node needs.
pub(crate) const IMAGES: &[&str] = &["pause.tar", "coredns.tar"];

fn kubernetes_module() -> PathBuf {
    crate::workspace().join("e2e/cluster")
}

fn kubernetes_dir(cache: &Path) -> Result<PathBuf> {
    let sources = fingerprint(&kubernetes_module())?;
    Ok(cache.join(format!("kubernetes-{KUBERNETES_VERSION}-{}", &sources[..16])))
}

fn helm_dir(cache: &Path) -> PathBuf {
    cache.join(format!("helm-{HELM_VERSION}"))
}

/// Whether what a cluster with Ambit takes was built with Go, which is then no longer needed for it.
///
/// # Errors
/// When the sources of the embedded Kubernetes cannot be read.
pub fn go_built() -> Result<bool> {
    let cache = cache_dir()?.join("tools");
    Ok(kubernetes_dir(&cache)?.is_dir() && helm_dir(&cache).is_dir())
}

/// The embedded Kubernetes, built first if this version of its sources never was.
pub fn kubernetes(progress: Progress) -> Result<Kubernetes> {
    let module = kubernetes_module();
    let cache = cache_dir()?.join("tools");
    let dir = kubernetes_dir(&cache)?;
    let _lock = lock(&cache.join("kubernetes.lock"))?;
    if dir.is_dir() {
        return Ok(Kubernetes { dir });
    }
    progress(&format!(
        "building Kubernetes {KUBERNETES_VERSION}, CoreDNS and pause from Go modules: the test cluster runs them (about 5 minutes, once)"
    ));
    let (major, rest) = KUBERNETES_VERSION
        .split_once('.')
        .context("a version has a minor part")?;
    let minor = rest.split('.').next().unwrap_or_default();
    let package = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {package}.gitVersion=v{KUBERNETES_VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    );
    install(&dir, |out| {
        let mut go = go()?;
        go.current_dir(&module)
            .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"]);
        go.args(["-ldflags", &flags, "-o"])
            .arg(format!("{}/", out.display()));
        go_build(
            &mut go,
            &["./pause", "./coredns", "./kube"],
            "Kubernetes",
            progress,
        )?;
        for component in COMPONENTS {
            symlink("kube", out.join(component)).with_context(|| format!("cannot link {component}"))?;
        }
        for (program, reference) in [("coredns", COREDNS_IMAGE), ("pause", PAUSE_IMAGE)] {
            let archive = out.join(format!("{program}.tar"));
            image::write_image(&archive, reference, &out.join(program), None)?;
        }
        Ok(())
    })?;
    Ok(Kubernetes { dir })
}

/// The path of Helm, built first if it never was.
pub fn helm(progress: Progress) -> Result<PathBuf> {
    let cache = cache_dir()?.join("tools");
    let dir = helm_dir(&cache);
    let _lock = lock(&cache.join("helm.lock"))?;
    if !dir.is_dir() {
        progress(&format!(
            "building Helm {HELM_VERSION} from its Go module: charts are installed with it (about 3 minutes, once)"
        ));
        install(&dir, |out| {
            let mut go = go()?;
            go.env("GOBIN", out)
                .args(["install", "-trimpath", "-ldflags", "-s -w"]);
            let package = format!("helm.sh/helm/v3/cmd/helm@v{HELM_VERSION}");
            go_build(&mut go, &[&package], "Helm", progress)
        })?;
    }
    Ok(dir.join("helm"))
}

/// The path of kubeconform, built first if it never was.
pub fn kubeconform(progress: Progress) -> Result<PathBuf> {
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("kubeconform-{KUBECONFORM_VERSION}"));
    let _lock = lock(&cache.join("kubeconform.lock"))?;
    if !dir.is_dir() {
        progress(&format!(
            "building kubeconform {KUBECONFORM_VERSION} from its Go module: it checks the chart's manifests (under a minute, once)"
        ));
        install(&dir, |out| {
            let mut go = go()?;
            go.env("GOBIN", out)
                .args(["install", "-trimpath", "-ldflags", "-s -w"]);
            let package = format!("github.com/yannh/kubeconform/cmd/kubeconform@v{KUBECONFORM_VERSION}");
            go_build(&mut go, &[&package], "kubeconform", progress)
        })?;
    }
    Ok(dir.join("kubeconform"))
}

/// The folder of Kubernetes' own Go module, with the description of its API.
pub fn kubernetes_source(progress: Progress) -> Result<PathBuf> {
    progress(&format!(
        "looking for the sources of Kubernetes {KUBERNETES_VERSION}: they describe its API"
    ));
    // Outside of any module: this one is asked for by its version.
    module_folder(
        &env::temp_dir(),
        &format!("k8s.io/kubernetes@v{KUBERNETES_VERSION}"),
    )
}

/// The path of h2spec, built first if this version never was.
pub fn h2spec(progress: Progress) -> Result<PathBuf> {
    let package = "github.com/summerwind/h2spec/cmd/h2spec";
    let why = "it tries the HTTP/2 servers (under a minute, once)";
    let dir = go_module("h2spec", "h2spec", why, &[package], progress, |_, _| Ok(()))?;
    Ok(dir.join("h2spec"))
}

/// The folder with programs of the Go module `e2e/<name>`: those of these packages, built first if this version of the
/// module never was. `title` and `why` tell of the build; `finish` gets the module's folder and that of the programs.
pub(super) fn go_module(
    name: &str,
    title: &str,
    why: &str,
    packages: &[&str],
    progress: Progress,
    finish: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let module = crate::workspace().join("e2e").join(name);
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("{name}-{}", &fingerprint(&module)?[..16]));
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if !dir.is_dir() {
        progress(&format!("building {title} from its Go module: {why}"));
        install(&dir, |out| {
            let mut go = go()?;
            go.current_dir(&module)
                .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                .args(["-ldflags", "-s -w", "-o"])
                .arg(format!("{}/", out.display()));
            go_build(&mut go, packages, title, progress)?;
            finish(&module, out)
        })?;
    }
    Ok(dir)
}

/// Fills a folder beside `dir` and moves it there when it is complete: `dir` is whole or absent.
pub(super) fn install(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = dir.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
    fill(&part)?;
    fs::rename(&part, dir).with_context(|| format!("cannot move {} into place", part.display()))
}

/// Go, with all that it keeps in our cache.
pub(crate) fn go() -> Result<Command> {
    if !apt::present("go") {
        bail!("`go` is not in PATH: install Go 1.26 or later (https://go.dev/dl)");
    }
    let mut command = Command::new("go");
    command.env("CGO_ENABLED", "0");
    let cache = cache_dir()?.join("go");
    for (name, folder) in GO_FOLDERS {
        if env::var_os(name).is_none() {
            command.env(name, cache.join(folder));
        }
    }
    Ok(command)
}

/// Runs `go build` or `go install`, which takes minutes where nothing is cached.
pub(super) fn go_build(go: &mut Command, packages: &[&str], name: &str, progress: Progress) -> Result<()> {
    let (mut modules, mut compiled) = (0, 0);
    let far = |line: &str| {
        if line.starts_with("go: downloading ") {
            modules += 1;
        } else if !line.contains([' ', ':']) {
            compiled += 1;
        } else {
            return None;
        }
        Some(format!(
            "{modules} modules downloaded, {compiled} packages compiled"
        ))
    };
    // The names of packages are printed with -v, as they are compiled.
    go.arg("-v").args(packages);
    long::run(go, name, far, progress).with_context(|| format!("cannot build {name}"))?;
    Ok(())
}

/// A hash over every file of the module: names and contents.
pub(super) fn fingerprint(module: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(module, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .strip_prefix(module)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The folder with the files of a module that the module in `from` requires, downloaded if it has to be.
pub(super) fn module_folder(from: &Path, name: &str) -> Result<PathBuf> {
    let mut go = go()?;
    go.current_dir(from).args(["mod", "download", "-json", name]);
    let told = shell::run(&mut go).with_context(|| format!("cannot download the Go module {name}"))?;
    let told: serde_json::Value = serde_json::from_str(&told).context("go mod download")?;
    let folder = told["Dir"].as_str().context("go mod download names no folder")?;
    Ok(PathBuf::from(folder))
}

/// Adds all files below a folder.
pub(crate) fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ambit-e2e-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_version_is_the_one_that_go_mod_requires() {
        let module = fs::read_to_string(kubernetes_module().join("go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES_VERSION}")));
    }

    #[test]
    fn the_fingerprint_follows_names_and_contents() {
        let dir = scratch("fingerprint");
        fs::write(dir.join("a"), "1").unwrap();
        let first = fingerprint(&dir).unwrap();
        assert_eq!(first, fingerprint(&dir).unwrap());
        fs::write(dir.join("a"), "2").unwrap();
        let second = fingerprint(&dir).unwrap();
        fs::rename(dir.join("a"), dir.join("b")).unwrap();
        let third = fingerprint(&dir).unwrap();
        assert!(first != second && second != third);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn go_writes_only_into_the_cache() {
        let cache = cache_dir().unwrap();
        let Ok(go) = super::go() else {
            return; // There is no Go.
        };
        for (name, _) in GO_FOLDERS {
            let set = go.get_envs().find(|(set, _)| set == name);
            let inside = set
                .and_then(|(_, value)| value)
                .is_some_and(|dir| Path::new(dir).starts_with(&cache));
            assert!(inside || env::var_os(name).is_some(), "{name}: {set:?}");
        }
    }

    #[test]
    fn failed_install_leaves_nothing() {
        let dir = scratch("install").join("tool");
        assert!(install(&dir, |_| bail!("no")).is_err());
        assert!(!dir.exists());
        install(&dir, |out| Ok(fs::write(out.join("bin"), "x")?)).unwrap();
        assert!(dir.join("bin").exists());
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }
}
