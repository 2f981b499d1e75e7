//! What the Dockerfile says about an image. Images are written from it without a builder.

use anyhow::{Context, Result, bail};

/// One target of the Dockerfile: an image that holds a single program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The program's path in the image, without the leading slash.
    pub(crate) program: String,
    /// `UID:GID`.
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
}

impl Target {
    /// Reads the target called `name`.
    ///
    /// # Errors
    /// When it is missing, or has an instruction that is not understood here.
    pub(crate) fn read(dockerfile: &str, name: &str) -> Result<Self> {
        let (mut program, mut user, mut entrypoint) = (None, None, None);
        let mut found = false;
        for line in dockerfile.lines().map(str::trim) {
            if let Some(target) = line.strip_prefix("FROM ") {
                found = target == format!("scratch AS {name}");
                continue;
            }
            if !found || line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(' ') {
                Some(("COPY", files)) => {
                    let (from, to) = files.split_once(' ').context("COPY has two paths")?;
                    if to != format!("/{from}") || program.is_some() {
                        bail!(
                            "`{line}` of target {name}: one file is copied, to the root and under its own name"
                        );
                    }
                    program = Some(from.to_owned());
                }
                Some(("USER", value)) => user = Some(value.to_owned()),
                Some(("ENTRYPOINT", words)) => {
                    let words = serde_json::from_str(words);
                    entrypoint = Some(words.with_context(|| format!("`{line}` of target {name}"))?);
                }
                _ => bail!(
                    "`{line}` of target {name} is not understood: add it to xtask/src/release/dockerfile.rs"
                ),
            }
        }
        match (program, user, entrypoint) {
            (Some(program), Some(user), Some(entrypoint)) => Ok(Self {
                program,
                user,
                entrypoint,
            }),
            _ => {
                bail!("the Dockerfile has no target `FROM scratch AS {name}` with COPY, USER and ENTRYPOINT")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::IMAGES;
    use crate::workspace;

    #[test]
    fn every_target_of_the_dockerfile_is_understood() {
        let text = std::fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        for image in IMAGES {
            let target = Target::read(&text, image.target).unwrap();
            assert_eq!(target.program, image.binary);
            assert_eq!(target.entrypoint, [format!("/{}", image.binary)]);
        }
        assert_eq!(Target::read(&text, "agent").unwrap().user, "0:65532");
        assert_eq!(Target::read(&text, "ztunnel").unwrap().user, "65532:65532");
    }

    #[test]
    fn an_unknown_instruction_is_refused_with_its_line() {
        let text = "FROM scratch AS a\nCOPY x /x\nUSER 1:1\nENV A=1\nENTRYPOINT [\"/x\"]\n";
        let error = Target::read(text, "a").unwrap_err().to_string();
        assert!(error.contains("`ENV A=1` of target a"), "{error}");
        let error = Target::read(text, "b").unwrap_err().to_string();
        assert!(error.contains("no target `FROM scratch AS b`"), "{error}");
    }
}
