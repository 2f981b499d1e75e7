use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use tracing::info;

use super::{AuthorityError, CertificateAuthority};

const SECRET: &str = "ambit-ca";
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOT: &str = "root-cert.pem";

/// Why there is no certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refused or could not be reached.
    #[error("Secret {namespace}/{SECRET}: {source}")]
    Api {
        /// The Secret's namespace.
        namespace: String,
        /// The API's error.
        source: Box<kube::Error>,
    },
    /// The Secret lacks one of its keys.
    #[error(
        "Secret {namespace}/{SECRET} has no text under {key:?}: correct it, or delete the Secret to \
         start with a new root (which every proxy has to receive)"
    )]
    Incomplete {
        /// The Secret's namespace.
        namespace: String,
        /// The missing key.
        key: &'static str,
    },
    /// The content is not a certificate authority.
    #[error("Secret {namespace}/{SECRET}: {source}")]
    Authority {
        /// The Secret's namespace.
        namespace: String,
        /// The cause.
        source: AuthorityError,
    },
}

/// The certificate authority in the Secret `ambit-ca` of `namespace` (keys `ca-cert.pem`, `ca-key.pem`,
/// `root-cert.pem`). If there is none, one is created and stored; if replicas start at once, one of them stores its own
/// and the others read that. An existing one is never overwritten.
pub async fn load_or_create(
    client: kube::Client,
    namespace: &str,
) -> Result<CertificateAuthority, StoreError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let api_error = |source: kube::Error| StoreError::Api {
        namespace: namespace.to_owned(),
        source: Box::new(source),
    };
    if let Some(secret) = secrets.get_opt(SECRET).await.map_err(api_error)? {
        return read(&secret, namespace);
    }
    let authority = CertificateAuthority::generate().map_err(|source| StoreError::Authority {
        namespace: namespace.to_owned(),
        source,
    })?;
    match secrets.create(&PostParams::default(), &secret(&authority)).await {
        Ok(_) => {
            info!(namespace, secret = SECRET, "new mesh root created");
            Ok(authority)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            read(&secrets.get(SECRET).await.map_err(api_error)?, namespace)
        }
        Err(e) => Err(api_error(e)),
    }
}

/// The root certificate of the authority stored in `namespace`, if there is one.
pub async fn stored_root(client: kube::Client, namespace: &str) -> Result<Option<String>, StoreError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let secret = secrets.get_opt(SECRET).await.map_err(|source| StoreError::Api {
        namespace: namespace.to_owned(),
        source: Box::new(source),
    })?;
    let authority = secret.map(|secret| read(&secret, namespace)).transpose()?;
    Ok(authority.map(|authority| authority.root_pem))
}

fn secret(authority: &CertificateAuthority) -> Secret {
    let data = [
        (CERTIFICATE, &authority.certificate_pem),
        (KEY, &authority.key_pem),
        (ROOT, &authority.root_pem),
    ];
    let labels = [
        ("app.kubernetes.io/name", SECRET),
        ("app.kubernetes.io/part-of", "ambit"),
    ]
    .map(|(k, v)| (k.into(), v.into()));
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some(BTreeMap::from(labels)),
            ..Default::default()
        },
        data: Some(
            data.map(|(key, pem)| (key.to_owned(), ByteString(pem.clone().into_bytes())))
                .into(),
        ),
        type_: Some("ambit.dev/ca".to_owned()),
        ..Default::default()
    }
}

fn read(secret: &Secret, namespace: &str) -> Result<CertificateAuthority, StoreError> {
    let text = |key| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes
            .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
            .ok_or(StoreError::Incomplete {
                namespace: namespace.to_owned(),
                key,
            })
    };
    CertificateAuthority::from_pem(text(KEY)?, text(CERTIFICATE)?, text(ROOT)?).map_err(|source| {
        StoreError::Authority {
            namespace: namespace.to_owned(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_restores_its_authority() {
        let authority = CertificateAuthority::generate().unwrap();
        let read = read(&secret(&authority), "mesh").unwrap();
        assert_eq!(read.root_pem(), authority.root_pem());
        assert_eq!(read.not_after(), authority.not_after());
    }

    #[test]
    fn broken_secret_is_reported_not_replaced() {
        let authority = CertificateAuthority::generate().unwrap();
        let mut incomplete = secret(&authority);
        incomplete.data.as_mut().unwrap().remove(KEY);
        let error = read(&incomplete, "mesh").err().unwrap().to_string();
        assert!(
            error.contains("mesh/ambit-ca") && error.contains("ca-key.pem"),
            "{error}"
        );

        let mut foreign = secret(&authority);
        let other = secret(&CertificateAuthority::generate().unwrap()).data.unwrap();
        foreign
            .data
            .as_mut()
            .unwrap()
            .insert(KEY.into(), other[KEY].clone());
        let error = read(&foreign, "mesh").err().unwrap().to_string();
        assert!(error.contains("not that of the certificate"), "{error}");
    }
}
