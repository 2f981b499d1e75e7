//! `cargo xtask release --dry-run`: the files of a release, from a commit, without the network, and the same each time.

mod archive;
mod chart;
mod check;
mod dockerfile;
mod notes;
mod oci;
mod platform;
mod sbom;
mod source;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ambit_e2e::tools;
use anyhow::{Context, Result, bail};

pub(crate) use check::check;
pub(crate) use dockerfile::Target;

use crate::images::{IMAGES, Image};
use crate::progress::Progress;
use crate::workspace;
use archive::sha256;
use platform::{PLATFORMS, Platform};
use sbom::Linked;
use source::Source;

/// The file that says of all others what they have to be.
const CHECKSUMS: &str = "SHA256SUMS";

/// What to release.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Make the files and publish nothing. It has to be there: publishing is the release workflow's work.
    #[arg(long)]
    dry_run: bool,
    /// Only package what `cargo xtask images` compiled, twice, and compare: `cargo xtask test --all` does it, too.
    #[arg(long)]
    check: bool,
    /// The version: that of Cargo.toml, or a pre-release of it, like 0.1.0-rc.1 [default: that of Cargo.toml].
    #[arg(long)]
    version: Option<String>,
    /// The folder for the files [default: target/release-VERSION]. A release that is in it is replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The registry, and the path in it, of the images.
    #[arg(long, default_value = chart::REGISTRY)]
    registry: String,
    /// Fail where a platform cannot be built here, instead of leaving it out.
    #[arg(long)]
    require_all_platforms: bool,
    /// Make them of a work tree with changes that no commit has.
    #[arg(long)]
    allow_dirty: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if arguments.check {
        tools::ensure_packages(&|message| progress.note(message))?;
        return check(progress);
    }
    if !arguments.dry_run {
        bail!(
            "publishing is the work of .github/workflows/release.yaml, which runs for a tag and signs with its own identity; \
             `cargo xtask release --dry-run` makes the same files here"
        );
    }
    let source = Source::checked_out(arguments.version.as_deref())?;
    if source.dirty && !arguments.allow_dirty {
        bail!(
            "the work tree has changes that commit {} does not have (`git status`): commit them, or pass --allow-dirty",
            source.commit
        );
    }
    source::ensure_history()?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => workspace::target().join(format!("release-{}", source.version)),
    };
    make_room(&out)?;
    let images: Vec<&Image> = released().collect();
    let (platforms, missing) = platforms(arguments.require_all_platforms, progress)?;
    let mut built = Vec::new();
    for platform in platforms {
        let step = format!("compile for {}", platform.architecture);
        built.push((
            platform,
            progress.step(&step, || platform.compile(&images, progress))?,
        ));
    }
    let release = Release {
        source,
        registry: arguments.registry.clone(),
        built,
        missing,
    };
    progress.step("package", || release.write(&out, progress))?;
    println!("{}", out.display());
    Ok(())
}

/// The images that are published: all but the load of the benchmarks.
fn released() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter(|image| image.target != "bench")
}

/// The platforms that can be built here, and the architectures that cannot.
fn platforms(require_all: bool, progress: &Progress) -> Result<(Vec<Platform>, Vec<&'static str>)> {
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for platform in PLATFORMS {
        match platform.missing()? {
            None => present.push(*platform),
            Some(what) if require_all => {
                bail!("{} cannot be built here: install {what}", platform.architecture)
            }
            Some(what) => {
                progress.note(&format!("{} is left out: it needs {what}", platform.architecture));
                missing.push(platform.architecture);
            }
        }
    }
    if present.is_empty() {
        bail!("no platform can be built here");
    }
    Ok((present, missing))
}

/// A release, compiled.
struct Release {
    source: Source,
    registry: String,
    /// The folder of the programs, for each platform.
    built: Vec<(Platform, PathBuf)>,
    /// Architectures that were left out.
    missing: Vec<&'static str>,
}

