//! An image of programs in Go: gRPC's interoperation tests, client and server, and an HTTP server of the standard library.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::Progress;
use super::build::go_module;
use super::image::{File, write_files};

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
    let packages = PROGRAMS.map(|(package, _)| package);
    let title = "gRPC's interoperation tests";
    let why = "they go through a waypoint (about 2 minutes, once)";
    let dir = go_module("interop", title, why, &packages, progress, |_, out| {
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
    Ok(dir.join("interop.tar"))
}
