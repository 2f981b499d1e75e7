//! Paths of the project, and running cargo and other programs in it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ambit_e2e::long;
use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// The root of the work tree.
pub(crate) use ambit_e2e::workspace as root;

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that started this command, in the root of the project.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command with visible output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = words(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{words}`"))?;
    if !status.success() {
        bail!("`{words}` ended with {status}");
    }
    Ok(())
}

/// Runs a build with cargo, which takes minutes where nothing is compiled yet, and reports how far it is.
pub(crate) fn build(command: &mut Command, name: &str, progress: &Progress) -> Result<()> {
    // The bar goes to standard error even where that is no terminal, and needs a width then.
    command
        .env("CARGO_TERM_PROGRESS_WHEN", "always")
        .env("CARGO_TERM_PROGRESS_WIDTH", "100");
    long::run(command, name, gauge(), &|message| progress.note(message)).map(drop)
}

/// How far cargo is, for each of its lines that says so.
fn gauge() -> impl FnMut(&str) -> Option<String> {
    let mut far = String::new();
    move |line| {
        if let Some(lock) = waits_for(line) {
            return Some(format!(
                "waits for another cargo, which has the lock on the {lock}"
            ));
        }
        match crates_built(line) {
            Some(count) => far = count,
            None if !line.trim_start().starts_with("Compiling ") => return None,
            None => {}
        }
        Some(far.clone())
    }
}

/// What cargo's bar says: `    Building [====>    ] 12/345: serde, syn(build)`.
fn crates_built(line: &str) -> Option<String> {
    let (_, rest) = line.trim_start().strip_prefix("Building [")?.split_once("] ")?;
    let (done, all) = rest.split(':').next()?.split_once('/')?;
    Some(format!("{done} of {all} crates"))
}

/// Cargo's name of what another cargo has locked, where a line says that this one waits for it.
fn waits_for(line: &str) -> Option<&str> {
    line.trim_start()
        .strip_prefix("Blocking waiting for file lock on ")
}

/// Runs a command and returns its output; its errors are shown only if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let words = words(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{words}`"))?;
    if !output.status.success() {
        bail!(
            "`{words}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program and its arguments.
pub(crate) fn words(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::{crates_built, gauge};

    #[test]
    fn how_far_cargo_is_stands_in_its_bar() {
        let bar = "    Building [=====>        ] 112/345: serde, syn(build)";
        assert_eq!(crates_built(bar).as_deref(), Some("112 of 345 crates"));
        assert_eq!(crates_built("   Compiling serde v1.0.0"), None);
        assert_eq!(crates_built("error: Building [x"), None);
    }

    #[test]
    fn waiting_for_another_cargo_is_told_until_it_ends() {
        let mut gauge = gauge();
        let waits = gauge("    Blocking waiting for file lock on build directory");
        assert_eq!(
            waits.as_deref(),
            Some("waits for another cargo, which has the lock on the build directory")
        );
        assert_eq!(gauge("   Compiling serde v1.0.0").as_deref(), Some(""));
        let built = gauge("    Building [===> ] 2/345: serde");
        assert_eq!(built.as_deref(), Some("2 of 345 crates"));
        assert_eq!(gauge("warning: unused"), None);
    }
}