impl Release {
    /// Writes all files into `out`.
    fn write(&self, out: &Path, progress: &Progress) -> Result<()> {
        let mut files = BTreeMap::new();
        let dockerfile =
            fs::read_to_string(workspace::root().join("Dockerfile")).context("cannot read Dockerfile")?;
        let images: Vec<&Image> = released().collect();
        let platforms: Vec<Platform> = self.built.iter().map(|(platform, _)| *platform).collect();
        let linked = Linked::read(&images, &platforms)?;
        let mut digests = String::new();
        for image in images {
            let reference = format!("{}/{}:{}", self.registry, image.target, self.source.version);
            let target = Target::read(&dockerfile, image.target)?;
            let built = oci::image(&self.source, &target, &reference, &self.programs(image)?)?;
            let bill = linked.bill(&self.source, image.package, &reference, &built.digest)?;
            writeln!(digests, "{} {}", image.target, built.digest)?;
            let name = format!("ambit-{}-{}", image.target, self.source.version);
            progress.note(&format!("{reference} {}", built.digest));
            files.insert(format!("{name}.oci.tar"), built.archive);
            files.insert(format!("{name}.cdx.json"), serde_json::to_vec_pretty(&bill)?);
        }
        let scratch = out.with_extension("scratch");
        let chart = chart::package(&self.source, &self.registry, &scratch, progress);
        remove(&scratch)?;
        let chart_name = format!("ambit-{}.tgz", self.source.version);
        files.insert(chart_name.clone(), chart?);
        files.insert("images.txt".to_owned(), digests.clone().into_bytes());
        let notes = notes::notes(&self.source, &self.about(&digests)?)?;
        files.insert("RELEASE_NOTES.md".to_owned(), notes.into_bytes());

        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let write = |name: &str, content: &[u8]| {
            let path = out.join(name);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&chart_name, &files[&chart_name])?;
        let install = chart::install_yaml(&out.join(&chart_name), progress)?;
        files.insert("install.yaml".to_owned(), install.into_bytes());
        for (name, content) in &files {
            write(name, content)?;
        }
        write(CHECKSUMS, checksums(&files)?.as_bytes())
    }

    /// The program of an image on each architecture.
    fn programs(&self, image: &Image) -> Result<BTreeMap<&str, Vec<u8>>> {
        let read = |(platform, dir): &(Platform, PathBuf)| {
            let path = dir.join(image.binary);
            let program = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((platform.architecture, program))
        };
        self.built.iter().map(read).collect()
    }

    /// What the release notes say of the files.
    fn about(&self, digests: &str) -> Result<String> {
        let mut text = String::from("| image | digest |\n|---|---|\n");
        for (name, digest) in digests.lines().filter_map(|line| line.split_once(' ')) {
            writeln!(
                text,
                "| {}/{name}:{} | {digest} |",
                self.registry, self.source.version
            )?;
        }
        let built: Vec<_> = self
            .built
            .iter()
            .map(|(platform, _)| platform.architecture)
            .collect();
        writeln!(
            text,
            "\nPlatforms: {}. Compiled with Rust {}.",
            built.join(", "),
            platform::rust_version()?
        )?;
        if !self.missing.is_empty() {
            writeln!(
                text,
                "Left out, as the machine that made these files cannot build for it: {}.",
                self.missing.join(", ")
            )?;
        }
        text += "How to verify them: docs/releasing.md.\n\n";
        Ok(text)
    }
}

/// The digests of all files, in the format of `sha256sum`.
fn checksums(files: &BTreeMap<String, Vec<u8>>) -> Result<String> {
    let mut text = String::new();
    for (name, content) in files {
        writeln!(text, "{}  {name}", sha256(content))?;
    }
    Ok(text)
}

/// Removes an earlier release from `out`. Nobody's other files are touched.
fn make_room(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(out).with_context(|| format!("cannot read {}", out.display()))?;
    if entries.next().is_some() && !out.join(CHECKSUMS).exists() {
        bail!(
            "{} has files, and they are not those of a release: choose another folder with --out",
            out.display()
        );
    }
    remove(out)
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("ambit-xtask-release-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("letter"), "mine").unwrap();
        let error = make_room(&dir).unwrap_err().to_string();
        assert!(error.contains("--out"), "{error}");
        assert!(dir.join("letter").exists());
        fs::write(dir.join(CHECKSUMS), "").unwrap();
        make_room(&dir).unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn publishing_is_refused() {
        let arguments = Arguments {
            dry_run: false,
            check: false,
            version: None,
            out: None,
            registry: chart::REGISTRY.to_owned(),
            require_all_platforms: false,
            allow_dirty: true,
        };
        let error = run(&arguments, &Progress::new()).unwrap_err().to_string();
        assert!(error.contains(".github/workflows/release.yaml"), "{error}");
    }

    #[test]
    fn checksums_have_the_format_of_sha256sum() {
        let files = BTreeMap::from([("b".to_owned(), b"x".to_vec()), ("a".to_owned(), Vec::new())]);
        assert_eq!(
            checksums(&files).unwrap(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
             2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  b\n"
        );
    }
}
