//! Fields of an object that have the operator's last value, by `metadata.managedFields`.
//!
//! The API server takes a field from its manager when somebody else changes or removes its value. So changes by hand
//! are found without comparing values, which the API server may have normalized.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::reconcile::FIELD_MANAGER;

/// The fields of one object that the operator owns (`FieldsV1` of the Kubernetes API: `f:` before a field's name, `k:`
/// before the keys of an element of a list, `v:` before an element of a set).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::reconcile) struct Owned(Arc<Value>);

impl Owned {
    /// The operator's fields of an object with this metadata.
    pub(in crate::reconcile) fn of(meta: &ObjectMeta) -> Self {
        let mut all = Value::Null;
        // The result of a webhook for an applied object counts as an update by the same manager.
        let entries = meta.managed_fields.iter().flatten().filter(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        });
        for fields in entries.filter_map(|entry| entry.fields_v1.as_ref()) {
            add(&mut all, &fields.0);
        }
        Self(Arc::new(all))
    }

    /// Whether the operator still owns every field to which `object` gives a value.
    pub(in crate::reconcile) fn covers(&self, object: &Value) -> bool {
        // Fields that identify an object cannot change, and are not recorded.
        within(&self.0, object, &["apiVersion", "kind", "metadata"])
            && object.get("metadata").is_none_or(|metadata| {
                let fields = self.0.get("f:metadata").unwrap_or(&Value::Null);
                within(fields, metadata, &["name", "namespace"])
            })
    }
}

fn add(all: &mut Value, more: &Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (key, fields) in more {
                add(all.entry(key).or_insert(Value::Null), fields);
            }
        }
        (all, more) => *all = more.clone(),
    }
}

fn within(fields: &Value, desired: &Value, but: &[&str]) -> bool {
    let members = desired.as_object().into_iter().flatten();
    members
        .filter(|(key, _)| !but.contains(&key.as_str()))
        .all(|(key, value)| holds(fields.get(format!("f:{key}")), value))
}

fn holds(fields: Option<&Value>, desired: &Value) -> bool {
    if is_nothing(desired) {
        return true;
    }
    let Some(Value::Object(fields)) = fields else {
        return false;
    };
    match desired {
        // A value, or a list or an object with one owner as a whole.
        _ if fields.is_empty() => true,
        Value::Object(members) => members
            .iter()
            .all(|(key, value)| holds(fields.get(&format!("f:{key}")), value)),
        Value::Array(elements) => elements
            .iter()
            .all(|element| holds(of_element(fields, element), element)),
        _ => true,
    }
}

/// Values that equal an absent field: the API server omits them.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The fields of an element of a list. Keys that have a default may be missing in the element.
fn of_element<'a>(fields: &'a Map<String, Value>, element: &Value) -> Option<&'a Value> {
    let (_, found) = fields.iter().find(|(name, _)| {
        if let Some(Ok(Value::Object(keys))) = name.strip_prefix("k:").map(serde_json::from_str) {
            return keys
                .iter()
                .all(|(key, value)| element.get(key).is_none_or(|desired| desired == value));
        }
        let value = name.strip_prefix("v:").map(serde_json::from_str::<Value>);
        matches!(value, Some(Ok(value)) if value == *element)
    })?;
    Some(found)
}

#[cfg(test)]
mod tests;
