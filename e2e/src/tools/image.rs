//! Images of one layer, written as archives: no builder and no registry is needed for them.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BLOCK: usize = 512;

/// A file of an image.
pub(super) struct File {
    /// Its path, without the slash at the beginning. Folders on the way are created.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) content: Vec<u8>,
}

/// Writes a docker archive at `archive`: an image called `reference` that holds only `program`, as `/NAME`, and runs
/// it as `user` (`UID:GID`; root by default). Returns the image's id, `sha256:…`.
///
/// # Errors
/// When the program cannot be read, or the archive not be written.
pub fn write_image(archive: &Path, reference: &str, program: &Path, user: Option<&str>) -> Result<String> {
    let name = program
        .file_name()
        .context("a program has a name")?
        .to_string_lossy()
        .into_owned();
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut config = json!({ "Entrypoint": [format!("/{name}")], "WorkingDir": "/" });
    if let Some(user) = user {
        config["User"] = json!(user);
    }
    let program = File {
        path: name,
        mode: 0o755,
        content,
    };
    write_files(archive, reference, &config, &[program])
}

/// Writes a docker archive at `archive`: an image called `reference` that holds these files alone. Returns the image's id.
pub(super) fn write_files(archive: &Path, reference: &str, config: &Value, files: &[File]) -> Result<String> {
    let mut layer = Vec::with_capacity(files.iter().map(|file| file.content.len() + 2 * BLOCK).sum());
    for file in files {
        entry(&mut layer, &file.path, file.mode, &file.content)?;
    }
    end(&mut layer)?;
    write(
        archive,
        reference,
        config,
        &digest(&layer),
        layer.len() as u64,
        &mut &*layer,
    )
}

/// Writes a docker archive at `archive`: an image called `reference` of the file system in `layer`, a tar file. It runs
/// nothing by itself.
pub(super) fn write_layer(archive: &Path, reference: &str, environment: &[&str], layer: &Path) -> Result<()> {
    let open = || fs::File::open(layer).with_context(|| format!("cannot read {}", layer.display()));
    let mut hash = Sha256::new();
    let length = io::copy(&mut open()?, &mut hash)?;
    let config = json!({ "Env": environment, "WorkingDir": "/" });
    write(
        archive,
        reference,
        &config,
        &hex(&hash.finalize()),
        length,
        &mut open()?,
    )
    .map(drop)
}

fn write(
    archive: &Path,
    reference: &str,
    config: &Value,
    layer_digest: &str,
    length: u64,
    layer: &mut impl Read,
) -> Result<String> {
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    });
    let config = serde_json::to_vec(&config)?;
    let id = digest(&config);
    let config_name = format!("{id}.json");
    let manifest = json!([{ "Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    let mut file =
        fs::File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    entry(&mut file, &config_name, 0o644, &config)?;
    header(&mut file, "layer.tar", 0o644, length)?;
    io::copy(layer, &mut file)?;
    pad(&mut file, length)?;
    entry(&mut file, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
    end(&mut file)?;
    Ok(format!("sha256:{id}"))
}

/// One file in the ustar format.
fn entry(out: &mut impl Write, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let length = content.len() as u64;
    header(out, name, mode, length)?;
    out.write_all(content)?;
    pad(out, length)
}

fn header(out: &mut impl Write, name: &str, mode: u32, length: u64) -> Result<()> {
    let mut header = [0_u8; BLOCK];
    let mut field =
        |offset: usize, value: &str| header[offset..offset + value.len()].copy_from_slice(value.as_bytes());
    field(0, name);
    field(100, &format!("{mode:07o}"));
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", length));
    field(136, "00000000000");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header)?;
    Ok(())
}

/// Zeros up to the end of the last block of something so long.
fn pad(out: &mut impl Write, length: u64) -> Result<()> {
    let rest = usize::try_from(length % BLOCK as u64)?;
    Ok(out.write_all(&[0; BLOCK][..(BLOCK - rest) % BLOCK])?)
}

fn end(out: &mut impl Write) -> Result<()> {
    Ok(out.write_all(&[0; 2 * BLOCK])?)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SHA-256, in hexadecimal.
pub(super) fn digest(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let dir = std::env::temp_dir().join(format!("ambit-e2e-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("tool"), "x".repeat(700)).unwrap();
        let archive = dir.join("image.tar");
        let id = write_image(&archive, "localhost/tool:1", &dir.join("tool"), Some("1:2")).unwrap();
        let tar = |arguments: &[&str], archive: &Path| {
            let out = Command::new("tar")
                .args(arguments)
                .arg(archive)
                .current_dir(&dir)
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        assert!(tar(&["-tf"], &archive).ends_with("layer.tar\nmanifest.json\n"));
        tar(&["-xf"], &archive);
        assert!(tar(&["-tvf"], &dir.join("layer.tar")).starts_with("-rwxr-xr-x"));
        let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
        assert!(manifest.contains("localhost/tool:1"), "{manifest}");
        let config = fs::read_to_string(dir.join(id.replace("sha256:", "") + ".json")).unwrap();
        assert!(config.contains(r#""User":"1:2""#), "{config}");
        fs::remove_dir_all(dir).unwrap();
    }
}
