//! `GatewayClass` and `XMesh`: both name the controller that implements them, and say what it supports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a [`GatewayClass`] and an [`XMesh`] say.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GatewayClass",
    plural = "gatewayclasses",
    schema = "disabled",
    status = "SupportStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// Who implements it.
    pub controller_name: String,
    /// More settings, in another object.
    pub parameters_ref: Option<Value>,
}

/// What an [`XMesh`] says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "gateway.networking.x-k8s.io",
    version = "v1alpha1",
    kind = "XMesh",
    plural = "xmeshes",
    schema = "disabled",
    status = "SupportStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct XMeshSpec {
    /// Who implements it.
    pub controller_name: String,
    /// More settings, in another object.
    pub parameters_ref: Option<Value>,
}

/// What a controller supports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SupportStatus {
    /// Whether the object is in use.
    pub conditions: Vec<Condition>,
    /// Features, by name. Earlier versions of the API have plain strings.
    pub supported_features: Vec<Value>,
}

/// Features of the Gateway API that Ambit supports, sorted: those that its conformance report (`docs/conformance`) claims, and the core
/// features of the report's profiles.
pub const FEATURES: [&str; 12] = [
    "GRPCRoute",
    "HTTPRoute",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn features_are_those_of_the_conformance_report() {
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let files = std::fs::read_dir(Path::new(&package).join("../docs/conformance"))
            .unwrap()
            .map(|file| file.unwrap().path());
        let reports: Vec<_> = files
            .filter(|f| f.extension().is_some_and(|e| e == "yaml"))
            .collect();
        assert_eq!(reports.len(), 1, "{reports:?}");
        let report = std::fs::read_to_string(&reports[0]).unwrap();
        let mut claimed = BTreeSet::new();
        let mut listed = false;
        for line in report.lines() {
            match line.trim().strip_prefix("- ") {
                Some(feature) if listed => _ = claimed.insert(feature.to_owned()),
                _ => listed = line.trim() == "supportedFeatures:",
            }
            let core: &[&str] = match line.trim() {
                "name: MESH-HTTP" => &["Mesh", "HTTPRoute"],
                "name: MESH-GRPC" => &["Mesh", "GRPCRoute"],
                _ => &[],
            };
            claimed.extend(core.iter().map(ToString::to_string));
        }
        let claimed: Vec<_> = claimed.into_iter().collect();
        assert_eq!(claimed, FEATURES);
    }
}
