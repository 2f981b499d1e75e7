//! The other proxies' configurations: files in `bench/peers` with places to fill in.

use std::fs;
use std::path::{Path, PathBuf};

use ambit_bench::l7::{
    CLIENT, HBONE_PORT, HTTP_PORT, OTHER_PREFIX, PREFIX, RETRY_ATTEMPTS, RETRY_BACKOFF_MAX_MS,
    RETRY_BACKOFF_MS, RETRY_STATUS, SERVER, TIMEOUT_S, TRUST_DOMAIN, TRY_TIMEOUT_S, spiffe_id,
};
use anyhow::{Context, Result, bail};

use super::contestant::Contestant;
use super::stage::LOAD;
use crate::workspace;

/// Envoy's default text format goes to standard output, as our waypoint's log does.
const ACCESS_LOG: &str = "[{name: stdout, typed_config: {\"@type\": \
    type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}]";

/// Of a route in Envoy's configuration.
const ROUTE_INDENT: &str = "              ";

/// Writes the configuration `name` into `dir`, with all places filled in; returns its path.
pub(super) fn write(name: &str, dir: &Path, contestant: Contestant) -> Result<PathBuf> {
    let template = workspace::root().join("bench/peers").join(name);
    let text =
        fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
    let text = fill(&text, &values(dir, contestant)).with_context(|| template.display().to_string())?;
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn values(dir: &Path, contestant: Contestant) -> Vec<(&'static str, String)> {
    let seconds = |millis: u64| (millis as f64 / 1000.0).to_string();
    vec![
        ("DIR", dir.display().to_string()),
        ("BACKEND", LOAD.ip.to_string()),
        ("HTTP_PORT", HTTP_PORT.to_string()),
        ("HBONE_PORT", HBONE_PORT.to_string()),
        ("TRUST_DOMAIN", TRUST_DOMAIN.into()),
        ("CLIENT_ID", spiffe_id(CLIENT)),
        ("SERVER_ID", spiffe_id(SERVER)),
        ("PREFIX", PREFIX.into()),
        ("TIMEOUT", TIMEOUT_S.to_string()),
        ("TRY_TIMEOUT", TRY_TIMEOUT_S.to_string()),
        ("RETRY_ATTEMPTS", RETRY_ATTEMPTS.to_string()),
        ("RETRY_STATUS", RETRY_STATUS.to_string()),
        ("RETRY_BACKOFF", seconds(RETRY_BACKOFF_MS)),
        ("RETRY_BACKOFF_MAX", seconds(RETRY_BACKOFF_MAX_MS)),
        (
            "ACCESS_LOG",
            if contestant.writes_access_log() {
                ACCESS_LOG
            } else {
                "[]"
            }
            .into(),
        ),
        ("OTHER_ROUTES", other_routes(contestant.routes())),
    ]
}

/// Envoy's routes before the one that matches, as lines of a list at the place's indentation.
fn other_routes(count: usize) -> String {
    let route = |n| {
        format!(
            "- {{match: {{path_separated_prefix: {OTHER_PREFIX}{n}}}, route: {{cluster: server}}}}\n{ROUTE_INDENT}"
        )
    };
    (1..count).map(route).collect()
}

/// Replaces each `@NAME@`; a name is of capital letters and underscores, so that other uses of the sign are left alone.
fn fill(text: &str, values: &[(&str, String)]) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        let name = after.split_once('@').map(|(name, _)| name).unwrap_or_default();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        rest = after;
        if !is_name {
            filled.push('@');
            continue;
        }
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            bail!("nobody knows what @{name}@ is");
        };
        filled.push_str(value);
        rest = &after[name.len() + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_other_signs_left_alone() {
        let values = [("PORT", "80".to_owned())];
        assert_eq!(
            fill("\"@type\": @PORT@, a@b", &values).unwrap(),
            "\"@type\": 80, a@b"
        );
        let error = fill("@OTHER@", &values).unwrap_err().to_string();
        assert!(error.contains("@OTHER@"), "{error}");
    }

    #[test]
    fn every_configuration_has_only_known_places() {
        let dir = workspace::root().join("bench/peers");
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let values = values(Path::new("/dir"), Contestant::EnvoyLog);
        let filled: Vec<String> = files
            .map(|path| fill(&fs::read_to_string(path).unwrap(), &values).unwrap())
            .collect();
        assert_eq!(filled.len(), 4);
        assert!(filled.iter().all(|text| text.contains(&LOAD.ip.to_string())));
    }
}
