//! The code blocks of the documentation, and how each of them is tested.
//!
//! An HTML comment before a block says it: `<!-- test: cluster -->`, or `<!-- test: skip: … -->` with the reason.
//! Readers do not see it. [`Block::mark`] reads it; a unit test here fails for a block of commands or YAML that has
//! none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Languages of blocks that a reader runs or applies.
const RUN: &[&str] = &["sh", "bash", "shell", "console", "yaml"];

/// How a block is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Commands are run on the cluster, YAML is applied to it, in the order of the document.
    Cluster,
    /// The API server is asked whether it would take the YAML; nothing is stored.
    DryRun,
    /// The chart is rendered with these values.
    Values,
    /// It is not run: why.
    Skip(String),
}

/// A fenced code block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The document, from the root of the work tree.
    pub file: PathBuf,
    /// The line of the opening fence, counted from 1.
    pub line: usize,
    /// What follows the opening fence.
    pub language: String,
    /// The lines between the fences, without their common indentation.
    pub text: String,
    comment: Option<String>,
}

impl Block {
    /// Whether a reader runs it or applies it.
    pub fn is_run(&self) -> bool {
        RUN.contains(&self.language.as_str())
    }

    /// Where it stands, for errors: `docs/install.md:24`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// How it is tested; none for blocks that nobody runs.
    ///
    /// # Errors
    /// When it is to be run, and no mark says how, or one that does not suit the language.
    pub fn mark(&self) -> Result<Option<Mark>> {
        let Some(comment) = &self.comment else {
            ensure!(
                !self.is_run(),
                "{}: a block of {} without a mark: put `<!-- test: cluster -->` or `<!-- test: skip: REASON -->` before it (e2e/src/docs.rs)",
                self.place(),
                self.language
            );
            return Ok(None);
        };
        let yaml = self.language == "yaml";
        let mark = match comment.split_once(':') {
            None if comment == "cluster" => Mark::Cluster,
            None if comment == "dry-run" && yaml => Mark::DryRun,
            None if comment == "values" && yaml => Mark::Values,
            Some(("skip", reason)) if !reason.trim().is_empty() => Mark::Skip(reason.trim().to_owned()),
            _ => bail!("{}: no mark for {}: `{comment}`", self.place(), self.language),
        };
        Ok(Some(mark))
    }
}

/// All blocks of all documents that are for readers: README.md first, then the others by name.
///
/// # Errors
/// When one cannot be read, or has a block without an end.
pub fn blocks() -> Result<Vec<Block>> {
    let root = crate::workspace();
    let mut files = vec![PathBuf::from("README.md")];
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "charts/ambit/README.md"] {
        files.extend(root.join(name).exists().then(|| PathBuf::from(name)));
    }
    for folder in ["docs", "examples"] {
        list(root, Path::new(folder), &mut files)?;
    }
    files[1..].sort();
    let mut blocks = Vec::new();
    for file in files {
        let text = fs::read_to_string(root.join(&file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        blocks.extend(read(&file, &text)?);
    }
    Ok(blocks)
}

fn list(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return Ok(()); // There is no such folder.
    };
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(file: &Path, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut comment = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim();
        if let Some(mark) = trimmed.strip_prefix("<!-- test:") {
            comment = Some(mark.trim_end_matches("-->").trim().to_owned());
        } else if let Some(language) = trimmed.strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let mut inside = Vec::new();
            loop {
                let (_, line) = lines
                    .next()
                    .with_context(|| format!("{}:{}: a block without an end", file.display(), index + 1))?;
                if line.trim() == "```" {
                    break;
                }
                inside.push(line.get(indent..).unwrap_or(line.trim_start()));
            }
            blocks.push(Block {
                file: file.to_owned(),
                line: index + 1,
                language: language.to_owned(),
                text: inside.join("\n") + "\n",
                comment: comment.take(),
            });
        } else if !trimmed.is_empty() {
            // A mark stands right before its block.
            comment = None;
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_that_readers_run_is_marked() {
        let blocks = blocks().unwrap();
        let failed: Vec<String> = blocks
            .iter()
            .filter_map(|block| block.mark().err())
            .map(|error| error.to_string())
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        let run = |name: &str| {
            blocks
                .iter()
                .any(|block| block.file == Path::new(name) && block.mark().unwrap() == Some(Mark::Cluster))
        };
        assert!(run("README.md") && run("docs/install.md"));
    }

    fn only(text: &str) -> Block {
        read(Path::new("x.md"), text).unwrap().remove(0)
    }

    #[test]
    fn a_block_is_read_with_its_mark() {
        let block = only("a\n\n<!-- test: cluster -->\n\n  ```sh\n  echo 1\n    echo 2\n  ```\n");
        assert_eq!((block.line, block.text.as_str()), (5, "echo 1\n  echo 2\n"));
        assert_eq!(block.mark().unwrap(), Some(Mark::Cluster));
        let block = only("<!-- test: skip: needs: a registry -->\n```yaml\na: b\n```\n");
        assert_eq!(
            block.mark().unwrap(),
            Some(Mark::Skip("needs: a registry".into()))
        );
    }

    #[test]
    fn a_mark_is_demanded_of_what_is_run_and_no_other() {
        assert!(only("```sh\nx\n```\n").mark().is_err());
        assert!(
            only("<!-- test: cluster -->\nwords\n```sh\nx\n```\n")
                .mark()
                .is_err()
        );
        assert!(only("<!-- test: skip: -->\n```sh\nx\n```\n").mark().is_err());
        assert!(only("<!-- test: values -->\n```sh\nx\n```\n").mark().is_err());
        assert_eq!(only("```lua\nx\n```\n").mark().unwrap(), None);
        assert!(read(Path::new("x.md"), "```sh\nx\n").is_err());
    }
}
