//! Rules that are valid and match nothing as the cluster is.

use std::collections::BTreeSet;

use ambit_crds::AuthorizationRule;

use super::{AmbientRecord, Index, Key, PodRecord, authorization};

/// Most warnings about a rule.
const LISTED: usize = 8;

/// Namespaces that the rules of an AmbientNamespace name in principals.
pub(super) fn named(record: &AmbientRecord) -> BTreeSet<&str> {
    let sources = record.rules.iter().flat_map(|rule| &rule.from);
    sources
        .flat_map(|source| {
            let principals = source.principals.iter().filter_map(|p| Some(account(p)?.1));
            principals.chain(source.namespaces.iter().map(String::as_str))
        })
        .collect()
}

/// Trust domain, namespace and service account of a principal without `*`.
fn account(principal: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<_> = principal.split('/').collect();
    match parts[..] {
        [domain, "ns", namespace, "sa", account] if !principal.contains('*') => {
            Some((domain, namespace, account))
        }
        _ => None,
    }
}

impl Index {
    /// A service account appeared or is gone.
    pub fn set_account(&mut self, key: &Key, there: bool) {
        let changed = match there {
            true => self.accounts.insert(key.clone()),
            false => self.accounts.remove(key),
        };
        if changed {
            self.dirty.accounts.insert(key.namespace.clone());
        }
    }

