//! Manifests against the schemas of Kubernetes, offline: `kubeconform`, with schemas from the API description in
//! Kubernetes' own Go module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ambit_e2e::tools;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::progress::Progress;
use crate::workspace;

/// Kinds that Kubernetes has no schema for: definitions' own schemas are recursive, and the rest belongs to other
/// projects.
const SKIPPED: &str =
    "CustomResourceDefinition,ServiceMonitor,PodMonitor,PrometheusRule,SecurityContextConstraints";

/// Where the schemas and the program are.
pub(super) struct Schemas {
    dir: PathBuf,
    program: PathBuf,
}

/// The schemas of the version that the tests run, made first where the cache has none.
pub(super) fn schemas(progress: &Progress) -> Result<Schemas> {
    let note = |message: &str| progress.note(message);
    let program = tools::kubeconform(&note)?;
    let version = tools::KUBERNETES_VERSION;
    let dir = tools::cache_dir()?.join(format!("tools/schemas-{version}"));
    if !dir.is_dir() {
        let description = tools::kubernetes_source(&note)?.join("api/openapi-spec/swagger.json");
        let text = fs::read_to_string(&description)
            .with_context(|| format!("cannot read {}", description.display()))?;
        let part = dir.with_extension(format!("part-{}", std::process::id()));
        write(&serde_json::from_str(&text)?, &part)?;
        // Another process may have made the same meanwhile.
        if fs::rename(&part, &dir).is_err() {
            fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        }
    }
    Ok(Schemas { dir, program })
}

impl Schemas {
    /// Checks manifests; what kubeconform says of them.
    pub(super) fn check(&self, manifests: &str) -> Result<String> {
        let file = workspace::target().join(format!("chart-{}.yaml", std::process::id()));
        fs::write(&file, manifests).with_context(|| format!("cannot write {}", file.display()))?;
        let location = format!(
            "{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
            self.dir.display()
        );
        let output = Command::new(&self.program)
            .args([
                "-strict",
                "-summary",
                "-skip",
                SKIPPED,
                "-schema-location",
                &location,
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .context("cannot start kubeconform")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!(
                "{said}{}; the manifests are in {}",
                String::from_utf8_lossy(&output.stderr),
                file.display()
            );
        }
        fs::remove_file(&file)?;
        Ok(said)
    }
}

/// A file for each kind, named as kubeconform looks for them, and one with all definitions.
fn write(description: &Value, dir: &Path) -> Result<()> {
    let all = description["definitions"]
        .as_object()
        .context("the API description has no definitions")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut definitions = all.clone();
    for (name, definition) in &mut definitions {
        close(name, definition);
    }
    for (name, definition) in all {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        for kind in kinds.into_iter().flatten() {
            let part = |field: &str| kind[field].as_str().unwrap_or_default().to_lowercase();
            let (group, version, kind) = (part("group"), part("version"), part("kind"));
            let group = group.split('.').next().unwrap_or_default();
            let suffix: String = [group, &version]
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(|part| format!("-{part}"))
                .collect();
            let file = dir.join(format!("{kind}{suffix}.json"));
            let schema = json!({ "$ref": format!("_definitions.json#/definitions/{name}") });
            fs::write(&file, schema.to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    fs::write(
        dir.join("_definitions.json"),
        json!({ "definitions": definitions }).to_string(),
    )?;
    Ok(())
}

/// Lets a definition take no fields but its own, and corrects what the description says differently from what the API
/// server takes.
fn close(name: &str, definition: &mut Value) {
    if definition.get("properties").is_some() && definition.get("additionalProperties").is_none() {
        definition["additionalProperties"] = json!(false);
    }
    // Written as a number or as text.
    if name.ends_with(".IntOrString") || name.ends_with(".Quantity") {
        *definition = json!({ "type": ["string", "number"] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_get_files_by_which_they_are_found() {
        let dir = std::env::temp_dir().join(format!("ambit-schemas-{}", std::process::id()));
        let description = json!({ "definitions": {
            "io.k8s.api.apps.v1.Deployment": {
                "properties": { "spec": { "type": "object" } },
                "x-kubernetes-group-version-kind": [{ "group": "apps", "version": "v1", "kind": "Deployment" }],
            },
            "io.k8s.api.core.v1.Service": {
                "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "Service" }],
            },
            "a.IntOrString": { "type": "string" },
        } });
        write(&description, &dir).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert!(read("deployment-apps-v1.json").contains("#/definitions/io.k8s.api.apps.v1.Deployment"));
        assert!(read("service-v1.json").contains("io.k8s.api.core.v1.Service"));
        let all: Value = serde_json::from_str(&read("_definitions.json")).unwrap();
        let definitions = &all["definitions"];
        assert_eq!(
            definitions["io.k8s.api.apps.v1.Deployment"]["additionalProperties"],
            false
        );
        assert_eq!(definitions["a.IntOrString"]["type"], json!(["string", "number"]));
        fs::remove_dir_all(dir).unwrap();
    }
}
