//! The schema of the chart's values: Helm refuses what it does not know, by its name.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use serde_yaml::{Mapping, Value as Default};

use super::values::{Values, children};

/// The JSON schema (draft 7) of values.yaml.
pub(super) fn schema(values: &Values) -> Result<Value> {
    let mut schema = object(values, "", &values.defaults)?;
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Values of the chart ambit");
    Ok(schema)
}

fn object(values: &Values, path: &str, defaults: &Mapping) -> Result<Value> {
    let mut properties = Map::new();
    for (path, default) in children(path, defaults) {
        let key = path.rsplit('.').next().unwrap_or_default().to_owned();
        properties.insert(key, property(values, &path, default)?);
    }
    Ok(json!({ "type": "object", "additionalProperties": false, "properties": properties }))
}

fn property(values: &Values, path: &str, default: &Default) -> Result<Value> {
    let note = values.note(path)?;
    let mut schema = match (&note.kind, default) {
        (Some(kind), _) => named(kind).with_context(|| format!("values.yaml: {path}"))?,
        (None, Default::Mapping(fields)) if !fields.is_empty() => object(values, path, fields)?,
        (None, Default::Bool(_)) => json!({ "type": "boolean" }),
        (None, Default::Number(_)) => json!({ "type": "integer" }),
        (None, Default::String(_)) => json!({ "type": "string" }),
        (None, Default::Sequence(_)) if note.schema.contains_key("items") => json!({ "type": "array" }),
        _ => bail!("values.yaml: {path} needs a line `@type`: its value does not tell what is in it"),
    };
    schema["description"] = json!(note.text);
    for (key, value) in &note.schema {
        schema[key] = value.clone();
    }
    Ok(schema)
}

/// Types that a default value does not tell.
fn named(kind: &str) -> Result<Value> {
    let quantities = json!({ "type": "object", "additionalProperties": { "type": ["string", "number"] } });
    Ok(match kind {
        "strings" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        // Whatever Kubernetes has there: the API server checks it.
        "object" => json!({ "type": "object" }),
        "objects" => json!({ "type": "array", "items": { "type": "object" } }),
        "path" => json!({ "type": "string", "pattern": "^((/[^/]+){2,})?$" }),
        "pullSecrets" => json!({ "type": "array", "items": {
            "type": "object", "additionalProperties": false, "required": ["name"],
            "properties": { "name": { "type": "string", "minLength": 1 } },
        } }),
        "env" => json!({ "type": "array", "items": {
            "type": "object", "additionalProperties": false, "required": ["name"],
            "properties": {
                "name": { "type": "string", "minLength": 1 },
                "value": { "type": "string" },
                "valueFrom": { "type": "object" },
            },
        } }),
        "resources" => json!({
            "type": "object", "additionalProperties": false,
            "properties": { "requests": quantities, "limits": quantities, "claims": { "type": "array" } },
        }),
        "mesh" => mesh_spec()?,
        _ => bail!("there is no type {kind}"),
    })
}

/// The spec of the Mesh as its definition has it: a field that does not exist is refused before anything is installed.
fn mesh_spec() -> Result<Value> {
    let definitions = ambit_crds::generate()?;
    let mesh = definitions.iter().find(|(name, _)| name.starts_with("meshes."));
    let (_, text) = mesh.context("there is no definition of Mesh")?;
    let definition: Value = serde_yaml::from_str(text)?;
    let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    Ok(from_open_api(spec.context("Mesh has no spec")?))
}

/// A structural schema of Kubernetes as a JSON schema.
fn from_open_api(schema: &Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema.clone();
    };
    let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    let mut converted = Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            // The API server fills in defaults; formats and CEL rules are its own.
            (key, _)
                if key.starts_with("x-kubernetes-") || matches!(key, "default" | "format" | "nullable") =>
            {
                continue;
            }
            ("properties", Value::Object(all)) => all
                .iter()
                .map(|(name, of)| (name.clone(), from_open_api(of)))
                .collect(),
            ("items" | "additionalProperties", of) => from_open_api(of),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => all.iter().map(from_open_api).collect(),
            (_, value) => value.clone(),
        };
        converted.insert(key.clone(), value);
    }
    if converted.contains_key("properties") && !open {
        converted.entry("additionalProperties").or_insert(json!(false));
    }
    if fields.get("nullable") == Some(&json!(true))
        && let Some(kind) = converted.get_mut("type")
    {
        *kind = json!([kind.clone(), "null"]);
    }
    Value::Object(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Value> {
        schema(&Values::read(text)?)
    }

    #[test]
    fn types_follow_from_the_defaults_and_unknown_keys_are_refused() {
        let made = of("# A.\na:\n  # B.\n  # @schema {\"enum\": [\"x\"]}\n  b: x\n# C.\nc: 3\n# D.\n# @type strings\nd: {}\n").unwrap();
        let properties = &made["properties"];
        assert_eq!(made["additionalProperties"], false);
        assert_eq!(properties["a"]["additionalProperties"], false);
        assert_eq!(
            properties["a"]["properties"]["b"],
            json!({"type": "string", "description": "B.", "enum": ["x"]})
        );
        assert_eq!(properties["c"]["type"], "integer");
        assert_eq!(properties["d"]["additionalProperties"]["type"], "string");
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (text, words) in [
            ("# A.\na: {}\n", "a needs a line `@type`"),
            ("# A.\na: []\n", "a needs a line `@type`"),
            ("# A.\n# @type nonsense\na: {}\n", "no type nonsense"),
            ("a: 1\n", "a has no comment"),
        ] {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_mesh_has_its_fields_and_no_others() {
        let spec = mesh_spec().unwrap();
        assert_eq!(spec["additionalProperties"], false);
        assert_eq!(spec["properties"]["drainDeadline"]["type"], "string");
        assert_eq!(spec["properties"]["ztunnel"]["additionalProperties"], false);
        assert!(!spec.to_string().contains("x-kubernetes"));
    }
}
