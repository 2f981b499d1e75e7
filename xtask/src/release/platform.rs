//! The platforms of a release, and the compilation of the programs for each.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::images::{self, Image, Profile};
use crate::progress::Progress;
use crate::workspace::{self, cargo};

/// A platform that images are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Platform {
    /// The architecture as images name it.
    pub(super) architecture: &'static str,
    /// The target as Rust names it.
    pub(super) triple: &'static str,
    /// The C compiler for it on another platform. Debian's package is `gcc-` and what stands before `-gcc`.
    compiler: &'static str,
}

pub(super) const PLATFORMS: &[Platform] = &[
    Platform {
        architecture: "amd64",
        triple: "x86_64-unknown-linux-gnu",
        compiler: "x86_64-linux-gnu-gcc",
    },
    Platform {
        architecture: "arm64",
        triple: "aarch64-unknown-linux-gnu",
        compiler: "aarch64-linux-gnu-gcc",
    },
];

impl Platform {
    /// The C compiler and linker.
    fn compiler(&self) -> Result<&'static str> {
        Ok(if self.triple == images::host()? {
            "cc"
        } else {
            self.compiler
        })
    }

    /// The macros of the C library.
    fn c_macros(&self) -> Result<String> {
        let header = ["-E", "-dM", "-include", "features.h", "-x", "c", "/dev/null"];
        workspace::output(Command::new(self.compiler()?).args(header))
    }

    /// What this machine lacks to build for the platform, and how to install it.
    pub(super) fn missing(&self) -> Result<Option<String>> {
        let mut missing = Vec::new();
        let mut rustc = rustc(&["--print", "target-libdir", "--target", self.triple]);
        let libraries = workspace::output(&mut rustc)?;
        if !has_standard_library(Path::new(libraries.trim())) {
            missing.push(format!(
                "Rust's standard library (`rustup target add {}`)",
                self.triple
            ));
        }
        let compiler = self.compiler()?;
        if workspace::output(Command::new(compiler).arg("--version")).is_err() {
            let package = match compiler.strip_suffix("-gcc") {
                Some(triple) => format!("gcc-{}", triple.replace('_', "-")),
                None => "gcc".to_owned(),
            };
            missing.push(format!(
                "the C compiler `{compiler}` (Debian's package {package})"
            ));
        } else if self.c_macros().is_err() {
            let package = match compiler {
                "cc" => "libc6-dev".to_owned(),
                _ => format!("libc6-dev-{}-cross", self.architecture),
            };
            missing.push(format!(
                "the C library of `{compiler}` (Debian's package {package})"
            ));
        }
        Ok((!missing.is_empty()).then(|| missing.join(" and ")))
    }

    /// Compiles the programs of these images, and returns the folder that has them. The same commit gives the same
    /// bytes, wherever the clone lies: no path of this machine is in them.
    pub(super) fn compile(&self, images: &[&Image], progress: &Progress) -> Result<PathBuf> {
        let mut build = cargo(&[
            "build",
            "--profile",
            Profile::Dist.name(),
            "--locked",
            "--target",
            self.triple,
        ]);
        for image in images {
            build.args(["--package", image.package, "--bin", image.binary]);
        }
        // Settings of the person who builds would change the bytes.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if changes_bytes(&text) {
                build.env_remove(&name);
            }
        }
        let paths = machine_paths()?;
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
        flags.extend(paths.iter().map(|map| format!("--remap-path-prefix={map}")));
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let flags: Vec<_> = paths
            .iter()
            .map(|map| format!("-ffile-prefix-map={map}"))
            .collect();
        let variable = self.triple.replace('-', "_");
        build.env(format!("CFLAGS_{variable}"), flags.join(" "));
        let compiler = self.compiler()?;
        build.env(format!("CC_{variable}"), compiler);
        build.env(
            format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()),
            compiler,
        );
        workspace::build(&mut build, self.triple, progress)?;
        Ok(workspace::target().join(self.triple).join(Profile::Dist.name()))
    }

    /// What of the toolchain is linked into a static program, as name, version and licence.
    pub(super) fn runtime(&self) -> Result<[(&'static str, String, &'static str); 3]> {
        let compiler = self.compiler()?;
        let gcc = workspace::output(Command::new(compiler).args(["-dumpfullversion", "-dumpversion"]))?;
        let gcc_licence = "GPL-3.0-or-later WITH GCC-exception-3.1";
        Ok([
            ("rust-std", rust_version()?, "MIT OR Apache-2.0"),
            ("glibc", glibc_version(&self.c_macros()?)?, "LGPL-2.1-or-later"),
            ("libgcc", gcc.trim().to_owned(), gcc_licence),
        ])
    }
}

/// A variable of this name changes what cargo, the crate `cc` or the build of AWS-LC makes. Flags of this command are set
/// after all of these are removed.
fn changes_bytes(variable: &str) -> bool {
    let beginnings = ["CARGO_PROFILE_", "CARGO_INCREMENTAL", "CFLAGS", "AWS_LC_SYS_"];
    beginnings.iter().any(|beginning| variable.starts_with(beginning))
        || matches!(variable, "RUSTFLAGS" | "TARGET_CFLAGS")
}

