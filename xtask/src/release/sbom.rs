//! Software bills of materials in CycloneDX's JSON: what is linked into each program, and nothing else.
//!
//! `cargo tree` says which crates and features a build of the programs compiles for a platform; tools that read `cargo
//! metadata` list dependencies of tests, build scripts and macros, too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Source;
use super::archive::sha256;
use super::platform::Platform;
use crate::images::Image;
use crate::workspace::{self, cargo};

/// The dependencies of all programs together, as one build of them compiles them.
#[derive(Default)]
pub(super) struct Linked {
    packages: BTreeMap<String, Package>,
    /// By reference of a package, those that it uses.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// What of the toolchain is in every program.
    toolchain: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    licence: String,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// A crate of a registry, with the SHA-256 digest of its source.
    Registry(String),
    Workspace,
    Toolchain,
}

impl Package {
    fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn component(&self) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
            "scope": "required",
        });
        if !self.licence.is_empty() {
            // The slash is how old manifests write OR.
            let expression = self.licence.replace('/', " OR ");
            component["licenses"] = json!([{ "expression": expression }]);
        }
        match &self.origin {
            Origin::Registry(digest) => {
                component["purl"] = json!(format!("pkg:cargo/{}", self.reference()));
                component["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
            }
            Origin::Toolchain => component["purl"] = json!(format!("pkg:generic/{}", self.reference())),
            Origin::Workspace => {}
        }
        component
    }
}

impl Linked {
    /// The dependencies of the programs of `images` on all of `platforms`.
    pub(super) fn read(images: &[&Image], platforms: &[Platform]) -> Result<Self> {
        let lock = std::fs::read_to_string(workspace::root().join("Cargo.lock"))?;
        let digests = digests(&lock);
        let mut linked = Self::default();
        for platform in platforms {
            let mut tree = cargo(&["tree", "--quiet", "--locked", "--target", platform.triple]);
            tree.args(["--edges", "normal,no-proc-macro", "--prefix", "depth"]);
            tree.args(["--charset", "ascii", "--format", "\t{p}\t{l}\t"]);
            for image in images {
                tree.args(["--package", image.package]);
            }
            linked.add_tree(&workspace::output(&mut tree)?, &digests)?;
            for (name, version, licence) in platform.runtime()? {
                linked.add_toolchain(name, &version, licence);
            }
        }
        Ok(linked)
    }

    /// Adds what `cargo tree` prints: a line for each package, with its depth, name and version, and licence.
    fn add_tree(&mut self, tree: &str, digests: &BTreeMap<String, String>) -> Result<()> {
        let mut above: Vec<String> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let package = parse(line, digests).with_context(|| format!("`cargo tree` printed `{line}`"))?;
            let (depth, package) = package;
            let reference = package.reference();
            above.truncate(depth);
            if let Some(user) = above.last() {
                let uses = self.uses.entry(user.clone()).or_default();
                uses.insert(reference.clone());
            }
            above.push(reference.clone());
            self.packages.insert(reference, package);
        }
        Ok(())
    }

    fn add_toolchain(&mut self, name: &str, version: &str, licence: &str) {
        let package = Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
            origin: Origin::Toolchain,
        };
        self.toolchain.insert(package.reference());
        self.packages.insert(package.reference(), package);
    }

    /// The bill of materials of one image. `digest` is that of its index.
    pub(super) fn bill(
        &self,
        source: &Source,
        package: &str,
        reference: &str,
        digest: &str,
    ) -> Result<Value> {
        let root = self
            .packages
            .values()
            .find(|found| found.name == package && found.origin == Origin::Workspace)
            .with_context(|| format!("`cargo tree` has no package {package}"))?
            .reference();
        let mut linked = self.toolchain.clone();
        let mut next = vec![root.clone()];
        while let Some(reference) = next.pop() {
            if linked.insert(reference.clone()) {
                next.extend(self.uses.get(&reference).into_iter().flatten().cloned());
            }
        }
        let (name, _) = reference.rsplit_once(':').context("an image has a tag")?;
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        let image = json!({
            "type": "container",
            "bom-ref": reference,
            "name": name,
            "version": source.version.to_string(),
            "licenses": [{ "expression": "Apache-2.0" }],
            "hashes": [{ "alg": "SHA-256", "content": digest }],
        });
        let components: Vec<Value> = linked
            .iter()
            .filter_map(|reference| Some(self.packages.get(reference)?.component()))
            .collect();
        let below_image: BTreeSet<&String> = self.toolchain.iter().chain([&root]).collect();
        let mut dependencies = vec![json!({ "ref": reference, "dependsOn": below_image })];
        dependencies.extend(linked.iter().map(|reference| {
            let uses = self.uses.get(reference).cloned().unwrap_or_default();
            json!({ "ref": reference, "dependsOn": uses })
        }));
        let mut bill = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": source.date()?,
                "tools": { "components": [{ "type": "application", "name": "cargo xtask release" }] },
                "component": image,
            },
            "components": components,
            "dependencies": dependencies,
        });
        // A number of its own for each content, and the same for the same content.
        bill["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&sha256(&serde_json::to_vec(&bill)?))));
        Ok(bill)
    }
}

