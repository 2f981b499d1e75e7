//! Files and directories of the agent on the node.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

/// Creates a directory, or sets the permissions of an existing one.
pub(crate) fn private_directory(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<()> {
    let name = |e: io::Error| io::Error::new(e.kind(), format!("directory {}: {e}", path.display()));
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(name)?,
    }
    chown(path, None, gid).map_err(name)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(name)
}

/// Replaces the file at `path` atomically. The file is on disk when this returns.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, file) = write_beside(path, content, mode)?;
    drop(file);
    std::fs::rename(temporary, path)
}

/// The same, with the permissions and, if permitted, the owner of another file.
pub(crate) fn write_atomically_like(path: &Path, content: &[u8], like: &std::fs::Metadata) -> io::Result<()> {
    let (temporary, file) = write_beside(path, content, like.mode() & 0o777)?;
    if let Err(e) = fchown(&file, Some(like.uid()), Some(like.gid())) {
        tracing::debug!(path = %path.display(), error = %e, "the file's owner is this process's");
    }
    std::fs::rename(temporary, path)
}

fn write_beside(path: &Path, content: &[u8], mode: u32) -> io::Result<(PathBuf, std::fs::File)> {
    // The name begins with a dot, and ends in neither .conf nor .conflist: no program reads it as configuration.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    // Independent of the umask.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok((temporary, file))
}
