//! Edits the text of the node's CNI configuration: adds the plugin, and removes it again.

use super::plugin::VERSIONS;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The name of the plugin: its `type` in a conflist, and the name of its file.
pub(super) const PLUGIN: &str = "ambit-cni";
/// Marks a list that was made from the file of a single plugin, so that the file can be restored.
const CONVERTED: &str = "ambit.dev/converted-from";

/// The configuration cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A version of CNI that the plugin does not support. With the plugin in such a list, no pod of the node would
    /// start.
    #[error("ambit-cni does not support its cniVersion {0} ({known})", known = VERSIONS.join(", "))]
    Version(String),
    /// Not a CNI configuration.
    #[error("not a CNI configuration: {0}")]
    Shape(&'static str),
}

/// The settings in the plugin's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PluginConfig {
    pub(super) exempt_namespaces: Vec<String>,
    pub(super) socket: std::path::PathBuf,
}

impl PluginConfig {
    fn entry(&self) -> Value {
        json!({"type": PLUGIN, "exemptNamespaces": self.exempt_namespaces, "socket": self.socket})
    }
}

/// The conflist in `text` with the plugin as its last entry; `None` if it has that entry already. The configuration of
/// a single plugin (`name` is the name of its file) becomes a list.
pub(super) fn with_plugin(
    text: &str,
    name: &str,
    plugin: &PluginConfig,
) -> Result<Option<String>, ConfigError> {
    let config: Value = serde_json::from_str(text)?;
    let mut list = as_list(config, name)?;
    known_versions(&list)?;
    let entries = plugins(&mut list)?;
    let ours = plugin.entry();
    if entries.last() == Some(&ours)
        && entries.iter().filter(|entry| is_ours(entry)).count() == 1
        && is_conflist(name)
    {
        return Ok(None);
    }
    entries.retain(|entry| !is_ours(entry));
    entries.push(ours);
    pretty(&list).map(Some)
}

/// The configuration in `text` without the plugin, and the original name of the file if that was another one; `None` if
/// the plugin is not in it.
pub(super) fn without_plugin(text: &str) -> Result<Option<(String, Option<String>)>, ConfigError> {
    let mut list: Value = serde_json::from_str(text)?;
    let converted = list.as_object_mut().and_then(|object| object.remove(CONVERTED));
    let original = converted.as_ref().and_then(Value::as_str).map(str::to_owned);
    let version = list.get("cniVersion").cloned();
    let network = list.get("name").cloned();
    let entries = plugins(&mut list)?;
    let before = entries.len();
    entries.retain(|entry| !is_ours(entry));
    if entries.len() == before {
        return Ok(None);
    }
    match (original, entries.as_mut_slice()) {
        (Some(original), [single]) => {
            let object = single
                .as_object_mut()
                .ok_or(ConfigError::Shape("an entry is not an object"))?;
            for (key, value) in [("cniVersion", version), ("name", network)] {
                if let Some(value) = value {
                    object.insert(key.to_owned(), value);
                }
            }
            Ok(Some((pretty(single)?, Some(original))))
        }
        _ => Ok(Some((pretty(&list)?, None))),
    }
}

/// Whether the file is a list, by its name.
pub(super) fn is_conflist(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "conflist")
}

/// The name of the list that replaces the file of a single plugin. It has the same place in the order of names.
pub(super) fn list_name(name: &str) -> String {
    if is_conflist(name) {
        name.to_owned()
    } else {
        format!(
            "{}.conflist",
            name.trim_end_matches(".conf").trim_end_matches(".json")
        )
    }
}

fn as_list(config: Value, name: &str) -> Result<Value, ConfigError> {
    let Value::Object(mut object) = config else {
        return Err(ConfigError::Shape("it is not an object"));
    };
    if object.contains_key("plugins") {
        return Ok(Value::Object(object));
    }
    if !object.contains_key("type") {
        return Err(ConfigError::Shape("it has neither plugins nor a type"));
    }
    let mut list = Map::new();
    list.insert(
        "cniVersion".to_owned(),
        object.remove("cniVersion").unwrap_or_else(|| json!("0.3.1")),
    );
    list.insert(
        "name".to_owned(),
        object.remove("name").unwrap_or_else(|| json!("network")),
    );
    list.insert(CONVERTED.to_owned(), json!(name));
    list.insert("plugins".to_owned(), json!([object]));
    Ok(Value::Object(list))
}

