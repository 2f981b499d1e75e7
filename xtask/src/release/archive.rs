//! Archives whose bytes depend on their content alone: entries are sorted, owned by root and dated by the commit.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

/// The regular files of an archive, by path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files(BTreeMap<String, File>);

#[derive(Debug, PartialEq, Eq)]
struct File {
    executable: bool,
    content: Vec<u8>,
}

impl Files {
    /// Adds a file that everybody may read.
    pub(super) fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, false, content.into());
    }

    /// Adds a program that everybody may run.
    pub(super) fn add_program(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, true, content.into());
    }

    /// Path and content of each file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(path, file)| (path.as_str(), file.content.as_slice()))
    }

    /// The regular files of a compressed tar archive. Times, owners and the order of entries are dropped.
    pub(super) fn from_tar_gz(archive: &[u8]) -> Result<Self> {
        let mut files = Self::default();
        for entry in Archive::new(GzDecoder::new(archive)).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type() != EntryType::Regular {
                continue;
            }
            let path = entry.path()?.to_string_lossy().into_owned();
            let executable = entry.header().mode()? & 0o100 != 0;
            let mut content = Vec::new();
            entry
                .read_to_end(&mut content)
                .with_context(|| format!("cannot read {path} in the archive"))?;
            files.insert(&path, executable, content);
        }
        Ok(files)
    }

    /// A tar archive of these files. `time` is the modification time of each, in seconds since 1970.
    pub(super) fn tar(&self, time: u64) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, file) in &self.0 {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(time);
            header.set_size(file.content.len() as u64);
            archive
                .append_data(&mut header, path, file.content.as_slice())
                .with_context(|| format!("cannot add {path} to the archive"))?;
        }
        Ok(archive.into_inner()?)
    }

    fn insert(&mut self, path: &str, executable: bool, content: Vec<u8>) {
        self.0.insert(path.to_owned(), File { executable, content });
    }
}

/// Compresses `content`. The gzip header carries neither a time nor a file name.
pub(super) fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, content)?;
    Ok(encoder.finish()?)
}

/// The SHA-256 digest in hexadecimal.
pub(super) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive as another tool writes it.
    fn foreign(time: u64, names: &[&str]) -> Vec<u8> {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for name in names {
            let mut header = Header::new_gnu();
            header.set_mode(0o600);
            header.set_uid(1000);
            header.set_mtime(time);
            header.set_size(name.len() as u64);
            archive.append_data(&mut header, name, name.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn order_time_and_owner_do_not_change_the_bytes() {
        let repack = |archive: &[u8]| gzip(&Files::from_tar_gz(archive).unwrap().tar(7).unwrap()).unwrap();
        let (one, other) = (foreign(1, &["b/x", "a"]), foreign(2, &["a", "b/x"]));
        assert_ne!(one, other);
        assert_eq!(repack(&one), repack(&other));
        assert_ne!(repack(&one), repack(&foreign(1, &["b/x", "c"])));
    }

    #[test]
    fn entries_are_sorted_dated_and_owned_by_root() {
        let mut files = Files::default();
        files.add_program("program", "run");
        files.add("a-file", "read");
        let bytes = files.tar(1_700_000_000).unwrap();
        let mut archive = Archive::new(bytes.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                let name = entry.path().unwrap().to_string_lossy().into_owned();
                (name, header.mode().unwrap(), header.mtime().unwrap(), owner)
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("a-file".to_owned(), 0o644, 1_700_000_000, (0, 0)),
                ("program".to_owned(), 0o755, 1_700_000_000, (0, 0)),
            ]
        );
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut files = Files::default();
        files.add("ambit/templates/a.yaml", "a: 1\n");
        files.add_program("ambit/run", "#!/bin/sh\n");
        let packed = gzip(&files.tar(1).unwrap()).unwrap();
        assert_eq!(Files::from_tar_gz(&packed).unwrap(), files);
    }
}
