//! Looks at the API server without a program for each: waiting for something looks many times, and a start of kubectl
//! costs a tenth of a second of a CPU that what is awaited needs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::http::Request;

const LIMIT: Duration = Duration::from_secs(30);

/// All kinds in one response (Kubernetes' aggregated discovery).
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `kubectl proxy` while it runs, and what the API server has. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    kubectl: Child,
    // Open as long as kubectl runs.
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    /// By every name that kubectl knows it by, in lower case: kubectl takes any.
    kinds: Mutex<HashMap<String, Kind>>,
}

/// Where the objects of a kind are.
#[derive(Debug, Clone)]
struct Kind {
    /// `/apis/apps/v1`.
    version: String,
    plural: String,
    namespaced: bool,
}

/// What `kubectl get` is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question<'a> {
    kinds: Vec<&'a str>,
    name: Option<&'a str>,
    namespace: Option<&'a str>,
    everywhere: bool,
    /// `labelSelector` or `fieldSelector`, and what it says.
    selectors: Vec<(&'static str, &'a str)>,
}

impl Reader {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let mut kubectl = cluster
            .kubectl()
            .args(["proxy", "--address=127.0.0.1", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start kubectl")?;
        let stdout = kubectl.stdout.take().context("kubectl has no output")?;
        let mut reader = Self {
            kubectl,
            output: BufReader::new(stdout),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            kinds: Mutex::default(),
        };
        let mut line = String::new();
        reader.output.read_line(&mut line)?;
        let address = line.trim().strip_prefix("Starting to serve on ");
        reader.address = address
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("kubectl proxy says `{}`", line.trim()))?;
        Ok(reader)
    }

    /// What `kubectl get … --output=json` prints; nothing where only kubectl knows.
    pub(crate) fn get(&self, arguments: &[&str]) -> Option<Result<Value>> {
        Question::read(arguments).map(|question| self.answer(&question))
    }

    fn answer(&self, question: &Question<'_>) -> Result<Value> {
        let mut answers = question
            .kinds
            .iter()
            .map(|kind| self.fetch(&question.path(&self.kind(kind)?), "application/json"));
        match (question.kinds.len(), question.name) {
            (1, Some(_)) => answers.next().context("no kind")?,
            _ => {
                let items: Vec<Value> = answers
                    .map(|list| Ok(items_of(list?)))
                    .collect::<Result<Vec<_>>>()?
                    .concat();
                Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
            }
        }
    }

