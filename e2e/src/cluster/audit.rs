//! Who wrote what to the API server: its audit log, which every cluster keeps.
//!
//! The log has every request that creates, changes or deletes, once it got a response, also those that changed nothing
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::layout::Layout;

/// Writes, without what they carry; reads are left out.
const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
";

/// The API server's arguments.
pub(super) fn arguments(layout: &Layout) -> Vec<String> {
    vec![
        format!("--audit-policy-file={}", policy(layout).display()),
        format!("--audit-log-path={}", layout.log("audit").display()),
    ]
}

/// Writes what the arguments name.
pub(super) fn create(layout: &Layout) -> Result<()> {
    let path = policy(layout);
    fs::write(&path, POLICY).with_context(|| format!("cannot write {}", path.display()))
}

fn policy(layout: &Layout) -> PathBuf {
    layout.dir.join("audit-policy.yaml")
}

/// The audit log from a moment on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    from: u64,
}

/// A request that was to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who asked, as in `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Of what: `RESOURCE` or `RESOURCE/SUBRESOURCE`.
    pub resource: String,
    /// Empty where it has none.
    pub namespace: String,
    /// Empty where the API server gives it.
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    user: User,
    object_ref: Option<Reference>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reference {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Audit {
    pub(super) fn begin(layout: &Layout) -> Result<Self> {
        let path = layout.log("audit");
        let from = length(&path)?;
        Ok(Self { path, from })
    }

    /// The requests since then that were to write, of all users, in order.
    ///
    /// # Errors
    /// When the log cannot be read, or is not what the API server writes.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let told = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).with_context(told)?;
        file.seek(SeekFrom::Start(self.from)).with_context(told)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(told)?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect::<Result<_>>().with_context(told)
    }
}

fn length(path: &Path) -> Result<u64> {
    let file = fs::metadata(path).with_context(|| {
        format!(
            "no audit log at {}: a cluster that an earlier version made has none",
            path.display()
        )
    })?;
    Ok(file.len())
}

fn parse(line: &str) -> Result<Write> {
    let entry: Entry = serde_json::from_str(line).with_context(|| format!("`{line}` is no audit event"))?;
    let object = entry.object_ref.unwrap_or_default();
    let resource = match object.subresource.as_str() {
        "" => object.resource,
        sub => format!("{}/{sub}", object.resource),
    };
    Ok(Write {
        user: entry.user.username,
        verb: entry.verb,
        resource,
        namespace: object.namespace,
        name: object.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_user_and_object() {
        let line = r#"{"kind":"Event","verb":"patch","user":{"username":"system:serviceaccount:a:b","groups":[]},
            "objectRef":{"resource":"pods","namespace":"shop","name":"x","subresource":"status"},"responseStatus":{"code":200}}"#;
        let write = parse(line).unwrap();
        assert_eq!(
            (write.user.as_str(), write.verb.as_str(), write.resource.as_str()),
            ("system:serviceaccount:a:b", "patch", "pods/status")
        );
        assert_eq!((write.namespace.as_str(), write.name.as_str()), ("shop", "x"));
    }

    #[test]
    fn events_without_object_and_malformed_ones() {
        let write = parse(r#"{"verb":"create","user":{"username":"u"}}"#).unwrap();
        assert_eq!(write.resource, "");
        parse("half").unwrap_err();
    }
}
