//! An image of software as people run it: databases, a cache, web servers and their clients, as Debian packages them.
//!
//! The packages are unpacked, not installed: nothing of them runs while the image is made, and the machine has none of
//! them after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Progress, cache_dir, image, lock};
use crate::shell;

/// The image's name on the cluster.
pub const SOFTWARE_IMAGE: &str = "localhost/ambit/software:1";

/// What is in the image. A change makes a new one.
const PACKAGES: &[&str] = &[
    "apache2-utils",
    "bash",
    "busybox",
    "coreutils",
    "curl",
    "dash",
    "grep",
    "gunicorn",
    "haproxy",
    "hostname",
    "mariadb-client-core",
    "mariadb-server-core",
    "mawk",
    "netcat-openbsd",
    "nginx-light",
    "nodejs",
    "postgresql-15",
    "redis-server",
    "sed",
    "util-linux",
];

/// Packages that are depended upon, and not needed for what the tests run: just-in-time compilation, Perl, installers.
const LEFT_OUT: &[&str] = &[
    "adduser", "debconf", "dpkg", "libllvm", "libperl", "libz3", "locales", "perl",
];

/// Parts of packages that no program needs.
const UNNEEDED: &[&str] = &[
    "usr/lib/postgresql/15/lib/bitcode",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
];

/// PostgreSQL's own programs first: those in `/usr/bin` choose between versions, in Perl.
const PATH: &str = "PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nmysql:x:101:101::/:/bin/sh\n\
    postgres:x:102:102::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nmysql:x:101:\npostgres:x:102:\nnogroup:x:65534:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// The docker archive of the image, made first where the cache has none.
///
/// # Errors
/// When the packages cannot be had, on a system without apt for example.
pub fn software(progress: Progress) -> Result<PathBuf> {
    let cache = cache_dir()?.join("tools");
    let list = PACKAGES
        .iter()
        .chain(LEFT_OUT)
        .chain(UNNEEDED)
        .chain([&PATH])
        .copied();
    let dir = cache.join(format!(
        "software-{}",
        image::digest(Vec::from_iter(list).join(" ").as_bytes())
    ));
    let _lock = lock(&cache.join("software.lock"))?;
    let archive = dir.join("software.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    progress(
        "fetching MariaDB, PostgreSQL, redis, nginx, HAProxy, Node.js and gunicorn with apt-get: the image of real software; none is installed",
    );
    let work = cache.join("software-work");
    remove(&work)?;
    let root = work.join("root");
    let layer = work.join("layer.tar");
    let made = fetch(&work)
        .and_then(|packages| unpack(&packages, &root))
        .and_then(|()| finish(&root))
        .and_then(|()| pack(&root, &layer))
        .and_then(|()| image::write_layer(&work.join("software.tar"), SOFTWARE_IMAGE, &[PATH], &layer));
    let made = made.and_then(|()| {
        fs::create_dir_all(&dir)?;
        fs::rename(work.join("software.tar"), &archive).context("cannot keep the image")
    });
    let removed = remove(&work);
    made.and(removed)?;
    Ok(archive)
}

/// Downloads the packages and all that they depend on, as for a system that has nothing.
fn fetch(work: &Path) -> Result<Vec<PathBuf>> {
    let packages = work.join("packages");
    fs::create_dir_all(packages.join("partial"))?;
    let nothing = work.join("status");
    fs::write(&nothing, "")?;
    let download = || {
        shell::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args([
                    "install",
                    "--yes",
                    "-qq",
                    "--download-only",
                    "--no-install-recommends",
                ])
                .arg("--option=Debug::NoLocking=1")
                .arg(format!("--option=Dir::State::status={}", nothing.display()))
                .arg(format!("--option=Dir::Cache::archives={}", packages.display()))
                .args(PACKAGES),
        )
    };
    // The lists may be missing, or older than what the archive has now.
    if download().is_err() {
        shell::run(Command::new("apt-get").args(["update", "-qq"]))
            .context("cannot refresh the package lists")?;
        download().context("cannot download the packages")?;
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&packages)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".deb") && !LEFT_OUT.iter().any(|left| name.starts_with(left)) {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("apt-get downloaded nothing to {}", packages.display());
    }
    found.sort();
    Ok(found)
}

fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    for (link, folder) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        fs::create_dir_all(root.join(folder))?;
        symlink(folder, root.join(link))?;
    }
    for package in packages {
        let unpack = "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --keep-directory-symlink --directory \"$2\" --file -";
        shell::run(
            Command::new("bash")
                .args(["-o", "pipefail", "-c", unpack, "unpack"])
                .args([package, root]),
        )?;
    }
    UNNEEDED.iter().try_for_each(|path| remove(&root.join(path)))
}

/// What the packages' own scripts would have done, as far as the programs need it.
fn finish(root: &Path) -> Result<()> {
    for (file, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NSSWITCH),
    ] {
        fs::write(root.join(file), text)?;
    }
    for dir in ["dev", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let awk = root.join("usr/bin/awk");
    if !awk.exists() {
        symlink("mawk", awk)?;
    }
    shell::run(Command::new("ldconfig").arg("-r").arg(root)).map(drop)
}

fn pack(root: &Path, layer: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--file"]);
    shell::run(tar.arg(layer).arg("--directory").arg(root).arg(".")).map(drop)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
