//! An API server in memory: objects by path, with resource versions. Enough for reconcilers; patches of any kind merge.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use ambit_crds::labels;
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::{FIELD_MANAGER, HostSettings, ImageSettings, Settings};

/// The operator's settings in tests.
pub(super) fn settings() -> Settings {
    Settings {
        namespace: "ambit-system".into(),
        identity: "op".into(),
        images: ImageSettings {
            agent: "registry.example/ambit/agent:1.2.3".into(),
            ztunnel: "registry.example/ambit/ztunnel:1.2.3".into(),
            waypoint: "registry.example/ambit/waypoint:1.2.3".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: Vec::new(),
        },
        host: HostSettings {
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            runtime_socket: "/run/containerd/containerd.sock".into(),
            agent_selinux_type: String::new(),
        },
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        log_format: "text".into(),
        root_certificate: "PEM".into(),
    }
}

/// `managedFields` as an API server (Kubernetes 1.34) has them for an object that the operator has applied, as the
/// child of a Mesh with UID 1234.
pub(super) fn recorded(kind: &str, name: &str) -> ObjectMeta {
    let all: Value = serde_json::from_str(include_str!("testing/managed-fields.json")).unwrap();
    let fields = all.get(format!("{kind} {name}")).unwrap();
    let meta =
        json!({"managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}]});
    serde_json::from_value(meta).unwrap()
}

/// A writing request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    writes: Vec<Write>,
    /// Paths that were read.
    reads: Vec<String>,
    version: u64,
    silent: bool,
    /// Namespaces in which nothing can be created.
    leaving: BTreeSet<String>,
    /// Paths that refuse writes.
    refused: BTreeSet<String>,
    /// Number of writes, or attempts, by path.
    attempts: BTreeMap<String, usize>,
}

/// The server.
#[derive(Clone, Debug, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    /// A client of it.
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                if server.0.lock().unwrap().silent {
                    std::future::pending::<()>().await;
                }
                let (head, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (status, answer) = server.answer(&head.method, head.uri.path(), body);
                let response = Response::builder()
                    .status(status)
                    .body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object at `path`.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    /// The object at `path`.
    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes fields of the object at `path`, as `kubectl` would: `fields` are pointers to the fields that the
    /// operator no longer owns.
    pub(super) fn edit(&self, path: &str, change: Value, fields: &[&str]) {
        let mut object = self.get(path).unwrap();
        merge(&mut object, change);
        let generation = object["metadata"]["generation"].as_u64().unwrap_or_default();
        object["metadata"]["generation"] = (generation + 1).into();
        for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
            for pointer in fields {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                let parent = entry.pointer_mut(&format!("/fieldsV1{}", parent.replace('/', "/f:")));
                parent
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .remove(&format!("f:{field}"));
            }
        }
        self.put(path, object);
    }

    /// Removes the operator's label from the object at `path`.
    pub(super) fn unlabel(&self, path: &str) {
        let change = json!({"metadata": {"labels": {labels::MANAGED_BY: null}}});
        self.edit(path, change, &["/metadata/labels"]);
    }

    /// The object at `path`, as a watch by that label shows it.
    pub(super) fn labelled(&self, path: &str) -> Option<Value> {
        let object = self.get(path)?;
        let label = &object["metadata"]["labels"][labels::MANAGED_BY];
        (*label == labels::OPERATOR).then_some(object)
    }

    /// Whether requests get no response, from now on.
    pub(super) fn silence(&self, silent: bool) {
        self.0.lock().unwrap().silent = silent;
    }

    /// The namespace is being deleted: nothing can be created in it.
    pub(super) fn leave(&self, namespace: &str) {
        self.0.lock().unwrap().leaving.insert(namespace.to_owned());
    }

    /// Whether an admission webhook refuses writes to `path`, from now on.
    pub(super) fn refuse(&self, path: &str, refused: bool) {
        let mut state = self.0.lock().unwrap();
        if refused {
            state.refused.insert(path.to_owned());
        } else {
            state.refused.remove(path);
        }
    }

    /// Number of attempts to write to `path`.
    pub(super) fn attempts(&self, path: &str) -> usize {
        self.0
            .lock()
            .unwrap()
            .attempts
            .get(path)
            .copied()
            .unwrap_or_default()
    }

    /// Removes the object at `path`.
    pub(super) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// Does the garbage collector's work for an owner that is being deleted in the foreground: deletes everything that
    /// it alone owns, and removes the reference to it from what has another owner.
    pub(super) fn collect(&self, owner: &str) {
        let mut state = self.0.lock().unwrap();
        state.objects.retain(|_, object| {
            let owners = object["metadata"]["ownerReferences"].as_array_mut();
            let Some(owners) = owners.filter(|all| !all.is_empty()) else {
                return true;
            };
            owners.retain(|o| o["uid"] != owner);
            !owners.is_empty()
        });
    }

    /// Writes since the last call, without Events.
    pub(super) fn writes(&self) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.0.lock().unwrap().writes);
        writes.retain(|w| !w.path.ends_with("/events"));
        writes
    }

    /// The paths that were read since the last call.
    pub(super) fn reads(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().reads)
    }

    /// Reason and note of the Events about the object of this UID.
    pub(super) fn events(&self, uid: &str) -> Vec<(String, String)> {
        self.events_about(|regarding| regarding["uid"] == uid)
    }

    /// The same for the objects that `about` selects.
    pub(super) fn events_about(&self, about: impl Fn(&Value) -> bool) -> Vec<(String, String)> {
        let state = self.0.lock().unwrap();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        let events = events.filter(|(_, event)| about(&event["regarding"]));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events
            .map(|(_, event)| (text(&event["reason"]), text(&event["note"])))
            .collect()
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut state = self.0.lock().unwrap();
        if *method == Method::GET {
            state.reads.push(path.to_owned());
        } else {
            state.writes.push(Write {
                method: method.clone(),
                path: path.to_owned(),
                body: body.clone(),
            });
            *state.attempts.entry(path.to_owned()).or_default() += 1;
            if state.refused.contains(path) {
                return refusal(StatusCode::FORBIDDEN);
            }
        }
        // A status is stored with its object.
        let place = path.strip_suffix("/status").unwrap_or(path);
        let found = state.objects.get(place).cloned();
        match (method.as_str(), found) {
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("GET", None) if path.ends_with("/nodes") || path.ends_with("/pods") => {
                let inside = format!("{path}/");
                let items: Vec<_> = state
                    .objects
                    .iter()
                    .filter(|(p, _)| p.starts_with(&inside))
                    .map(|(_, o)| o.clone())
                    .collect();
                (StatusCode::OK, json!({"metadata": {}, "items": items}))
            }
            ("POST", _) => {
                let name = body
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let place = format!("{path}/{name}");
                if state.objects.contains_key(&place) {
                    return refusal(StatusCode::CONFLICT);
                }
                (StatusCode::CREATED, state.store(&place, body))
            }
            ("PUT", Some(object)) => {
                let version = "/metadata/resourceVersion";
                if body.pointer(version) != object.pointer(version) {
                    return refusal(StatusCode::CONFLICT);
                }
                (StatusCode::OK, state.store(place, body))
            }
            ("PATCH", found) if found.is_some() || body.get("apiVersion").is_some() => {
                let leaving = |namespace: &String| path.contains(&format!("/namespaces/{namespace}/"));
                if found.is_none() && state.leaving.iter().any(leaving) {
                    let mut refused = refusal(StatusCode::FORBIDDEN);
                    refused.1["details"] = json!({"causes": [{"reason": "NamespaceTerminating"}]});
                    return refused;
                }
                let code = match found {
                    Some(_) => StatusCode::OK,
                    None => StatusCode::CREATED,
                };
                let mut object = found.unwrap_or_else(|| json!({}));
                let other = |field| {
                    let desired = body.pointer(field).filter(|desired| !desired.is_null());
                    desired.is_some_and(|desired| object.pointer(field) != Some(desired))
                };
                if ["/metadata/uid", "/metadata/resourceVersion"]
                    .into_iter()
                    .any(other)
                {
                    return refusal(StatusCode::CONFLICT);
                }
                let applied = body.get("apiVersion").is_some() && place == path;
                let owned = applied.then(|| fields(&body));
                if let Some(owned) = &owned {
                    let before = object["metadata"]["managedFields"].as_array().cloned();
                    let before = before
                        .into_iter()
                        .flatten()
                        .find(|e| e["manager"] == FIELD_MANAGER);
                    let before = before.map(|e| e["fieldsV1"].clone()).unwrap_or_default();
                    give_up(&mut object, &before, owned);
                }
                // The operator owns all of a status.
                if place != path {
                    object["status"].take();
                }
                merge(&mut object, body);
                if let Some(owned) = owned {
                    object["metadata"]["managedFields"] =
                        json!([{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": owned}]);
                }
                (code, state.store(place, object))
            }
            ("DELETE", Some(object)) => {
                let desired = body.pointer("/preconditions/uid").filter(|uid| !uid.is_null());
                if desired.is_some_and(|uid| object.pointer("/metadata/uid") != Some(uid)) {
                    return refusal(StatusCode::CONFLICT);
                }
                state.objects.remove(place);
                (StatusCode::OK, object)
            }
            _ => refusal(StatusCode::NOT_FOUND),
        }
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        if object["metadata"]["generation"].is_null() {
            object["metadata"]["generation"] = 1.into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

fn refusal(code: StatusCode) -> (StatusCode, Value) {
    let reason = match code {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::FORBIDDEN => "Forbidden",
        _ => "NotFound",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code.as_u16(),
    });
    (code, status)
}

/// The applied fields as managed fields; lists have one owner as a whole.
fn fields(applied: &Value) -> Value {
    let members = applied.as_object().into_iter().flatten();
    members
        .map(|(key, value)| (format!("f:{key}"), fields(value)))
        .collect()
}

/// Removes fields that were applied `before` and are not any more.
fn give_up(object: &mut Value, before: &Value, now: &Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    for (field, inner) in before.as_object().into_iter().flatten() {
        let Some(name) = field.strip_prefix("f:") else {
            continue;
        };
        match (now.get(field), object.get_mut(name)) {
            (None, _) => {
                object.remove(name);
            }
            (Some(now), Some(value)) => give_up(value, inner, now),
            (Some(_), None) => {}
        }
    }
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, Value::Object(patch)) => {
            *target = json!({});
            merge(target, Value::Object(patch));
        }
        (target, patch) => *target = patch,
    }
}
