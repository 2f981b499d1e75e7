//! The mesh's root certificate: the control plane, which has the authority, publishes it as the ConfigMap
//! `ambit-ca-root` in its namespace, and the operator distributes it.

use std::time::Duration;

use ambit_crds::labels;
use ambit_wire::names::{CONTROL, ROOT_CONFIG_MAP, ROOT_KEY};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::control::{StoreError, stored_root};

/// Interval of attempts at the start, until it is published or read.
const RETRY: Duration = Duration::from_secs(1);
/// Interval of checks after that.
const LOOK: Duration = Duration::from_secs(10);

/// Why the root certificate is not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("ConfigMap {ROOT_CONFIG_MAP}: {0}")]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the Secret of the certificate authority is deleted: restart this process to start with a \
         new root"
    )]
    Missing,
    #[error(transparent)]
    Replaced(#[from] RootReplaced),
}

/// This process signs with a key that is no longer the mesh's.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Secret of the certificate authority has another root certificate than this process: restarting \
     with that"
)]
pub struct RootReplaced;

/// Publishes `root` in `namespace` and restores it, until the Secret of the certificate authority has another one. A
/// Secret that is deleted or cannot be read changes nothing.
pub async fn publish_root(client: &Client, namespace: &str, root: &str) -> RootReplaced {
    let mut pause = RETRY;
    loop {
        match publish(client, namespace, root).await {
            Ok(()) => pause = LOOK,
            Err(PublishError::Replaced(replaced)) => return replaced,
            Err(error) => warn!(%error, "the root certificate cannot be published yet; will try again"),
        }
        sleep(pause).await;
    }
}

async fn publish(client: &Client, namespace: &str, root: &str) -> Result<(), PublishError> {
    // If replicas have different authorities, only those with the stored one write, and only those continue. Checked
    // each time, since the new one may not be published yet.
    match stored_root(client.clone(), namespace).await? {
        Some(stored) if stored == root => {}
        Some(_) => return Err(RootReplaced.into()),
        None => return Err(PublishError::Missing),
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if maps
        .get_opt(ROOT_CONFIG_MAP)
        .await?
        .is_some_and(|map| text(&map) == Some(root))
    {
        return Ok(());
    }
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ROOT_CONFIG_MAP, "labels": {
            labels::PART_OF: labels::AMBIT,
            labels::MANAGED_BY: CONTROL,
        }},
        "data": {ROOT_KEY: root},
    });
    let parameters = PatchParams::apply(CONTROL).force();
    maps.patch(ROOT_CONFIG_MAP, &parameters, &Patch::Apply(&map))
        .await?;
    info!(namespace, "root certificate published");
    Ok(())
}

/// The root certificate published in `namespace`, however long that takes; `obstacle` gets the missing part.
pub async fn root_certificate(
    client: &Client,
    namespace: &str,
    obstacle: &watch::Sender<Option<String>>,
) -> String {
    loop {
        let missing = match published(client, namespace).await {
            Ok(Some(root)) => {
                obstacle.send_replace(None);
                return root;
            }
            Ok(None) => {
                format!("{CONTROL} has not published ConfigMap {namespace}/{ROOT_CONFIG_MAP} yet")
            }
            Err(error) => format!("ConfigMap {namespace}/{ROOT_CONFIG_MAP}: {error}"),
        };
        let waits = format!("no root certificate: {missing}");
        if obstacle.send_replace(Some(waits.clone())).as_ref() != Some(&waits) {
            warn!("{waits}; will try again");
        }
        sleep(RETRY).await;
    }
}

/// Resolves when another root certificate than `root` is published in `namespace`.
pub async fn root_replaced(client: &Client, namespace: &str, root: &str) {
    loop {
        sleep(LOOK).await;
        // If there is none, or it cannot be read, the known one stays.
        if let Ok(Some(published)) = published(client, namespace).await
            && published != root
        {
            return;
        }
    }
}

async fn published(client: &Client, namespace: &str) -> kube::Result<Option<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get_opt(ROOT_CONFIG_MAP).await?;
    Ok(map.as_ref().and_then(text).map(str::to_owned))
}

