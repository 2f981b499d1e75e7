//! The Gateway API's conformance tests, the application of their pods, and the definitions of the API: from Go modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;

use super::build::{fingerprint, go, go_build, install, module_folder};
use super::image::{File, write_files};
use super::{Progress, cache_dir, lock};

/// The version of the Gateway API whose tests are run; `e2e/conformance/go.mod` requires the same.
pub const GATEWAY_API_VERSION: &str = "1.6.3";

/// The module with the definitions, and the one with the tests.
const MODULES: [&str; 2] = ["sigs.k8s.io/gateway-api", "sigs.k8s.io/gateway-api/conformance"];

/// The definitions of the experimental channel: the mesh's own kind is in no other.
const DEFINITIONS: &str = "config/crd/experimental";

/// The manifests that say which image the pods of the tests have.
const MANIFESTS: &str = "mesh/manifests.yaml";

/// The test application: the server, and the client that the tests start in its pods.
const ECHO: &str = "istio.io/istio/pkg/test/echo/cmd";
const PROGRAMS: [&str; 2] = ["client", "server"];

/// The conformance tests, built from their Go module.
#[derive(Debug, Clone)]
pub struct ConformanceTests {
    dir: PathBuf,
}

impl ConformanceTests {
    /// The test program.
    pub fn program(&self) -> PathBuf {
        self.dir.join("conformance")
    }

    /// A docker archive: the image that the manifests of the tests name.
    pub fn image(&self) -> PathBuf {
        self.dir.join("echo.tar")
    }
}

/// The conformance tests, built first if this version never was.
///
/// # Errors
/// When Go is missing, or a program does not build.
pub fn conformance(progress: Progress) -> Result<ConformanceTests> {
    let module = crate::workspace().join("e2e/conformance");
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!(
        "conformance-{GATEWAY_API_VERSION}-{}",
        &fingerprint(&module)?[..16]
    ));
    let _lock = lock(&cache.join("conformance.lock"))?;
    if !dir.is_dir() {
        progress(&format!(
            "building the Gateway API's conformance tests {GATEWAY_API_VERSION} and the application of their pods from Go modules \
             (about 3 minutes, once)"
        ));
        install(&dir, |out| build(&module, out, progress))?;
    }
    Ok(ConformanceTests { dir })
}

/// The Gateway API's definitions alone: a folder for `kubectl apply --kustomize`.
///
/// # Errors
/// When Go is missing, or the module cannot be had.
pub fn gateway_definitions(progress: Progress) -> Result<PathBuf> {
    let module = crate::workspace().join("e2e/conformance");
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("gateway-api-{GATEWAY_API_VERSION}"));
    let _lock = lock(&cache.join("gateway-api.lock"))?;
    if !dir.is_dir() {
        progress(&format!(
            "fetching the Gateway API's definitions {GATEWAY_API_VERSION}, a Go module"
        ));
        install(&dir, |out| {
            let [api, _] = MODULES;
            copy(&module_folder(&module, api)?.join(DEFINITIONS), out)
        })?;
    }
    Ok(dir)
}

fn build(module: &Path, out: &Path, progress: Progress) -> Result<()> {
    let compile = |verb: &[&str], to: &Path, packages: &[&str], name: &str| {
        let mut go = go()?;
        go.current_dir(module)
            .args(verb)
            .args(["-trimpath", "-buildvcs=false", "-mod=readonly"])
            .args(["-ldflags", "-s -w", "-o"])
            .arg(to);
        go_build(&mut go, packages, name, progress)
    };
    compile(
        &["test", "-c"],
        &out.join("conformance"),
        &["."],
        "the conformance tests",
    )?;
    let echo = out.join("echo");
    // Where the name of a folder is given, each program has its own name in it.
    fs::create_dir_all(&echo)?;
    let packages = PROGRAMS.map(|program| format!("{ECHO}/{program}"));
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    compile(&["build"], &echo, &packages, "the application of their pods")?;
    let [_, tests] = MODULES;
    let manifests = module_folder(module, tests)?.join(MANIFESTS);
    let manifests =
        fs::read_to_string(&manifests).with_context(|| format!("cannot read {}", manifests.display()))?;
    write_image(&out.join("echo.tar"), image_in(&manifests)?, &echo)?;
    fs::remove_dir_all(&echo).with_context(|| format!("cannot remove {}", echo.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        // The contents alone: files of the module cache are read-only.
        fs::write(to.join(entry.file_name()), fs::read(entry.path())?)?;
    }
    Ok(())
}

/// The one image that manifests name.
fn image_in(manifests: &str) -> Result<&str> {
    let images: BTreeSet<&str> = manifests
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "))
        .collect();
    match Vec::from_iter(images)[..] {
        [image] => Ok(image.trim()),
        ref others => bail!("the pods of the conformance tests have one image, not {others:?}"),
    }
}

/// The image has what the original has, from the manifests' point of view: the programs in PATH, and a certificate for TLS.
fn write_image(archive: &Path, reference: &str, programs: &Path) -> Result<()> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["echo".to_owned()])?;
    let read = |name: &str| fs::read(programs.join(name)).with_context(|| format!("no program {name}"));
    let [client, server] = PROGRAMS;
    let file = |path: &str, mode, content| File {
        path: path.to_owned(),
        mode,
        content,
    };
    let files = [
        file("usr/local/bin/client", 0o755, read(client)?),
        file("usr/local/bin/server", 0o755, read(server)?),
        file("cert.crt", 0o644, cert.pem().into_bytes()),
        file("cert.key", 0o644, signing_key.serialize_pem().into_bytes()),
    ];
    let config = json!({
        "Entrypoint": ["/usr/local/bin/server"],
        "Env": ["PATH=/usr/local/bin"],
        "User": "1338",
        "WorkingDir": "/",
    });
    write_files(archive, reference, &config, &files).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_go_mod_requires() {
        let required = fs::read_to_string(crate::workspace().join("e2e/conformance/go.mod")).unwrap();
        for module in MODULES {
            assert!(
                required.contains(&format!("{module} v{GATEWAY_API_VERSION}\n")),
                "{module}"
            );
        }
    }

    #[test]
    fn manifests_name_one_image() {
        let manifests = "a:\n  - name: echo\n    image: r/echo:v1\n  - image: r/echo:v1\n";
        assert_eq!(image_in(manifests).unwrap(), "r/echo:v1");
        assert!(image_in("image: a\nimage: b\n").is_err());
        assert!(image_in("").is_err());
    }
}
