//! The plugin as the container runtime runs it (CNI specification 1.1.0), chained after the plugin that creates the pod
//! network.

use super::protocol::{Answer, MAX_LINE, Operation, Request, VERSION};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The versions of the specification that the plugin supports.
pub(super) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Longer than the agent itself waits, so that the plugin receives the agent's reason.
const ANSWER_TIME: Duration = Duration::from_secs(20);

const INVALID_ENVIRONMENT: u32 = 4;
const DECODING_FAILURE: u32 = 6;
const INVALID_CONFIG: u32 = 7;
const INCOMPATIBLE_VERSION: u32 = 1;
const TRY_AGAIN_LATER: u32 = 11;
const NOT_AVAILABLE: u32 = 50;

/// The plugin's entry in a conflist, with the fields that the runtime adds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    cni_version: String,
    #[serde(default)]
    exempt_namespaces: Vec<String>,
    #[serde(default)]
    socket: Option<PathBuf>,
    prev_result: Option<Value>,
    /// GC: the attachments that still exist.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

/// A CNI error (specification, "Error").
#[derive(Debug, PartialEq, Eq)]
struct CniError {
    code: u32,
    msg: String,
    details: String,
}

impl CniError {
    fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.into(),
        }
    }
}

/// Runs the call in the environment and standard input of the process, and prints its result.
pub fn run() -> ExitCode {
    let environment: HashMap<String, String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    let mut input = String::new();
    let outcome = io::stdin()
        .read_to_string(&mut input)
        .map_err(|e| CniError::new(DECODING_FAILURE, "standard input cannot be read", e.to_string()))
        .and_then(|_| call(&environment, &input, &ask));
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(e) => {
            let version = serde_json::from_str::<Value>(&input)
                .ok()
                .and_then(|v| v.get("cniVersion").cloned());
            let version = version.unwrap_or_else(|| json!("1.0.0"));
            (
                json!({"cniVersion": version, "code": e.code, "msg": e.msg, "details": e.details}),
                ExitCode::FAILURE,
            )
        }
    };
    // An error cannot be reported if standard output is closed.
    _ = writeln!(io::stdout(), "{text}");
    code
}

type Ask<'a> = dyn Fn(&Path, &Request) -> io::Result<Answer> + 'a;

/// One call; `None` is an empty result.
fn call(
    environment: &HashMap<String, String>,
    input: &str,
    ask: &Ask<'_>,
) -> Result<Option<Value>, CniError> {
    let variable = |name: &str| environment.get(name).cloned().unwrap_or_default();
    match variable("CNI_COMMAND").as_str() {
        "VERSION" => Ok(Some(
            json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}),
        )),
        "ADD" => add(&variable, &parse(input)?, ask).map(Some),
        // The other plugins check the pod network; the agent watches the redirection.
        "CHECK" => parse(input).map(|_| None),
        "DEL" => {
            del(&variable, input, ask);
            Ok(None)
        }
        "STATUS" => status(&parse(input)?, ask).map(|()| None),
        "GC" => {
            collect(&parse(input)?, ask);
            Ok(None)
        }
        other => Err(CniError::new(
            INVALID_ENVIRONMENT,
            format!("CNI_COMMAND {other:?} is not supported"),
            "",
        )),
    }
}

fn parse(input: &str) -> Result<Config, CniError> {
    let config: Config = serde_json::from_str(input).map_err(|e| {
        CniError::new(
            DECODING_FAILURE,
            "the network configuration is not understood",
            e.to_string(),
        )
    })?;
    if VERSIONS.contains(&config.cni_version.as_str()) {
        Ok(config)
    } else {
        let msg = format!("CNI version {} is not supported", config.cni_version);
        Err(CniError::new(
            INCOMPATIBLE_VERSION,
            msg,
            format!("supported are {}", VERSIONS.join(", ")),
        ))
    }
}

