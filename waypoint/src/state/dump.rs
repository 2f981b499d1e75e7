//! The state in the config dump.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_l7::RouteSpec;
use ambit_mesh::Protocol;
use ambit_policy::Policy;
use ambit_policy::http::HttpRule;
use ambit_wire::waypoint_policy::{Retry, WaypointPolicy};
use serde::Serialize;

use super::{AppProtocol, Backend, ServiceConfig, ServiceEntry, State};

/// The whole state, by name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StateDump {
    settings: SettingsDump,
    services: BTreeMap<String, ServiceDump>,
    routes: BTreeMap<String, Vec<RouteRuleDump>>,
    backends: BTreeMap<String, BackendDump>,
    workloads: BTreeMap<String, WorkloadDump>,
    policies: BTreeMap<String, PolicyDump>,
    authorizations: BTreeMap<String, Policy>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingsDump {
    namespace: String,
    name: String,
    trust_domain: String,
    access_log: bool,
    workload_authorization: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDump {
    name: String,
    namespace: String,
    hostname: String,
    vips: Vec<String>,
    /// Port to protocol.
    ports: BTreeMap<u16, &'static str>,
    policies: Vec<String>,
    /// Routes, that with precedence first.
    routes: Vec<String>,
    /// All policies that apply, in order.
    rules: Vec<HttpRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<TimeoutDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryOfDump>,
    endpoints: BTreeMap<String, EndpointDump>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteRuleDump {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Of a TLSRoute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hostnames: Vec<String>,
    matches: usize,
    /// Names of backends, with port and weight.
    backends: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendDump {
    /// Port to protocol.
    ports: BTreeMap<u16, &'static str>,
    /// All policies that apply.
    rules: Vec<HttpRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_policy: Option<String>,
    endpoints: BTreeMap<String, EndpointDump>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TimeoutDump {
    policy: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryOfDump {
    policy: String,
    #[serde(flatten)]
    retry: RetryDump,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryDump {
    attempts: u32,
    status_codes: Vec<u16>,
    connect_failure: bool,
    reset: bool,
    per_try_timeout_seconds: Option<f64>,
    backoff_base_seconds: f64,
    backoff_max_seconds: f64,
    non_idempotent: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump {
    workload: String,
    status: &'static str,
    in_flight: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadDump {
    name: String,
    namespace: String,
    workload_ips: Vec<String>,
    identity: String,
    protocol: &'static str,
    status: &'static str,
    services: Vec<String>,
    identities_only: bool,
    authorization_policies: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyDump {
    rules: Vec<HttpRule>,
    timeout_seconds: Option<f64>,
    retry: Option<RetryDump>,
}

impl State {
    /// The whole state.
    pub(crate) fn dump(&self) -> StateDump {
        let settings = self.settings();
        let policies = self.policies.read().clone();
        StateDump {
            settings: SettingsDump {
                namespace: settings.namespace.clone(),
                name: settings.name.clone(),
                trust_domain: settings.trust_domain.clone(),
                access_log: settings.access_log,
                workload_authorization: strings(&settings.workload_authorization),
            },
            services: self
                .mesh
                .services()
                .iter()
                .map(|(config, entry)| (config.key.to_string(), service(config, entry)))
                .collect(),
            routes: self
                .routes
                .read()
                .iter()
                .map(|(name, route)| (name.to_string(), route_rules(&route.spec)))
                .collect(),
            backends: self
                .backends
                .read()
                .iter()
                .map(|(key, one)| (key.to_string(), backend(one, self.mesh.service(key).as_deref())))
                .collect(),
            workloads: self
                .mesh
                .workloads()
                .iter()
                .map(|workload| {
                    let mut services: Vec<_> = workload.services.keys().map(ToString::to_string).collect();
                    services.sort();
                    let dump = WorkloadDump {
                        name: workload.name.clone(),
                        namespace: workload.namespace.clone(),
                        workload_ips: workload.addresses.iter().map(ToString::to_string).collect(),
                        identity: workload.identity.to_string(),
                        protocol: match workload.protocol {
                            Protocol::Hbone => "HBONE",
                            Protocol::Plaintext => "TCP",
                        },
                        status: status(workload.healthy),
                        services,
                        identities_only: workload.identities_only,
                        authorization_policies: workload.authorization_policies.clone(),
                    };
                    (workload.uid.to_string(), dump)
                })
                .collect(),
            policies: policies
                .iter()
                .map(|(name, one)| (name.to_string(), policy(one)))
                .collect(),
            authorizations: self
                .authorizations
                .snapshot()
                .iter()
                .map(|policy| (policy.name.to_string(), Policy::clone(policy)))
                .collect(),
        }
    }
}

fn route_rules(route: &RouteSpec) -> Vec<RouteRuleDump> {
    let rules = route.rules.iter().map(|rule| RouteRuleDump {
        name: rule.name.clone(),
        hostnames: route.hostnames.clone(),
        matches: rule.matches.len(),
        backends: rule
            .backends
            .iter()
            .map(|b| format!("{}:{} weight {}", b.id, b.port, b.weight))
            .collect(),
    });
    rules.collect()
}

fn backend(config: &Backend, entry: Option<&ServiceEntry>) -> BackendDump {
    BackendDump {
        ports: protocols(&config.ports),
        rules: config.rules.rules().cloned().collect(),
        missing_policy: config.rules.missing().map(str::to_owned),
        endpoints: entry.map(endpoints).unwrap_or_default(),
    }
}

fn protocols(ports: &[(u16, AppProtocol)]) -> BTreeMap<u16, &'static str> {
    let ports = ports.iter();
    ports
        .map(|(port, protocol)| (*port, protocol.as_str_name()))
        .collect()
}

fn endpoints(entry: &ServiceEntry) -> BTreeMap<String, EndpointDump> {
    let endpoints = entry.endpoints().into_iter().map(|(workload, in_flight)| {
        let dump = EndpointDump {
            workload: workload.to_string(),
            status: status(workload.healthy),
            in_flight,
        };
        (workload.uid.to_string(), dump)
    });
    endpoints.collect()
}

fn service(config: &ServiceConfig, entry: &ServiceEntry) -> ServiceDump {
    ServiceDump {
        name: config.name.clone(),
        namespace: config.namespace.clone(),
        hostname: config.hostname.clone(),
        vips: config.addresses.iter().map(ToString::to_string).collect(),
        ports: protocols(&config.ports),
        routes: config.routing.names().map(str::to_owned).collect(),
        policies: config
            .names
            .sets
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        rules: config.policies.rules.rules().cloned().collect(),
        missing_policy: config.policies.rules.missing().map(str::to_owned),
        timeout: config.policies.timeout.as_ref().map(|timeout| TimeoutDump {
            policy: timeout.policy.to_string(),
            seconds: timeout.value.as_secs_f64(),
        }),
        retry: config.policies.retry.as_ref().map(|chosen| RetryOfDump {
            policy: chosen.policy.to_string(),
            retry: retry(&chosen.value),
        }),
        endpoints: endpoints(entry),
    }
}

fn policy(policy: &WaypointPolicy) -> PolicyDump {
    PolicyDump {
        rules: policy.rules.clone(),
        timeout_seconds: policy.timeout.map(|timeout| timeout.as_secs_f64()),
        retry: policy.retry.as_ref().map(retry),
    }
}

fn retry(retry: &Retry) -> RetryDump {
    RetryDump {
        attempts: retry.attempts,
        status_codes: retry.status_codes.clone(),
        connect_failure: retry.connect_failure,
        reset: retry.reset,
        per_try_timeout_seconds: retry.per_try_timeout.map(|t| t.as_secs_f64()),
        backoff_base_seconds: retry.backoff_base.as_secs_f64(),
        backoff_max_seconds: retry.backoff_max.as_secs_f64(),
        non_idempotent: retry.non_idempotent,
    }
}

fn status(healthy: bool) -> &'static str {
    if healthy { "Healthy" } else { "Unhealthy" }
}

fn strings(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}
