//! An image of programs in Go: gRPC's interoperation tests, client and server, and an HTTP server of the standard library.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::build::{fingerprint, go, go_build, install};
use super::image::{File, write_files};
use super::{Progress, cache_dir, lock};

/// The image's name on the cluster. It runs nothing by itself.
pub const INTEROP_IMAGE: &str = "localhost/ambit/interop:1";

/// The programs, which lie in the root of the image: their packages, and their names.
const PROGRAMS: [(&str, &str); 3] = [
    ("./http", "http"),
    ("google.golang.org/grpc/interop/client", "client"),
    ("google.golang.org/grpc/interop/server", "server"),
];

/// The docker archive of the image, made first if this version never was.
///
/// # Errors
/// When Go is missing, or a program does not build.
pub fn interop(progress: Progress) -> Result<PathBuf> {
    let module = crate::workspace().join("e2e/interop");
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("interop-{}", &fingerprint(&module)?[..16]));
    let _lock = lock(&cache.join("interop.lock"))?;
    if !dir.is_dir() {
        progress("building gRPC's interoperation tests from their Go module (about 2 minutes, once)");
        install(&dir, |out| {
            let mut go = go()?;
            go.current_dir(&module)
                .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                .args(["-ldflags", "-s -w", "-o"])
                .arg(format!("{}/", out.display()));
            let packages = PROGRAMS.map(|(package, _)| package);
            go_build(&mut go, &packages, "gRPC's interoperation tests", progress)?;
            let read = |(_, name): (&str, &str)| {
                let path = out.join(name);
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                let path = name.to_owned();
                Ok(File {
                    path,
                    mode: 0o755,
                    content,
                })
            };
            let files = PROGRAMS.into_iter().map(read).collect::<Result<Vec<File>>>()?;
            let config = json!({ "WorkingDir": "/" });
            write_files(&out.join("interop.tar"), INTEROP_IMAGE, &config, &files).map(drop)
        })?;
    }
    Ok(dir.join("interop.tar"))
}