    /// Namespaces with rules that name one of `changed`.
    pub(super) fn naming<'a>(&'a self, changed: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
        let naming = changed.filter_map(|namespace| self.named.get(namespace));
        naming.flatten().cloned().collect()
    }

    /// What of a rule of `namespace` cannot match.
    pub(super) fn rule_warnings(&self, namespace: &str, rule: &AuthorizationRule) -> Vec<String> {
        let mut warnings = Vec::new();
        let pods = self.pods_in(namespace).map(|(_, pod)| pod);
        let selector = rule.pod_selector.as_ref();
        let selected: Vec<_> = pods.filter(|pod| authorization::selects(selector, pod)).collect();
        if selected.is_empty() && selector.is_some() {
            warnings.push("podSelector selects no pod".to_owned());
        }
        let ports = rule.ports.iter();
        warnings.extend(ports.filter_map(|port| self.port_warning(namespace, *port, &selected)));
        let principals = rule.from.iter().flat_map(|source| &source.principals);
        warnings.extend(principals.filter_map(|principal| self.principal_warning(principal)));
        let namespaces = rule.from.iter().flat_map(|source| &source.namespaces);
        let missing = namespaces.filter(|n| !n.contains('*') && !self.existing.contains(*n));
        warnings.extend(missing.map(|n| format!("namespaces: namespace {n} does not exist")));
        warnings.truncate(LISTED);
        warnings
    }

    /// Of a port that a Service has, and none of the pods behind it.
    fn port_warning(&self, namespace: &str, port: u16, pods: &[&PodRecord]) -> Option<String> {
        let services = self.services_in(namespace);
        let services: Vec<_> = services
            .filter(|(_, service)| service.ports.values().any(|p| p.port == port))
            .collect();
        let declared = |pod: &&PodRecord| pod.named_ports.iter().any(|(_, p)| *p == port);
        if services.is_empty() || pods.iter().any(declared) {
            return None;
        }
        let mut found: Option<(&str, BTreeSet<u16>)> = None;
        for (key, service) in services {
            for pod in pods.iter().filter(|pod| service.selects(pod)) {
                // Not known before the pod declares the port's name.
                let targets = service.targets(pod)?;
                if targets.contains(&port) {
                    return None;
                }
                let (_, all) = found.get_or_insert_with(|| (&key.name, BTreeSet::new()));
                all.extend(targets);
            }
        }
        let (service, targets) = found?;
        let targets: Vec<_> = targets.iter().map(u16::to_string).collect();
        Some(format!(
            "port {port} is a port of Service {service}, and rules match ports of pods: use {}",
            targets.join(", ")
        ))
    }

    /// Of a principal that no caller can have.
    fn principal_warning(&self, principal: &str) -> Option<String> {
        let (domain, namespace, account) = account(principal)?;
        let reason = if domain != self.trust_domain() {
            format!("the mesh's trust domain is {}", self.trust_domain())
        } else if !self.existing.contains(namespace) {
            format!("namespace {namespace} does not exist")
        } else if !self.accounts.contains(&Key::new(namespace, account)) {
            format!("namespace {namespace} has no service account {account}")
        } else {
            return None;
        };
        Some(format!("principal {principal}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::index::{Config, ServiceRecord};

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// A pod behind a Service of port 80, which leads to 8080.
    fn index() -> Index {
        let mut index = Index::new(Config::default());
        let namespace: Namespace = object(json!({"metadata": {"name": "shop"}}));
        index.apply_namespace("shop", &namespace);
        let pod: Pod = object(json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "s"}},
            "spec": {"serviceAccountName": "cart", "containers": []},
        }));
        index.set_pod(&Key::new("shop", "p"), PodRecord::of(&pod));
        let service: Service = object(json!({
            "metadata": {"name": "s", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "s"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }));
        index.set_service(&Key::new("shop", "s"), ServiceRecord::of(&service));
        index.set_account(&Key::new("shop", "cart"), true);
        index
    }

    fn warned(rule: Value) -> Vec<String> {
        let mut whole = json!({"name": "r", "action": "Deny"});
        for (key, value) in rule.as_object().unwrap() {
            whole[key] = value.clone();
        }
        index().rule_warnings("shop", &object(whole))
    }

    #[test]
    fn ports_of_a_service_are_no_ports_of_its_pods() {
        assert!(warned(json!({"ports": [80]}))[0].contains("port 80 is a port of Service s"));
        assert_eq!(warned(json!({"ports": [8080, 9999]})), [] as [String; 0]);
    }

    #[test]
    fn principals_and_selectors_that_match_nothing_are_named() {
        let from = |principal: &str| warned(json!({"from": [{"principals": [principal]}]}));
        assert_eq!(from("cluster.local/ns/shop/sa/cart"), [] as [String; 0]);
        assert_eq!(from("cluster.local/ns/shop/*"), [] as [String; 0]);
        assert!(
            from("cluster.local/ns/shop/sa/kart")[0].contains("namespace shop has no service account kart")
        );
        assert!(from("cluster.local/ns/shoop/sa/cart")[0].contains("namespace shoop does not exist"));
        assert!(from("example.org/ns/shop/sa/cart")[0].contains("trust domain is cluster.local"));
        let namespaces = warned(json!({"from": [{"namespaces": ["shop", "shoop", "sh*"]}]}));
        assert_eq!(namespaces, ["namespaces: namespace shoop does not exist"]);
        let selector = json!({"podSelector": {"matchLabels": {"app": "x"}}, "ports": [8080]});
        assert_eq!(warned(selector), ["podSelector selects no pod"]);
    }

    #[test]
    fn a_pods_own_label_enrolls_nothing_and_the_mesh_says_so() {
        let mut index = index();
        let pod: Pod = object(json!({
            "metadata": {"name": "q", "namespace": "shop", "uid": "v", "labels": {"istio.io/dataplane-mode": "ambient"}},
            "spec": {"containers": []},
        }));
        index.set_pod(&Key::new("shop", "q"), PodRecord::of(&pod));
        let warnings = index.mesh_summary().unheeded();
        assert!(warnings[0].contains("shop"), "{warnings:?}");
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let labelled: Namespace = object(json!({"metadata": {"name": "shop", "labels": labels}}));
        index.apply_namespace("shop", &labelled);
        assert!(index.mesh_summary().unheeded().is_empty());
    }

    #[test]
    fn istio_ambient_beside_it_is_told() {
        let mut index = index();
        let pod: Pod = object(json!({
            "metadata": {"name": "cni", "namespace": "istio-system", "uid": "i", "labels": {"k8s-app": "istio-cni-node"}},
            "spec": {"containers": []},
        }));
        index.set_pod(&Key::new("istio-system", "cni"), PodRecord::of(&pod));
        let warnings = index.mesh_summary().unheeded();
        assert!(
            warnings[0].contains("CNI agent of Istio runs in istio-system"),
            "{warnings:?}"
        );
        index.set_pod(&Key::new("istio-system", "cni"), None);
        assert!(index.mesh_summary().unheeded().is_empty());
    }

    /// The status of a namespace follows what its rules name elsewhere, without the periodic pass.
    #[test]
    fn what_warnings_depend_on_touches_the_namespace() {
        let mut index = index();
        let rule = json!({"name": "r", "action": "Deny", "ports": [80], "from": [
            {"principals": ["cluster.local/ns/web/sa/front"]},
        ]});
        let spec = json!({"enrollment": "Ambient", "authorization": [rule]});
        let ambient = object(json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace",
            "metadata": {"name": "ambient", "namespace": "shop"}, "spec": spec,
        }));
        index.set_ambient("shop", Some(AmbientRecord::of(&ambient)));
        index.flush();
        let touches = |index: &mut Index| index.flush().namespaces.contains("shop");
        assert!(!touches(&mut index));
        index.set_namespace("web", Some(false));
        assert!(touches(&mut index), "a namespace that a rule names");
        index.set_account(&Key::new("web", "front"), true);
        assert!(touches(&mut index), "a service account that a rule names");
        index.set_account(&Key::new("other", "front"), true);
        assert!(!touches(&mut index), "one that no rule names");
        index.set_service(&Key::new("shop", "s"), None);
        assert!(touches(&mut index), "a Service beside rules with ports");
        index.set_ambient("shop", None);
        index.flush();
        index.set_account(&Key::new("web", "front"), false);
        assert!(!touches(&mut index), "no rule any more");
    }
}
