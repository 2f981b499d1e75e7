//! kubectl, with the responses that the demonstration and the tests need. All of it goes through the real program, but for the
//! looks of tests at objects, of which there are very many.

mod forward;
mod reader;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::shell;

pub(crate) use forward::Forward;
pub(crate) use reader::Reader;

impl Cluster {
    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// When it does not succeed; the error quotes it.
    pub fn run_kubectl(&self, arguments: &[&str]) -> Result<String> {
        shell::run(self.kubectl().args(arguments))
    }

    /// `kubectl get … --output=json`.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        if let Some(answer) = self.reader().and_then(|reader| reader.get(arguments)) {
            return answer;
        }
        let text = shell::run(self.kubectl().arg("get").args(arguments).arg("--output=json"))?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// The items of a list that `kubectl get` returns.
    ///
    /// # Errors
    /// When the kind or the namespace does not exist.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut list = self.get(arguments)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("kubectl get {} returned no list", arguments.join(" ")),
        }
    }

    /// `kubectl apply` of a manifest in YAML or JSON; `namespace` is for objects that name none.
    ///
    /// # Errors
    /// When the API server refuses it; the error quotes why.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<()> {
        self.hand_in(&["apply"], namespace, manifest)
    }

    /// The same as another user, by impersonation.
    ///
    /// # Errors
    /// When the API server refuses it; the error quotes why.
    pub fn apply_as(&self, user: &str, namespace: &str, manifest: &str) -> Result<()> {
        self.hand_in(&["apply", &format!("--as={user}")], namespace, manifest)
    }

    /// Whether the API server would let another user create what a manifest says; nothing is stored.
    ///
    /// # Errors
    /// When it would not; the error quotes why.
    pub fn try_create_as(&self, user: &str, namespace: &str, manifest: &str) -> Result<()> {
        let user = format!("--as={user}");
        self.hand_in(&["create", "--dry-run=server", &user], namespace, manifest)
    }

    /// The same as `apply` for the status of objects that are there, which stands for whoever would report it.
    ///
    /// # Errors
    /// When the API server refuses it; the error quotes why.
    pub fn apply_status(&self, namespace: &str, manifest: &str) -> Result<()> {
        let status = [
            "apply",
            "--server-side",
            "--subresource=status",
            "--force-conflicts",
        ];
        self.hand_in(&status, namespace, manifest)
    }

    /// Applies a manifest that the API server has to refuse, and returns what it says.
    ///
    /// # Errors
    /// When it is accepted.
    pub fn refusal(&self, namespace: &str, manifest: &str) -> Result<String> {
        let output = self.feed(&["apply", "--namespace", namespace, "--filename=-"], manifest)?;
        if output.status.success() {
            bail!("accepted: {}", String::from_utf8_lossy(&output.stdout).trim());
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs a command in a container of a pod and returns what it printed.
    ///
    /// # Errors
    /// When it does not succeed; the error quotes it.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        shell::run(
            self.kubectl()
                .args(["exec", "--namespace", namespace, pod, "--"])
                .args(command),
        )
    }

    /// The logs of a pod's containers, of the present instance.
    ///
    /// # Errors
    /// When the pod does not exist or did not start.
    pub fn logs(&self, namespace: &str, pod: &str) -> Result<String> {
        shell::run(self.kubectl().args([
            "logs",
            "--namespace",
            namespace,
            pod,
            "--all-containers",
            "--tail=-1",
        ]))
    }

    /// Runs a command that takes a manifest, to success.
    fn hand_in(&self, command: &[&str], namespace: &str, manifest: &str) -> Result<()> {
        let arguments = [command, &["--namespace", namespace, "--filename=-"]].concat();
        let output = self.feed(&arguments, manifest)?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                command.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command: Command = self.kubectl();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has no input")?
            .write_all(input.as_bytes())?;
        child.wait_with_output().context("kubectl was lost")
    }
}

/// The status (`True`, `False`, `Unknown`), reason and message of a condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some((text("status"), text("reason"), text("message")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_found_by_type() {
        let object = json!({"status": {"conditions": [
            {"type": "Progressing", "status": "True", "reason": "RollingOut", "message": "1 of 2"},
            {"type": "Ready", "status": "False", "reason": "NotYet"},
        ]}});
        assert_eq!(condition(&object, "Ready"), Some(("False", "NotYet", "")));
        assert_eq!(condition(&object, "Degraded"), None);
        assert_eq!(condition(&json!({}), "Ready"), None);
    }
}
