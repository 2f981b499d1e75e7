//! Runs the CEL rules of a definition, as the API server would, after its defaults.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_cel::Validator;
use serde_json::Value;

/// The messages of the rules that `new` violates; as an update if `old` is given.
pub(crate) fn refusals(crd: &CustomResourceDefinition, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut json = serde_json::to_value(crd).unwrap();
    crate::generate::adapt(&mut json);
    let schema = json.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    match Validator::new().validate(schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|e| e.message).collect(),
    }
}