    fn fetch(&self, path: &str, accept: &str) -> Result<Value> {
        let stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let answer = Request::get(path)
            .header("Accept", accept)
            .send(stream, "127.0.0.1")?;
        let body: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("{path}: {}: {}", answer.status, answer.body.trim()))?;
        if answer.status != 200 {
            let text = |field: &str| body[field].as_str().unwrap_or_default();
            bail!("Error from server ({}): {}", text("reason"), text("message"));
        }
        Ok(body)
    }

    /// Asks for all kinds again where one is not known: definitions come while tests run.
    fn kind(&self, name: &str) -> Result<Kind> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let lower = name.to_lowercase();
        if !kinds.contains_key(&lower) {
            kinds.clear();
            for root in ["/api", "/apis"] {
                note_kinds(&mut kinds, root, &self.fetch(root, DISCOVERY)?);
            }
        }
        let kind = kinds.get(&lower);
        kind.cloned()
            .with_context(|| format!("the server doesn't have a resource type \"{name}\""))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl<'a> Question<'a> {
    fn read(arguments: &[&'a str]) -> Option<Self> {
        let mut question = Self::default();
        let mut arguments = arguments.iter().copied();
        while let Some(argument) = arguments.next() {
            let (flag, value) = argument
                .split_once('=')
                .map_or((argument, None), |(flag, value)| (flag, Some(value)));
            match flag {
                "--all-namespaces" if value.is_none() => question.everywhere = true,
                "--namespace" => question.namespace = Some(value.or_else(|| arguments.next())?),
                "--selector" => question
                    .selectors
                    .push(("labelSelector", value.or_else(|| arguments.next())?)),
                "--field-selector" => question
                    .selectors
                    .push(("fieldSelector", value.or_else(|| arguments.next())?)),
                _ if argument.starts_with('-') || argument.contains('/') => return None,
                kinds if question.kinds.is_empty() => question.kinds = kinds.split(',').collect(),
                name if question.name.is_none() => question.name = Some(name),
                _ => return None,
            }
        }
        (question.name.is_none() || question.kinds.len() == 1).then_some(question)
    }

    fn path(&self, kind: &Kind) -> String {
        let mut path = kind.version.clone();
        if kind.namespaced && !self.everywhere {
            path += &format!("/namespaces/{}", self.namespace.unwrap_or("default"));
        }
        path += &format!("/{}", kind.plural);
        if let Some(name) = self.name {
            path += &format!("/{name}");
        }
        for (n, (parameter, value)) in self.selectors.iter().enumerate() {
            path += &format!("{}{parameter}={}", if n == 0 { '?' } else { '&' }, encode(value));
        }
        path
    }
}

/// The objects of a list, each with its kind, as kubectl has them.
fn items_of(mut list: Value) -> Vec<Value> {
    let version = list["apiVersion"].take();
    let kind = list["kind"].as_str().unwrap_or_default();
    let kind = kind.strip_suffix("List").unwrap_or(kind).to_owned();
    let Value::Array(mut items) = list["items"].take() else {
        return Vec::new();
    };
    for item in &mut items {
        item["apiVersion"] = version.clone();
        item["kind"] = kind.clone().into();
    }
    items
}

/// Notes all kinds of a response of the discovery at `root`. The first group that has a name keeps it.
fn note_kinds(kinds: &mut HashMap<String, Kind>, root: &str, discovered: &Value) {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for group in array(&discovered["items"]) {
        let group_name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in array(&group["versions"]) {
            let parts = [root, group_name, version["version"].as_str().unwrap_or_default()];
            let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            for resource in array(&version["resources"]) {
                let plural = resource["resource"].as_str().unwrap_or_default();
                let kind = Kind {
                    version: path.join("/"),
                    plural: plural.to_owned(),
                    namespaced: resource["scope"] == "Namespaced",
                };
                let short = array(&resource["shortNames"]);
                let named = [&resource["singularResource"], &resource["responseKind"]["kind"]];
                let names = short.iter().chain(named).filter_map(Value::as_str);
                for name in names.chain([plural]).map(str::to_lowercase) {
                    let [_, group, version] = parts;
                    for full in [
                        format!("{name}.{version}.{group}"),
                        format!("{name}.{group}"),
                        name,
                    ] {
                        kinds.entry(full).or_insert_with(|| kind.clone());
                    }
                }
            }
        }
    }
}

fn encode(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_paths() {
        let discovered = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"],
                 "responseKind": {"kind": "Deployment"}, "scope": "Namespaced"},
            ]}]},
        ]});
        let core = json!({"items": [
            {"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": [
                {"resource": "namespaces", "singularResource": "namespace", "shortNames": ["ns"], "scope": "Cluster"},
            ]}]},
        ]});
        let mut kinds = HashMap::new();
        note_kinds(&mut kinds, "/api", &core);
        note_kinds(&mut kinds, "/apis", &discovered);
        for (arguments, path) in [
            (
                &["deployment", "web", "--namespace", "shop"][..],
                "/apis/apps/v1/namespaces/shop/deployments/web",
            ),
            (
                &["deployments.apps", "--all-namespaces", "--selector=app=web,!old"],
                "/apis/apps/v1/deployments?labelSelector=app%3Dweb%2C%21old",
            ),
            (&["deploy"], "/apis/apps/v1/namespaces/default/deployments"),
            (
                &["Deployment.v1.apps"],
                "/apis/apps/v1/namespaces/default/deployments",
            ),
            (&["namespace", "shop"], "/api/v1/namespaces/shop"),
        ] {
            let question = Question::read(arguments).unwrap();
            assert_eq!(question.path(&kinds[&question.kinds[0].to_lowercase()]), path);
        }
    }

    #[test]
    fn what_only_kubectl_knows_is_left_to_it() {
        for arguments in [
            &["pods", "--watch"][..],
            &["pod/web"],
            &["pods", "a", "b"],
            &["pods,services", "web"],
        ] {
            assert_eq!(Question::read(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn items_have_their_kind() {
        let list = json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"metadata": {}}]});
        assert_eq!(
            items_of(list),
            [json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}})]
        );
    }
}