fn add(variable: &dyn Fn(&str) -> String, config: &Config, ask: &Ask<'_>) -> Result<Value, CniError> {
    let previous = config.prev_result.clone().ok_or_else(|| {
        CniError::new(
            INVALID_CONFIG,
            "ambit-cni must follow another plugin in its chain",
            "no prevResult",
        )
    })?;
    let request = request(Operation::Add, variable, Some(&previous));
    // Decided here and not by the agent, since the agent's own pod must be able to start.
    let exempt = config.exempt_namespaces.contains(&request.pod_namespace);
    if exempt || request.pod_namespace.is_empty() {
        return Ok(previous);
    }
    match ask(socket(config), &request) {
        Ok(Answer::Captured | Answer::Passed) => Ok(previous),
        Ok(Answer::Failed { reason, message }) => Err(CniError::new(
            TRY_AGAIN_LATER,
            format!("ambit: {reason}"),
            message,
        )),
        Err(e) => Err(CniError::new(
            TRY_AGAIN_LATER,
            "ambit: AgentUnreachable",
            format!(
                "the node agent does not respond on {}: {e}; pods outside {} wait for it",
                socket(config).display(),
                config.exempt_namespaces.join(", ")
            ),
        )),
    }
}

/// Whether pods can be started. If an agent has run since the boot (its socket remains), it is assumed to come back.
/// Otherwise the node would be unready during each upgrade, and its pods would be removed from Services, and later
/// evicted.
fn status(config: &Config, ask: &Ask<'_>) -> Result<(), CniError> {
    let request = request(Operation::Status, &|_| String::new(), None);
    match ask(socket(config), &request) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(CniError::new(
            NOT_AVAILABLE,
            "ambit: AgentUnreachable",
            format!(
                "the node agent has not run since the node booted: {} does not exist; pods outside {} \
                 wait for it",
                socket(config).display(),
                config.exempt_namespaces.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}

/// Never fails: the rest is collected by the next call, or by the agent itself.
fn collect(config: &Config, ask: &Ask<'_>) {
    // Without the list it is unknown which attachments are gone.
    let Some(valid) = &config.valid_attachments else {
        return;
    };
    let request = Request {
        valid: valid
            .iter()
            .map(|attachment| attachment.container_id.clone())
            .collect(),
        ..request(Operation::Gc, &|_| String::new(), None)
    };
    _ = ask(socket(config), &request);
}

/// Never fails: a pod must be able to end while no agent runs. An agent that starts later detects that the sandbox is
/// gone.
fn del(variable: &dyn Fn(&str) -> String, input: &str, ask: &Ask<'_>) {
    let Ok(config) = parse(input) else { return };
    let request = request(Operation::Del, variable, None);
    if !config.exempt_namespaces.contains(&request.pod_namespace) {
        _ = ask(socket(&config), &request);
    }
}

fn socket(config: &Config) -> &Path {
    config
        .socket
        .as_deref()
        .unwrap_or(Path::new(ambit_wire::names::CNI_SOCKET))
}

fn request(operation: Operation, variable: &dyn Fn(&str) -> String, previous: Option<&Value>) -> Request {
    let arguments = variable("CNI_ARGS");
    let argument = |name: &str| {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    Request {
        version: VERSION,
        operation,
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS").into(),
        pod_namespace: argument("K8S_POD_NAMESPACE").unwrap_or_default(),
        pod_name: argument("K8S_POD_NAME").unwrap_or_default(),
        pod_uid: argument("K8S_POD_UID"),
        addresses: previous.map(addresses).unwrap_or_default(),
        valid: Default::default(),
    }
}

/// The addresses in a result: `ips[].address`, in CIDR notation.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let cidrs = ips.filter_map(|ip| ip.get("address").and_then(Value::as_str));
    cidrs
        .map(|cidr| cidr.split('/').next().unwrap_or(cidr).to_owned())
        .collect()
}

fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection",
        ));
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests;
