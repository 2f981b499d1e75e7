//! The Container Runtime Interface over its unix socket.

use super::{Runtime, RuntimeError, Sandbox};
use ambit_wire::cri::runtime_service_client::RuntimeServiceClient;
use ambit_wire::cri::{
    ContainerFilter, ContainerState, ContainerStateValue, ContainerStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxState, PodSandboxStateValue, PodSandboxStatusRequest,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

const CALL_TIME: Duration = Duration::from_secs(5);
const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
const ZTUNNEL_CONTAINER: &str = "ztunnel";
const ZTUNNEL_LABEL: (&str, &str) = ("app", "ztunnel");

/// The runtime behind a CRI socket. It need not be up: each call connects if need be.
#[derive(Debug, Clone)]
pub struct CriRuntime {
    client: RuntimeServiceClient<Channel>,
    system_namespace: String,
}

/// What of the verbose `info` of containerd and CRI-O counts.
#[derive(Debug, Default, Deserialize)]
struct Info {
    #[serde(default)]
    pid: i32,
    #[serde(rename = "runtimeSpec")]
    spec: Option<Spec>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

impl CriRuntime {
    /// The runtime at `socket`; ztunnels are looked for in `system_namespace`.
    pub fn new(socket: &Path, system_namespace: &str) -> Self {
        let socket = socket.to_owned();
        // The address is needed for the `:authority` of the calls and means nothing.
        let endpoint = Endpoint::from_static("http://localhost")
            .timeout(CALL_TIME)
            .connect_timeout(CALL_TIME);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }));
        Self {
            client: RuntimeServiceClient::new(channel),
            system_namespace: system_namespace.to_owned(),
        }
    }

    async fn sandbox_info(&self, id: &str, pod_uid: &str) -> Result<Option<Info>, RuntimeError> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = match self.client.clone().pod_sandbox_status(request).await {
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            other => other.map_err(failed("PodSandboxStatus"))?.into_inner(),
        };
        let current = answer.status.is_some_and(|status| {
            status.state() == PodSandboxState::SandboxReady
                && status.metadata.is_some_and(|metadata| metadata.uid == pod_uid)
        });
        Ok(if current {
            Some(parse_info(&answer.info, id)?)
        } else {
            None
        })
    }

    async fn container_pid(&self, id: &str) -> Result<Option<i32>, RuntimeError> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = match self.client.clone().container_status(request).await {
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            other => other.map_err(failed("ContainerStatus"))?.into_inner(),
        };
        let running = answer
            .status
            .is_some_and(|status| status.state() == ContainerState::ContainerRunning);
        Ok(if running {
            Some(parse_info(&answer.info, id)?.pid)
        } else {
            None
        })
    }

    /// Ready sandboxes with all of `labels`.
    async fn sandboxes(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<ambit_wire::cri::PodSandbox>, RuntimeError> {
        let filter = PodSandboxFilter {
            state: Some(PodSandboxStateValue {
                state: PodSandboxState::SandboxReady.into(),
            }),
            label_selector: selector(labels),
            ..Default::default()
        };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer = self
            .client
            .clone()
            .list_pod_sandbox(request)
            .await
            .map_err(failed("ListPodSandbox"))?;
        Ok(answer.into_inner().items)
    }
}

#[async_trait::async_trait]
impl Runtime for CriRuntime {
    async fn sandbox(&self, pod_uid: &str) -> Result<Option<Sandbox>, RuntimeError> {
        let mut sandboxes = self.sandboxes(&[(LABEL_POD_UID, pod_uid)]).await?;
        // A sandbox that was replaced may be listed for a moment: the newest is the pod's.
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        for sandbox in sandboxes {
            if let Some(info) = self.sandbox_info(&sandbox.id, pod_uid).await? {
                return Ok(Some(Sandbox {
                    id: sandbox.id,
                    netns_paths: netns_paths(&info),
                }));
            }
        }
        Ok(None)
    }

    async fn is_ztunnel(&self, pid: i32) -> Result<bool, RuntimeError> {
        let labels = [
            (LABEL_POD_NAMESPACE, self.system_namespace.as_str()),
            ZTUNNEL_LABEL,
        ];
        let mut unreadable = None;
        for sandbox in self.sandboxes(&labels).await? {
            let filter = ContainerFilter {
                state: Some(ContainerStateValue {
                    state: ContainerState::ContainerRunning.into(),
                }),
                pod_sandbox_id: sandbox.id,
                label_selector: selector(&[(LABEL_CONTAINER_NAME, ZTUNNEL_CONTAINER)]),
                ..Default::default()
            };
            let request = ListContainersRequest { filter: Some(filter) };
            let answer = self
                .client
                .clone()
                .list_containers(request)
                .await
                .map_err(failed("ListContainers"))?;
            for container in answer.into_inner().containers {
                // One whose status cannot be read must not keep the others from being found.
                match self.container_pid(&container.id).await {
                    Ok(of) if of == Some(pid) => return Ok(true),
                    Ok(_) => {}
                    Err(e) => unreadable = Some(e),
                }
            }
        }
        unreadable.map_or(Ok(false), Err)
    }
}