fn text(map: &ConfigMap) -> Option<&str> {
    let text = map.data.as_ref()?.get(ROOT_KEY)?;
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::control::load_or_create;
    use crate::reconcile::testing::Server;

    const MAP: &str = "/api/v1/namespaces/ambit-system/configmaps/ambit-ca-root";
    const SECRET: &str = "/api/v1/namespaces/ambit-system/secrets/ambit-ca";

    fn published(server: &Server) -> Option<String> {
        let map = server.get(MAP)?;
        Some(map["data"][ROOT_KEY].as_str()?.to_owned())
    }

    /// The operator waits, and reports for what, until the control plane has published the certificate.
    #[tokio::test(start_paused = true)]
    async fn missing_root_certificate_is_reported() {
        let server = Server::default();
        let client = server.client();
        let (obstacle, mut obstacles) = watch::channel(None);
        let asked = client.clone();
        let waiting = tokio::spawn(async move { root_certificate(&asked, "ambit-system", &obstacle).await });
        let text = obstacles
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(
            text.contains("ambit-control has not published ConfigMap ambit-system/ambit-ca-root yet"),
            "{text}"
        );
        server.put(MAP, json!({"data": {ROOT_KEY: ""}}));
        let authority = load_or_create(client.clone(), "ambit-system").await.unwrap();
        let root = authority.root_pem().to_owned();
        let publishing =
            tokio::spawn(async move { publish_root(&client, "ambit-system", authority.root_pem()).await });
        assert_eq!(waiting.await.unwrap(), root);
        assert_eq!(*obstacles.borrow(), None);
        publishing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn published_root_is_the_stored_one() {
        let server = Server::default();
        let client = server.client();
        let old = load_or_create(client.clone(), "ambit-system").await.unwrap();
        publish(&client, "ambit-system", old.root_pem()).await.unwrap();
        assert_eq!(published(&server).as_deref(), Some(old.root_pem()));
        server.remove(MAP);
        publish(&client, "ambit-system", old.root_pem()).await.unwrap();
        assert_eq!(published(&server).as_deref(), Some(old.root_pem()));

        let (asked, known) = (client.clone(), old.root_pem().to_owned());
        let replaced = tokio::spawn(async move { root_replaced(&asked, "ambit-system", &known).await });
        server.remove(SECRET);
        let new = load_or_create(client.clone(), "ambit-system").await.unwrap();
        publish(&client, "ambit-system", new.root_pem()).await.unwrap();
        // A replica with the old root does not restore it.
        let refused = publish(&client, "ambit-system", old.root_pem()).await;
        assert!(matches!(refused, Err(PublishError::Replaced(_))), "{refused:?}");
        assert_eq!(published(&server).as_deref(), Some(new.root_pem()));
        replaced.await.unwrap();
    }

    /// Only replicas with the key of the mesh continue to sign.
    #[tokio::test(start_paused = true)]
    async fn process_with_another_root_ends() {
        let server = Server::default();
        let client = server.client();
        let old = load_or_create(client.clone(), "ambit-system").await.unwrap();
        let (asked, root) = (client.clone(), old.root_pem().to_owned());
        let publishing = tokio::spawn(async move { publish_root(&asked, "ambit-system", &root).await });
        let looks_again = || async {
            server.reads();
            while !server.reads().iter().any(|path| path == SECRET) {
                sleep(LOOK).await;
            }
        };
        looks_again().await;
        assert_eq!(published(&server).as_deref(), Some(old.root_pem()));
        // A missing or unreadable Secret is not another root.
        server.remove(SECRET);
        looks_again().await;
        server.put(SECRET, json!({"data": {}}));
        looks_again().await;
        looks_again().await;
        assert!(!publishing.is_finished());
        // The ConfigMap still has the old one: no other process has started.
        server.remove(SECRET);
        load_or_create(client, "ambit-system").await.unwrap();
        let replaced = timeout(LOOK * 10, publishing).await.unwrap().unwrap();
        assert!(
            replaced.to_string().contains("another root certificate"),
            "{replaced}"
        );
        assert_eq!(published(&server).as_deref(), Some(old.root_pem()));
    }
}
