//! Authentication and permissions of clients.

mod review;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ambit_wire::names::OPERATOR;
use tonic::metadata::MetadataMap;

use super::connection::{Call, Connection};
use super::interfaces::{AgentPod, Directory, PodInfo};
use super::refusal::{Addresses, Reason, Refusal};
use super::role::Role;
use review::ReviewCache;
pub use review::{KubeTokenReviewer, Review, ReviewError, TokenReviewer};

/// Service account of the node agents.
const AGENT: &str = "ambit-agent";
/// Service account of the ztunnels.
const ZTUNNEL: &str = "ambit-ztunnel";

/// An authenticated client.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) role: Role,
    pub(super) pod: PodInfo,
    pub(super) addresses: Addresses,
    /// Marks the call as in progress while it exists.
    pub(super) call: Arc<Call>,
    /// When the token expires.
    pub(super) expiry: SystemTime,
}

impl Caller {
    pub(super) fn node(&self) -> &str {
        &self.pod.node
    }

    /// The pod, as `namespace/name`.
    pub(super) fn proxy(&self) -> String {
        format!("{}/{}", self.pod.namespace, self.pod.name)
    }

    /// Namespace and name of the waypoint of which the client is a replica.
    pub(super) fn waypoint(&self) -> Option<(&str, &str)> {
        let name = self.pod.waypoint.as_deref()?;
        (self.role == Role::Waypoint).then_some((self.pod.namespace.as_str(), name))
    }

    pub(super) fn agent_pod(&self) -> AgentPod {
        AgentPod {
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            node: self.pod.node.clone(),
        }
    }

    pub(super) fn refuse(&self, reason: Reason, message: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            caller: self.to_string(),
            addresses: self.addresses,
            message: message.into(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodInfo {
            namespace,
            name,
            node,
            ..
        } = &self.pod;
        write!(f, "{} {namespace}/{name} on node {node}", self.role.label())
    }
}

/// Authenticates clients by their bearer tokens.
pub(super) struct Authenticator {
    system_namespace: String,
    reviews: ReviewCache,
    directory: Arc<dyn Directory>,
}

impl Authenticator {
    pub(super) fn new(
        system_namespace: String,
        reviewer: Arc<dyn TokenReviewer>,
        directory: Arc<dyn Directory>,
    ) -> Self {
        Self {
            system_namespace,
            reviews: ReviewCache::new(reviewer),
            directory,
        }
    }

    /// The client behind a request's metadata, if it may use the control plane.
    pub(super) async fn authenticate(
        &self,
        metadata: &MetadataMap,
        connection: &Connection,
    ) -> Result<Caller, Refusal> {
        let addresses = connection.addresses();
        let anonymous = |reason, message: String| Refusal {
            reason,
            caller: "unknown".to_owned(),
            addresses,
            message,
        };
        let token = bearer(metadata).ok_or_else(|| {
            anonymous(
                Reason::NoToken,
                "no bearer token in the call's metadata".to_owned(),
            )
        })?;
        let peer = addresses.peer.map(|peer| peer.ip());
        let (review, expiry) = self.reviews.review(token, peer).await.map_err(|e| match e {
            ReviewError::Invalid(why) => anonymous(Reason::InvalidToken, why),
            ReviewError::Busy(why) => anonymous(Reason::Limit, why),
            ReviewError::Unavailable(why) => anonymous(
                Reason::Unavailable,
                format!("the token cannot be reviewed: {why}"),
            ),
        })?;
        let refuse = |reason, message: String| Refusal {
            reason,
            caller: review.username.clone(),
            addresses,
            message,
        };
        let Some((namespace, service_account)) = review.service_account() else {
            return Err(refuse(
                Reason::NotAllowed,
                "only service accounts may call the control plane".to_owned(),
            ));
        };
        let role = match service_account {
            AGENT if namespace == self.system_namespace => Role::Agent,
            ZTUNNEL if namespace == self.system_namespace => Role::Ztunnel,
            OPERATOR if namespace == self.system_namespace => Role::Operator,
            // Its pod must be a waypoint's, see below.
            _ => Role::Waypoint,
        };
        if !self.directory.is_ready() {
            let message = "this replica has not finished its initial sync of pods: retry".to_owned();
            return Err(refuse(Reason::Unavailable, message));
        }
        let Some(uid) = &review.pod_uid else {
            return Err(refuse(
                Reason::UnboundToken,
                "the token is not bound to a pod".to_owned(),
            ));
        };
        let pod = self.directory.pod(uid);
        let pod =
            pod.ok_or_else(|| refuse(Reason::PodUnknown, format!("the token's pod {uid} is not live")))?;
        // Token and cache come from the same API server: if they differ, one of them is not genuine.
        let consistent = pod.namespace == namespace
            && pod.service_account == service_account
            && review.pod_name.as_ref().is_none_or(|name| *name == pod.name)
            && review.node_name.as_ref().is_none_or(|node| *node == pod.node)
            && !pod.node.is_empty();
        if !consistent {
            let message = format!(
                "the token's pod {:?} on node {:?} is {}/{} ({}) on node {:?} in the cluster",
                review.pod_name, review.node_name, pod.namespace, pod.name, pod.service_account, pod.node
            );
            return Err(refuse(Reason::PodUnknown, message));
        }
        let is_waypoint = pod.waypoint.as_deref() == Some(service_account)
            && review.uid.is_some()
            && review.uid == pod.service_account_uid;
        if role == Role::Waypoint && !is_waypoint {
            let message = format!(
                "service account {namespace}/{service_account} may not use the control plane: only \
                 {AGENT}, {ZTUNNEL} and {OPERATOR} of {} may, and replicas of waypoints that the \
                 operator created",
                self.system_namespace
            );
            return Err(refuse(Reason::NotAllowed, message));
        }
        Ok(Caller {
            role,
            pod,
            addresses,
            call: connection.call(),
            expiry,
        })
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}