/// The versions with which the runtime may call the plugins: `cniVersion`, or any of `cniVersions`.
fn known_versions(list: &Value) -> Result<(), ConfigError> {
    let several = list.get("cniVersions").and_then(Value::as_array);
    let mut versions: Vec<&Value> = several.into_iter().flatten().collect();
    versions.extend(list.get("cniVersion"));
    if versions.is_empty() {
        // libcni assumes this version for a list without one.
        return Err(ConfigError::Version("0.1.0".to_owned()));
    }
    let known = |version: &&Value| {
        version
            .as_str()
            .is_some_and(|version| VERSIONS.contains(&version))
    };
    match versions.iter().find(|version| !known(version)) {
        None => Ok(()),
        Some(Value::String(unknown)) => Err(ConfigError::Version(unknown.clone())),
        Some(other) => Err(ConfigError::Version(other.to_string())),
    }
}

fn plugins(list: &mut Value) -> Result<&mut Vec<Value>, ConfigError> {
    list.get_mut("plugins")
        .and_then(Value::as_array_mut)
        .ok_or(ConfigError::Shape("it has no list of plugins"))
}

fn is_ours(entry: &Value) -> bool {
    entry.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

fn pretty(value: &Value) -> Result<String, ConfigError> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin() -> PluginConfig {
        PluginConfig {
            exempt_namespaces: vec!["kube-system".into()],
            socket: "/run/ambit/cni/cni.sock".into(),
        }
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    const LIST: &str =
        r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","mtu":1400},{"type":"portmap"}]}"#;

    #[test]
    fn the_plugin_is_appended_once_and_removed_without_a_trace() {
        let with = with_plugin(LIST, "10-pods.conflist", &plugin())
            .expect("edited")
            .expect("changed");
        assert_eq!(value(&with)["plugins"][2]["type"], "ambit-cni");
        assert_eq!(
            with_plugin(&with, "10-pods.conflist", &plugin()).expect("read"),
            None
        );
        let (without, original) = without_plugin(&with).expect("edited").expect("changed");
        assert_eq!((value(&without), original), (value(LIST), None));
        assert_eq!(without_plugin(&without).expect("read"), None);
    }

    #[test]
    fn changed_settings_and_a_wrong_place_are_corrected() {
        let with = with_plugin(LIST, "10-pods.conflist", &plugin())
            .expect("edited")
            .expect("changed");
        let other = PluginConfig {
            exempt_namespaces: vec![],
            ..plugin()
        };
        let again = with_plugin(&with, "10-pods.conflist", &other)
            .expect("edited")
            .expect("changed");
        assert_eq!(value(&again)["plugins"].as_array().map(Vec::len), Some(3));
        let moved = r#"{"cniVersion":"1.0.0","name":"p","plugins":[{"type":"ambit-cni"},{"type":"bridge"}]}"#;
        let put_right = with_plugin(moved, "a.conflist", &plugin())
            .expect("edited")
            .expect("changed");
        assert_eq!(value(&put_right)["plugins"][1], plugin().entry());
    }

    #[test]
    fn a_version_that_the_plugin_does_not_know_is_refused() {
        let list = |versions: &str| format!(r#"{{{versions},"name":"p","plugins":[{{"type":"bridge"}}]}}"#);
        for known in [
            r#""cniVersion":"1.1.0""#,
            r#""cniVersions":["1.0.0","1.1.0"]"#,
            r#""cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0"]"#,
        ] {
            let with = with_plugin(&list(known), "a.conflist", &plugin()).expect(known);
            assert!(with.expect("changed").contains("ambit-cni"), "{known}");
        }
        for unknown in [
            r#""cniVersion":"2.0.0""#,
            r#""cniVersions":["1.1.0","2.0.0"]"#,
            r#""disableCheck":true"#,
        ] {
            let refused = with_plugin(&list(unknown), "a.conflist", &plugin());
            assert!(matches!(refused, Err(ConfigError::Version(_))), "{unknown}");
        }
    }

    #[test]
    fn a_single_plugins_file_becomes_a_list_and_back() {
        let single = r#"{"cniVersion":"0.4.0","name":"pods","type":"bridge","mtu":1400}"#;
        let with = with_plugin(single, "10-pods.conf", &plugin())
            .expect("edited")
            .expect("changed");
        assert_eq!(
            value(&with)["plugins"][0],
            value(r#"{"type":"bridge","mtu":1400}"#)
        );
        assert_eq!(list_name("10-pods.conf"), "10-pods.conflist");
        let (without, original) = without_plugin(&with).expect("edited").expect("changed");
        assert_eq!(
            (value(&without), original.as_deref()),
            (value(single), Some("10-pods.conf"))
        );
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        assert!(with_plugin("[1]", "a.conf", &plugin()).is_err());
        assert!(with_plugin("{", "a.conflist", &plugin()).is_err());
        assert!(with_plugin(r#"{"name":"x"}"#, "a.conflist", &plugin()).is_err());
    }
}