/// The folder holds Rust's standard library.
fn has_standard_library(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libstd-"))
}

fn rustc(arguments: &[&str]) -> Command {
    let mut rustc = Command::new("rustc");
    rustc.args(arguments).current_dir(workspace::root());
    rustc
}

/// The version of rustc and its standard library, like `1.95.0`.
pub(super) fn rust_version() -> Result<String> {
    field(&workspace::output(&mut rustc(&["-vV"]))?, "release: ")
}

/// The value of a line of `rustc -vV`.
fn field(text: &str, name: &str) -> Result<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(value
        .with_context(|| format!("`rustc -vV` has no line `{name}`"))?
        .to_owned())
}

/// The version of glibc among the macros of its header.
fn glibc_version(macros: &str) -> Result<String> {
    let value = |name: &str| {
        macros.lines().find_map(|line| {
            line.strip_prefix("#define ")?
                .strip_prefix(name)?
                .strip_prefix(' ')
        })
    };
    match (value("__GLIBC__"), value("__GLIBC_MINOR__")) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => bail!("the C library is not glibc: a release is linked with that"),
    }
}

/// Folders of this machine whose names compilers put into programs, each with what to put instead, as `FROM=TO`. Where
/// one holds another, the later counts.
fn machine_paths() -> Result<Vec<String>> {
    let mut maps = vec![
        (workspace::root().to_owned(), "/ambit".to_owned()),
        (workspace::target(), "/ambit/target".to_owned()),
    ];
    let cargo_home = match env::var_os("CARGO_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let registries = cargo_home.join("registry/src");
    let entries =
        fs::read_dir(&registries).with_context(|| format!("cannot read {}", registries.display()))?;
    for entry in entries {
        maps.push((entry?.path(), "/cargo/registry".to_owned()));
    }
    // Where the component rust-src is installed, rustc names the standard library's files by their place in it.
    let sysroot = workspace::output(&mut rustc(&["--print", "sysroot"]))?;
    let hash = field(&workspace::output(&mut rustc(&["-vV"]))?, "commit-hash: ")?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    maps.push((library, format!("/rustc/{hash}")));
    Ok(maps
        .into_iter()
        .map(|(from, to)| format!("{}={to}", from.display()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_without_its_standard_library_is_missing_it() {
        assert!(!has_standard_library(Path::new("/nowhere")));
        let nowhere = Platform {
            architecture: "riscv64",
            triple: "riscv64gc-unknown-linux-gnu",
            compiler: "riscv64_of_nobody-linux-gnu-gcc",
        };
        let missing = nowhere.missing().unwrap().unwrap();
        assert!(
            missing.contains("rustup target add riscv64gc-unknown-linux-gnu"),
            "{missing}"
        );
        assert!(
            missing.contains("Debian's package gcc-riscv64-of-nobody-linux-gnu"),
            "{missing}"
        );
    }

    #[test]
    fn settings_that_change_the_bytes_are_known() {
        for changes in [
            "RUSTFLAGS",
            "CARGO_PROFILE_DIST_LTO",
            "CARGO_INCREMENTAL",
            "CFLAGS_aarch64-unknown-linux-gnu",
            "AWS_LC_SYS_NO_ASM",
        ] {
            assert!(changes_bytes(changes), "{changes}");
        }
        for changes_not in ["CARGO_HOME", "CARGO_TARGET_DIR", "PATH", "RUSTUP_HOME"] {
            assert!(!changes_bytes(changes_not), "{changes_not}");
        }
    }

    /// Cargo's variable for the folder of a package: no flag maps what `env!` makes of it, and unused code that has it
    /// changes a program, too.
    #[test]
    fn no_source_takes_the_folder_it_is_compiled_in() {
        let macro_of = ["env!(\"CARGO", "MANIFEST"].join("_");
        let mut grep = Command::new("git");
        grep.args([
            "grep",
            "--line-number",
            "--fixed-strings",
            &macro_of,
            "--",
            "*.rs",
        ]);
        let found = grep.current_dir(workspace::root()).output().unwrap();
        let lines = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.code(), Some(1), "{lines}");
    }

    #[test]
    fn this_machine_can_build_for_itself() {
        let host = images::host().unwrap();
        for platform in PLATFORMS.iter().filter(|platform| platform.triple == host) {
            assert_eq!(platform.missing().unwrap(), None);
        }
    }

    #[test]
    fn the_version_of_glibc_is_read_from_its_macros() {
        let macros = "#define __GLIBC_MINOR__ 36\n#define __GLIBC__ 2\n#define __GLIBC_USE(F) 1\n";
        assert_eq!(glibc_version(macros).unwrap(), "2.36");
        assert!(glibc_version("#define A 1\n").is_err());
    }
}