/// A line of `cargo tree`: the depth, and the package.
fn parse(line: &str, digests: &BTreeMap<String, String>) -> Result<(usize, Package)> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().context("a field is missing");
    let depth = field()?.parse()?;
    let (id, licence) = (field()?, field()?);
    let (name, rest) = id.split_once(" v").context("there is no version")?;
    let (version, place) = rest.split_once(' ').unwrap_or((rest, ""));
    let origin = if place.starts_with("(/") {
        Origin::Workspace
    } else {
        let digest = digests.get(&format!("{name}@{version}"));
        Origin::Registry(digest.context("Cargo.lock has no checksum of it")?.clone())
    };
    let package = Package {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: licence.to_owned(),
        origin,
    };
    if package.licence.contains('\n') || package.version.is_empty() {
        bail!("the version is empty");
    }
    Ok((depth, package))
}

/// The digests of the crates' sources in Cargo.lock, by `name@version`.
fn digests(lock: &str) -> BTreeMap<String, String> {
    let value = |package: &str, key: &str| {
        let line = package
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|package| {
            let id = format!("{}@{}", value(package, "name")?, value(package, "version")?);
            Some((id, value(package, "checksum")?))
        })
        .collect()
}

/// A UUID made of a digest (version 8 of RFC 9562).
fn uuid(digest: &str) -> String {
    format!(
        "{}-{}-8{}-8{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[12..15],
        &digest[15..18],
        &digest[18..30]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::IMAGES;
    use crate::release::platform::PLATFORMS;

    const TREE: &str = "0\tagent v0.1.0 (/clone/agent)\tApache-2.0\t\n1\tserde v1.0.2\tMIT/Apache-2.0\t\n\
        2\tserde_core v1.0.2\tMIT\t\n1\twire v0.1.0 (/clone/wire)\tApache-2.0\t\n2\tserde v1.0.2\tMIT/Apache-2.0\t (*)\n\n\
        0\toperator v0.1.0 (/clone/operator)\tApache-2.0\t\n1\tkube v4.2.0\tApache-2.0\t\n2\tserde v1.0.2\tMIT/Apache-2.0\t (*)\n";
    const LOCK: &str = "[[package]]\nname = \"serde\"\nversion = \"1.0.2\"\nsource = \"registry\"\nchecksum = \"aa\"\n\n\
        [[package]]\nname = \"serde_core\"\nversion = \"1.0.2\"\nchecksum = \"bb\"\n\n\
        [[package]]\nname = \"kube\"\nversion = \"4.2.0\"\nchecksum = \"cc\"\n";

    fn names(bill: &Value) -> Vec<&str> {
        let components = bill["components"].as_array().unwrap();
        components
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn a_bill_lists_what_its_program_uses_and_no_more() {
        let mut linked = Linked::default();
        linked.add_tree(TREE, &digests(LOCK)).unwrap();
        linked.add_toolchain("glibc", "2.36", "LGPL-2.1-or-later");
        let source = Source::example();
        let bill = |package, image| linked.bill(&source, package, image, "sha256:ff").unwrap();
        let agent = bill("agent", "registry.example:5000/ambit/agent:1.2.3");
        assert_eq!(names(&agent), ["agent", "glibc", "serde", "serde_core", "wire"]);
        assert_eq!(
            names(&bill("operator", "x/operator:1.2.3")),
            ["glibc", "kube", "operator", "serde", "serde_core"]
        );
        let serde = &agent["components"][2];
        assert_eq!(serde["purl"], "pkg:cargo/serde@1.0.2");
        assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(serde["hashes"][0]["content"], "aa");
        assert_eq!(
            agent["metadata"]["component"]["name"],
            "registry.example:5000/ambit/agent"
        );
        let wire = agent["dependencies"].as_array().unwrap();
        let wire = wire.iter().find(|one| one["ref"] == "wire@0.1.0").unwrap();
        assert_eq!(wire["dependsOn"], json!(["serde@1.0.2"]));
        assert_eq!(agent, bill("agent", "registry.example:5000/ambit/agent:1.2.3"));
        assert!(linked.bill(&source, "nobody", "x:1", "sha256:ff").is_err());
    }

    #[test]
    fn the_real_programs_have_no_crate_of_tests_macros_or_build_scripts() {
        let images: Vec<&Image> = IMAGES.iter().collect();
        let linked = Linked::read(&images, &PLATFORMS[..1]).unwrap();
        let bill = linked
            .bill(
                &Source::example(),
                "ambit-ztunnel",
                "x/ztunnel:1.2.3",
                "sha256:ff",
            )
            .unwrap();
        let names = names(&bill);
        for linked in [
            "ambit-ztunnel",
            "ambit-hbone",
            "rustls",
            "tokio",
            "aws-lc-sys",
            "rust-std",
            "glibc",
        ] {
            assert!(names.contains(&linked), "{linked} is missing");
        }
        // A test's, a macro's, a build script's and the operator's.
        for other in ["tempfile", "syn", "serde_derive", "protox", "cc", "kube"] {
            assert!(!names.contains(&other), "{other} is not linked");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_quoted() {
        let error = Linked::default()
            .add_tree("0\tnothing\tMIT\t\n", &BTreeMap::new())
            .unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