fn selector(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn failed(call: &'static str) -> impl Fn(tonic::Status) -> RuntimeError {
    move |status| RuntimeError::Call {
        call,
        status: Box::new(status),
    }
}

fn parse_info(info: &BTreeMap<String, String>, id: &str) -> Result<Info, RuntimeError> {
    let parsed = info
        .get("info")
        .and_then(|json| serde_json::from_str::<Info>(json).ok());
    parsed.filter(|info| info.pid > 0).ok_or(RuntimeError::NoInfo {
        what: "pid",
        id: id.to_owned(),
    })
}

/// The bind mount, which outlives the pause process, before `/proc`. No path at all: the pod shares the host's namespace.
fn netns_paths(info: &Info) -> Vec<PathBuf> {
    let namespaces = info
        .spec
        .iter()
        .filter_map(|spec| spec.linux.as_ref())
        .flat_map(|linux| &linux.namespaces);
    let Some(network) = namespaces
        .into_iter()
        .find(|namespace| namespace.kind == "network")
    else {
        return vec![];
    };
    let mount = network.path.as_deref().map(in_this_mount_namespace);
    let process = PathBuf::from(format!("/proc/{}/ns/net", info.pid));
    mount.into_iter().chain([process]).collect()
}

/// `/var/run` is a link to `/run` on the host; the agent's own root has only `/run/netns`.
pub(crate) fn in_this_mount_namespace(path: &Path) -> PathBuf {
    path.strip_prefix("/var/run")
        .map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_wire::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
    use ambit_wire::cri::{
        Container, ContainerStatus, ContainerStatusResponse, ListContainersResponse, ListPodSandboxResponse,
        PodSandbox, PodSandboxStatusResponse,
    };
    use tonic::{Request, Response, Status};

    /// Two ztunnels, of which the first one's status cannot be read.
    struct Containers;

    #[tonic::async_trait]
    impl RuntimeService for Containers {
        async fn list_pod_sandbox(
            &self,
            _: Request<ListPodSandboxRequest>,
        ) -> Result<Response<ListPodSandboxResponse>, Status> {
            let sandbox = |id: &str| PodSandbox {
                id: id.to_owned(),
                ..Default::default()
            };
            let items = vec![sandbox("unreadable"), sandbox("ztunnel")];
            Ok(Response::new(ListPodSandboxResponse { items }))
        }

        async fn pod_sandbox_status(
            &self,
            _: Request<PodSandboxStatusRequest>,
        ) -> Result<Response<PodSandboxStatusResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn list_containers(
            &self,
            request: Request<ListContainersRequest>,
        ) -> Result<Response<ListContainersResponse>, Status> {
            let container = Container {
                id: request.into_inner().filter.unwrap_or_default().pod_sandbox_id,
                ..Default::default()
            };
            Ok(Response::new(ListContainersResponse {
                containers: vec![container],
            }))
        }

        async fn container_status(
            &self,
            request: Request<ContainerStatusRequest>,
        ) -> Result<Response<ContainerStatusResponse>, Status> {
            if request.into_inner().container_id == "unreadable" {
                return Err(Status::internal("its directory is gone"));
            }
            let status = ContainerStatus {
                state: ContainerState::ContainerRunning.into(),
                ..Default::default()
            };
            Ok(Response::new(ContainerStatusResponse {
                status: Some(status),
                info: BTreeMap::from([("info".to_owned(), r#"{"pid":4711}"#.to_owned())]),
            }))
        }
    }

    #[tokio::test]
    async fn one_unreadable_container_keeps_no_other_from_being_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("cri.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
        let incoming = futures::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(RuntimeServiceServer::new(Containers));
        tokio::spawn(server.serve_with_incoming(incoming));
        let runtime = CriRuntime::new(&socket, "ambit-system");
        assert!(runtime.is_ztunnel(4711).await.expect("found"));
        // Whether the other one is that process is not known.
        runtime.is_ztunnel(4712).await.expect_err("unreadable");
    }

    #[test]
    fn the_namespace_is_read_from_the_runtimes_spec() {
        let json = r#"{"pid":4711,"config":{},"runtimeSpec":{"ociVersion":"1.0.2","linux":{"namespaces":[
            {"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
        let info = parse_info(&BTreeMap::from([("info".to_owned(), json.to_owned())]), "a").expect("parsed");
        let expected = ["/run/netns/cni-1", "/proc/4711/ns/net"].map(PathBuf::from);
        assert_eq!(netns_paths(&info), expected);
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_no_path() {
        let json = r#"{"pid":4711,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"}]}}}"#;
        let info = parse_info(&BTreeMap::from([("info".to_owned(), json.to_owned())]), "a").expect("parsed");
        assert_eq!(netns_paths(&info), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_answer_without_a_pid_is_an_error() {
        let error = parse_info(&BTreeMap::new(), "sandbox-1").expect_err("nothing to parse");
        assert!(error.to_string().contains("sandbox-1"));
    }
}
