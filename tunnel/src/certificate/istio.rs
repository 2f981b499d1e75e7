//! Istio's CA call, `istio.v1.auth.IstioCertificateService`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::ca::IstioCertificateRequest;
use ambit_wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use prost_types::{Struct, Value, value::Kind};
use rustls_pki_types::CertificateDer;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{CertificateError, CertificateSource};
use crate::identity::SpiffeId;

/// Gives the bearer token of the next call; projected tokens are rotated, so it is read each time.
pub type TokenSource = Arc<dyn Fn() -> std::io::Result<String> + Send + Sync>;

/// A client of `IstioCertificateService`.
pub struct IstioCa {
    client: IstioCertificateServiceClient<Channel>,
    token: TokenSource,
    validity: Duration,
}

impl IstioCa {
    /// Asks over `channel`, authenticated by `token`, for certificates that last `validity` (the CA may shorten it).
    pub fn new(channel: Channel, token: TokenSource, validity: Duration) -> Self {
        Self {
            client: IstioCertificateServiceClient::new(channel),
            token,
            validity,
        }
    }

    fn request(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Request<IstioCertificateRequest>, CertificateError> {
        let impersonated = Value {
            kind: Some(Kind::StringValue(identity.to_string())),
        };
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), impersonated)]),
            }),
        });
        let token = (self.token)().map_err(|error| {
            CertificateError::Unavailable(format!("reading the service-account token: {error}"))
        })?;
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
            CertificateError::Unavailable("the service-account token is no header value".to_owned())
        })?;
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}

#[async_trait::async_trait]
impl CertificateSource for IstioCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let request = self.request(identity, csr)?;
        let response = self
            .client
            .clone()
            .create_certificate(request)
            .await
            .map_err(refusal)?;
        let blocks = pem::parse_many(response.into_inner().cert_chain.join("\n"))
            .map_err(CertificateError::invalid)?;
        Ok(blocks
            .into_iter()
            .map(|block| CertificateDer::from(block.into_contents()))
            .collect())
    }
}

fn refusal(status: Status) -> CertificateError {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            CertificateError::Refused(status.message().to_owned())
        }
        code => CertificateError::Unavailable(format!("{code:?}: {}", status.message())),
    }
}
