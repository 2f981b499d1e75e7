//! Istio's CA call, `istio.v1.auth.IstioCertificateService`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ca::IstioCertificateRequest;
use crate::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::control_channel::TokenFile;
use prost_types::{Struct, Value, value::Kind};
use rustls_pki_types::CertificateDer;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use ambit_identity::SpiffeId;
use ambit_tls::{CertificateError, CertificateSource};

/// A client of `IstioCertificateService`.
pub struct IstioCa {
    client: IstioCertificateServiceClient<InterceptedService<Channel, TokenFile>>,
    validity: Duration,
}

impl IstioCa {
    /// A client over `channel`, authenticated by `token`, that requests certificates of this `validity` (the CA may
    /// shorten it).
    pub fn new(channel: Channel, token: TokenFile, validity: Duration) -> Self {
        Self {
            client: IstioCertificateServiceClient::with_interceptor(channel, token),
            validity,
        }
    }

    fn request(&self, identity: &SpiffeId, csr: String) -> IstioCertificateRequest {
        let impersonated = Value {
            kind: Some(Kind::StringValue(identity.to_string())),
        };
        IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), impersonated)]),
            }),
        }
    }
}

#[async_trait::async_trait]
impl CertificateSource for IstioCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let request = self.request(identity, csr);
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
