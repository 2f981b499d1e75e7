use super::*;

fn schema_of(name: &str) -> Value {
    let yaml = generate()
        .unwrap()
        .into_iter()
        .find(|(file, _)| file.starts_with(name))
        .unwrap()
        .1;
    let crd: Value = serde_yaml::from_str(&yaml).unwrap();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema")
        .unwrap()
        .clone()
}

/// Every property of the schema has a description: `kubectl explain` prints it.
fn undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            if property
                .get("description")
                .and_then(Value::as_str)
                .is_none_or(|d| d.trim().is_empty())
            {
                found.push(path.clone());
            }
            undocumented(property, &path, found);
        }
    }
    if let Some(items) = schema.get("items") {
        undocumented(items, path, found);
    }
}

#[test]
fn twice_is_the_same() {
    assert_eq!(generate().unwrap(), generate().unwrap());
    let files: Vec<_> = generate().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        files,
        [
            "meshes.ambit.dev.yaml",
            "ambientnamespaces.ambit.dev.yaml",
            "waypointpolicies.ambit.dev.yaml"
        ]
    );
}

#[test]
fn every_field_is_documented() {
    for name in ["meshes", "ambientnamespaces", "waypointpolicies"] {
        let mut found = Vec::new();
        undocumented(&schema_of(name), name, &mut found);
        assert_eq!(found, [] as [String; 0]);
    }
}

#[test]
fn the_schema_carries_defaults_bounds_and_list_keys() {
    let mesh = schema_of("meshes");
    let at = |schema: &Value, path: &str| schema.pointer(path).cloned().unwrap_or(Value::Null);
    assert_eq!(at(&mesh, "/properties/spec/default"), json!({}));
    assert_eq!(
        at(&mesh, "/properties/spec/properties/trustDomain/default"),
        json!("cluster.local")
    );
    assert_eq!(
        at(&mesh, "/properties/spec/properties/mtls/properties/mode/enum"),
        json!(["Permissive", "Strict"])
    );
    assert_eq!(
        at(
            &mesh,
            "/properties/status/properties/conditions/x-kubernetes-list-map-keys"
        ),
        json!(["type"])
    );
    let namespace = schema_of("ambientnamespaces");
    let rules = "/properties/spec/properties/authorization";
    assert_eq!(
        at(&namespace, &format!("{rules}/x-kubernetes-list-map-keys")),
        json!(["name"])
    );
    assert_eq!(
        at(
            &namespace,
            &format!("{rules}/items/properties/ports/items/minimum")
        ),
        json!(1.0)
    );
    assert_eq!(
        at(
            &namespace,
            &format!("{rules}/items/properties/ports/items/maximum")
        ),
        json!(65535.0)
    );
    assert_eq!(
        at(
            &namespace,
            &format!("{rules}/items/properties/ports/items/format")
        ),
        json!("int32")
    );
    assert_eq!(
        at(&namespace, &format!("{rules}/items/properties/mode/default")),
        json!("Enforce")
    );
}

/// As GEP-713 has it, so that tools list it among a Service's policies.
#[test]
fn waypoint_policies_are_policies_to_tools_of_the_gateway_api() {
    let files = generate().unwrap();
    let (_, yaml) = files
        .iter()
        .find(|(file, _)| file.starts_with("waypointpolicies"))
        .unwrap();
    let crd: Value = serde_yaml::from_str(yaml).unwrap();
    assert_eq!(
        crd["metadata"]["labels"]["gateway.networking.k8s.io/policy"],
        "Inherited"
    );
}

#[test]
fn status_in_force_names_its_api_version() {
    let policy = schema_of("waypointpolicies");
    let kept = policy
        .pointer("/properties/status/properties/inForce/properties/apiVersion")
        .unwrap();
    assert_eq!(kept["default"], "ambit.dev/v1alpha1");
    let mesh = schema_of("meshes");
    let configuration = mesh
        .pointer("/properties/status/properties/configuration/properties")
        .and_then(Value::as_object)
        .unwrap();
    assert_eq!(configuration.keys().collect::<Vec<_>>(), ["sent"]);
}
