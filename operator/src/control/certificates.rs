use std::sync::Arc;
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_wire::ca::istio_certificate_service_server::IstioCertificateService;
use ambit_wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::value::Kind;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Shared;
use super::auth::Caller;
use super::ca::{IssueError, Issued};
use super::interfaces::MeshSettings;
use super::refusal::{Reason, Refusal};
use super::role::Role;

const WHAT: &str = "a certificate";
const IDENTITY_FIELD: &str = "ImpersonatedIdentity";

/// `IstioCertificateService`: certificates for the pods of a ztunnel's node, and for a waypoint its own.
pub(super) struct Certificates(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = self
            .0
            .caller(request.metadata(), request.extensions(), WHAT)
            .await?;
        let (identity, issued) = self.issue(&caller, request.get_ref()).await.map_err(|refusal| {
            self.0.metrics.not_issued(refusal.reason.label());
            refusal.record(&self.0.metrics, WHAT)
        })?;
        self.0.metrics.issued();
        let not_after = chrono::DateTime::<chrono::Utc>::from(issued.not_after).to_rfc3339();
        info!(%identity, %caller, not_after, "certificate issued");
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.chain,
        }))
    }
}

impl Certificates {
    async fn issue(
        &self,
        caller: &Caller,
        request: &IstioCertificateRequest,
    ) -> Result<(SpiffeId, Issued), Refusal> {
        let mesh = self.0.directory.mesh();
        let identity = match caller.role {
            Role::Ztunnel => self.of_node(caller, request, &mesh).await?,
            Role::Waypoint => own(caller, request, &mesh)?,
            Role::Agent | Role::Operator => {
                let message = format!("a client of type {} gets no certificates", caller.role.label());
                return Err(caller.refuse(Reason::NotAllowed, message));
            }
        };
        let requested = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or_default());
        let issued = self
            .0
            .authority
            .issue(&request.csr, &identity, requested, mesh.leaf_ttl);
        let issued = issued.map_err(|e| match e {
            IssueError::Request(_) => caller.refuse(Reason::BadRequest, e.to_string()),
            IssueError::Authority(_) => caller.refuse(Reason::Unavailable, e.to_string()),
        })?;
        Ok((identity, issued))
    }

    /// The identity that a ztunnel requests: that of a pod on its node.
    async fn of_node(
        &self,
        caller: &Caller,
        request: &IstioCertificateRequest,
        mesh: &MeshSettings,
    ) -> Result<SpiffeId, Refusal> {
        let identity = asked_for(request)
            .and_then(|asked| {
                asked.ok_or_else(|| {
                    format!("the request's metadata has no {IDENTITY_FIELD}, the SPIFFE id asked for")
                })
            })
            .map_err(|message| caller.refuse(Reason::BadRequest, message))?;
        if identity.trust_domain() != mesh.trust_domain {
            let message = format!("{identity} is not of the trust domain {}", mesh.trust_domain);
            return Err(caller.refuse(Reason::TrustDomain, message));
        }
        let (namespace, account) = (identity.namespace(), identity.service_account());
        let find = || self.0.directory.enrolled_pod(caller.node(), namespace, account);
        if self.0.find_or_wait(caller.node(), find).await.is_none() {
            let message = format!(
                "no pod on node {} that is enrolled, live and not on the host network has the identity \
                 {identity}",
                caller.node()
            );
            return Err(caller.refuse(Reason::NotOnNode, message));
        }
        Ok(identity)
    }
}

/// A waypoint's own identity, the only one that it may request.
fn own(caller: &Caller, request: &IstioCertificateRequest, mesh: &MeshSettings) -> Result<SpiffeId, Refusal> {
    let pod = &caller.pod;
    let own = SpiffeId::new(&mesh.trust_domain, &pod.namespace, &pod.service_account)
        .map_err(|e| caller.refuse(Reason::BadRequest, e.to_string()))?;
    let asked = asked_for(request).map_err(|message| caller.refuse(Reason::BadRequest, message))?;
    match asked {
        Some(other) if other != own => {
            let message = format!(
                "a waypoint gets a certificate of its own identity only, {own}: not \
                 {other}"
            );
            Err(caller.refuse(Reason::NotOwnIdentity, message))
        }
        _ => Ok(own),
    }
}

/// The SPIFFE id that a request names, if any.
fn asked_for(request: &IstioCertificateRequest) -> Result<Option<SpiffeId>, String> {
    let fields = request.metadata.as_ref().map(|metadata| &metadata.fields);
    match fields.and_then(|fields| fields.get(IDENTITY_FIELD)) {
        None => Ok(None),
        Some(value) => match &value.kind {
            Some(Kind::StringValue(text)) => {
                let identity = text.parse().map_err(|e| format!("{IDENTITY_FIELD}: {e}"))?;
                Ok(Some(identity))
            }
            _ => Err(format!(
                "{IDENTITY_FIELD} in the request's metadata is not a text"
            )),
        },
    }
}
