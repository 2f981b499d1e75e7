//! Clients of the API server whose every request ends: with a response, or with an error after a time limit.

use std::time::Duration;

use hyper::{Method, Request};
use kube::Client;
use kube::client::Body;
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::time::timeout;
use tower::BoxError;

use super::{Health, Leadership};

/// A request that is not a list or a watch gets a response within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A page of a list, and the beginning of a watch, get a response within this time.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// Why a request was not sent, or was abandoned.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server did not respond in time.
    #[error("the API server did not respond within {0:?}")]
    Late(Duration),
    /// This replica no longer leads, and must not write.
    #[error("this replica no longer leads: the request was not sent")]
    NotLeading,
}

/// Counts requests.
#[derive(Clone, Debug)]
pub struct Requests(IntCounterVec);

impl Requests {
    /// Registers the counter.
    ///
    /// # Errors
    /// When the registry has a counter of this name.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "ambit_operator_api_requests_total",
            "Requests to the API server, by method and by outcome: ok, refused, failed (no connection), late (no response in time)",
        );
        let requests = IntCounterVec::new(opts, &["method", "outcome"])?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self(requests))
    }

    fn count(&self, method: &Method, outcome: &str) {
        self.0.with_label_values(&[method.as_str(), outcome]).inc();
    }
}

/// A client of the same server whose requests all end. `health` is notified of lists and watches that begin.
pub fn bounded(client: &Client, requests: &Requests, health: &Health) -> Client {
    let (inner, requests, health) = (client.clone(), requests.clone(), health.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, requests, health) = (inner.clone(), requests.clone(), health.clone());
        async move {
            let method = request.method().clone();
            let limit = match listed(&request) {
                Some(objects) => {
                    health.beat_watch(&objects);
                    LIST_LIMIT
                }
                None => REQUEST_LIMIT,
            };
            let sent = timeout(limit, inner.send(request)).await;
            let outcome = match &sent {
                Ok(Ok(response)) if response.status().is_success() => "ok",
                Ok(Ok(_)) => "refused",
                Ok(Err(_)) => "failed",
                Err(_) => "late",
            };
            requests.count(&method, outcome);
            match sent {
                Ok(response) => response.map_err(BoxError::from),
                Err(_) => Err(RequestError::Late(limit).into()),
            }
        }
    });
    Client::new(service, client.default_namespace())
}

/// A client of the same server that sends writes only while this replica leads, which is checked before each request.
pub(super) fn fenced(client: &Client, leadership: &Leadership) -> Client {
    let (inner, leadership) = (client.clone(), leadership.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, leadership) = (inner.clone(), leadership.clone());
        async move {
            if *request.method() != Method::GET && !*leadership.borrow() {
                return Err(BoxError::from(RequestError::NotLeading));
            }
            inner.send(request).await.map_err(BoxError::from)
        }
    });
    Client::new(service, client.default_namespace())
}

/// The subject of a list or a watch: its path and its selectors, without the page or the start version.
fn listed(request: &Request<Body>) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    let parameters = || query.split('&').filter_map(|p| Some((p, p.split_once('=')?.0)));
    let lists = parameters().any(|(_, name)| matches!(name, "limit" | "watch"));
    if *request.method() != Method::GET || !lists {
        return None;
    }
    let selectors = parameters().filter(|(_, name)| matches!(*name, "fieldSelector" | "labelSelector"));
    let selectors: Vec<_> = selectors.map(|(parameter, _)| parameter).collect();
    Some(match &*selectors {
        [] => request.uri().path().to_owned(),
        some => format!("{}?{}", request.uri().path(), some.join("&")),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{DeleteParams, ListParams, WatchParams};
    use tokio::sync::watch;

    use super::*;
    use crate::reconcile::testing::Server;

    fn maps(client: Client) -> Api<ConfigMap> {
        Api::namespaced(client, "shop")
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_response_end() {
        let server = Server::default();
        server.silence(true);
        let requests = Requests::new(&Registry::new()).unwrap();
        let api = maps(bounded(&server.client(), &requests, &Health::default()));
        let error = api.get("a").await.unwrap_err().to_string();
        assert!(error.contains("did not respond"), "{error}");
        let error = api.list(&ListParams::default().limit(500)).await.unwrap_err();
        assert!(error.to_string().contains("did not respond"), "{error}");
        assert_eq!(requests.0.with_label_values(&["GET", "late"]).get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_watch_is_found_beside_another_of_its_path() {
        let server = Server::default();
        let health = Health::default();
        let requests = Requests::new(&Registry::new()).unwrap();
        let api = maps(bounded(&server.client(), &requests, &health));
        let register = WatchParams::default().labels("ambit.dev/register=waypoints");
        let named = WatchParams::default().fields("metadata.name=ambit-data-plane");
        // Responses do not matter here.
        let _ = api.watch(&register, "1").await;
        let _ = api.watch(&named, "1").await;
        for version in 2..100 {
            tokio::time::advance(Duration::from_secs(60)).await;
            let _ = api.watch(&named, &version.to_string()).await;
        }
        let stuck = health.stuck().unwrap();
        assert!(
            stuck.contains("labelSelector=ambit.dev%2Fregister%3Dwaypoints"),
            "{stuck}"
        );
        // The watch restarts: first its list, then its watch.
        let _ = api
            .list(
                &ListParams::default()
                    .labels("ambit.dev/register=waypoints")
                    .limit(500),
            )
            .await;
        assert_eq!(health.stuck(), None);
    }

    #[tokio::test]
    async fn replica_without_lease_writes_nothing() {
        let server = Server::default();
        let (leads, leadership) = watch::channel(true);
        let api = maps(fenced(&server.client(), &leadership));
        let path = "/api/v1/namespaces/shop/configmaps/a";
        server.put(path, serde_json::json!({"metadata": {"name": "a"}}));
        leads.send_replace(false);
        assert!(api.get("a").await.is_ok());
        assert!(api.delete("a", &DeleteParams::default()).await.is_err());
        assert_eq!(server.writes(), []);
        leads.send_replace(true);
        api.delete("a", &DeleteParams::default()).await.unwrap();
        assert!(server.get(path).is_none());
    }
}
