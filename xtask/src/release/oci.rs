//! Images as OCI archives: a tar file of an OCI image layout, with one image index for all platforms.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::Source;
use super::archive::{Files, gzip, sha256};
use super::dockerfile::Target;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image for all platforms that were built.
pub(super) struct Image {
    /// The OCI archive.
    pub(super) archive: Vec<u8>,
    /// The digest of the image index, as `sha256:…`: what a registry shows, and what a signature covers.
    pub(super) digest: String,
}

/// Writes the image of `target`, called `reference` (`registry/name:tag`). `programs` has the program of each
/// architecture.
pub(super) fn image(
    source: &Source,
    target: &Target,
    reference: &str,
    programs: &BTreeMap<&str, Vec<u8>>,
) -> Result<Image> {
    let mut blobs = Blobs::default();
    let labels = labels(source, reference);
    let mut manifests = Vec::new();
    for (architecture, program) in programs {
        let mut layer = Files::default();
        layer.add_program(&target.program, program.clone());
        let layer = layer.tar(source.time)?;
        let config = json!({
            "created": source.date()?,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": target.user,
                "Entrypoint": target.entrypoint,
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
            "history": [{ "created": source.date()?, "created_by": "cargo xtask release" }],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blobs.add_json(CONFIG, &config)?,
            "layers": [blobs.add(LAYER, gzip(&layer)?)],
            "annotations": labels,
        });
        let mut descriptor = blobs.add_json(MANIFEST, &manifest)?;
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        manifests.push(descriptor);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": labels,
    });
    let mut descriptor = blobs.add_json(INDEX, &index)?;
    let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
    // The first is the tag, by the standard; the second is the name under which containerd stores the image.
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": source.version.to_string(),
        "io.containerd.image.name": reference,
    });
    let layout = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
    let mut files = blobs.0;
    files.add("index.json", serde_json::to_vec(&layout)?);
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let archive = files.tar(source.time)?;
    Ok(Image { archive, digest })
}

fn labels(source: &Source, reference: &str) -> Value {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let name = name.split(':').next().unwrap_or(name);
    json!({
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.revision": source.commit,
        "org.opencontainers.image.title": format!("ambit {name}"),
        "org.opencontainers.image.version": source.version.to_string(),
    })
}

/// The content of an image layout, by digest.
#[derive(Default)]
struct Blobs(Files);

impl Blobs {
    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = sha256(&content);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        });
        self.0.add(&format!("blobs/sha256/{digest}"), content);
        descriptor
    }

    fn add_json(&mut self, media_type: &str, content: &Value) -> Result<Value> {
        Ok(self.add(media_type, serde_json::to_vec(content)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_index_with_a_manifest_of_each_platform() {
        let target = Target {
            program: "tool".to_owned(),
            user: "1:2".to_owned(),
            entrypoint: vec!["/tool".to_owned()],
        };
        let programs = BTreeMap::from([("amd64", b"x86".to_vec()), ("arm64", b"arm".to_vec())]);
        let source = Source::example();
        let image = image(&source, &target, "registry.example/ambit/tool:1.2.3", &programs).unwrap();
        let files = read(&image.archive);
        let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let content = &files[&digest.replacen("sha256:", "blobs/sha256/", 1)];
            assert_eq!(format!("sha256:{}", sha256(content)), digest);
            assert_eq!(content.len(), descriptor["size"]);
            content.clone()
        };
        let parse = |content: Vec<u8>| serde_json::from_slice::<Value>(&content).unwrap();

        let top = &json("index.json")["manifests"][0];
        assert_eq!(top["digest"], image.digest.as_str());
        let index = parse(blob(top));
        let mut architectures = Vec::new();
        for descriptor in index["manifests"].as_array().unwrap() {
            let manifest = parse(blob(descriptor));
            let config = parse(blob(&manifest["config"]));
            assert_eq!(config["config"]["User"], "1:2");
            assert_eq!(config["config"]["Entrypoint"], json!(["/tool"]));
            assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
            let layer = Files::from_tar_gz(&blob(&manifest["layers"][0])).unwrap();
            let mut expected = Files::default();
            let architecture = config["architecture"].as_str().unwrap().to_owned();
            expected.add_program("tool", programs[architecture.as_str()].clone());
            assert_eq!(layer, expected);
            let unpacked = sha256(&layer.tar(source.time).unwrap());
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{unpacked}"));
            architectures.push(architecture);
        }
        assert_eq!(architectures, ["amd64", "arm64"]);
    }

    fn read(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            files.insert(name, content);
        }
        files
    }
}
