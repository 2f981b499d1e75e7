//! `cargo xtask crds`: the CustomResourceDefinitions of the chart.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::workspace;

/// Generate or check.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail if the files differ from the types.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if arguments.check {
        check(progress)
    } else {
        generate(progress)
    }
}

/// Fails if a file of the chart differs from the types.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    let dir = dir();
    let expected = ambit_crds::generate()?;
    let mut wrong: Vec<String> = Vec::new();
    for (name, text) in &expected {
        match fs::read_to_string(dir.join(name)) {
            Ok(found) if found == *text => {}
            Ok(_) => wrong.push(format!("{name} differs")),
            Err(_) => wrong.push(format!("{name} is missing")),
        }
    }
    for name in present()? {
        if !expected.iter().any(|(expected, _)| *expected == name) {
            wrong.push(format!("{name} belongs to no kind"));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{} does not match the types in crds/src: {}; run `cargo xtask crds` and commit the result",
            dir.display(),
            wrong.join(", ")
        );
    }
    progress.note(&format!(
        "{} definitions in {} are up to date",
        expected.len(),
        dir.display()
    ));
    Ok(())
}

fn generate(progress: &Progress) -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let wanted = ambit_crds::generate()?;
    for (name, text) in &wanted {
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|found| found == *text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        progress.note(&format!("wrote {}", path.display()));
    }
    for name in present()? {
        if !wanted.iter().any(|(wanted, _)| *wanted == name) {
            let path = dir.join(&name);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            progress.note(&format!("removed {}", path.display()));
        }
    }
    Ok(())
}

fn dir() -> PathBuf {
    workspace::root().join("charts/ambit/files/crds")
}

fn present() -> Result<Vec<String>> {
    let dir = dir();
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
