//! `Gateway`: as far as it declares a waypoint.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Desired state.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    namespaced,
    schema = "disabled",
    status = "GatewayStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Its GatewayClass.
    pub gateway_class_name: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Requested addresses.
    pub addresses: Vec<Value>,
    /// Settings of what is created for it.
    pub infrastructure: Option<Infrastructure>,
}

/// Where a Gateway listens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: i64,
    /// Its protocol.
    pub protocol: String,
    /// What may use it.
    pub allowed_routes: Option<AllowedRoutes>,
}

/// What may use a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; none: of all that the protocol has.
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// `Same` (default), `All` or `Selector`.
    pub from: Option<String>,
    /// Which, for `Selector`.
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteGroupKind {
    /// API group; absent: that of the Gateway API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    pub kind: String,
}

/// Settings of what is created for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// More settings, in another object.
    pub parameters_ref: Option<Value>,
}

/// Status of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// Where it is reached.
    pub addresses: Vec<GatewayStatusAddress>,
    /// Of the whole.
    pub conditions: Vec<Condition>,
    /// Of each listener.
    pub listeners: Vec<ListenerStatus>,
}

/// Where a Gateway is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GatewayStatusAddress {
    /// `IPAddress` or `Hostname`.
    pub r#type: Option<String>,
    /// The address.
    pub value: String,
}

/// Status of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it takes.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many it has.
    pub attached_routes: i32,
    /// What is to be said of it.
    pub conditions: Vec<Condition>,
}
