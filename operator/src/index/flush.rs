//! From what was touched to messages.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ambit_crds::MtlsMode;
use ambit_wire::agent::{EnrolledNamespace, NodeConfig};
use ambit_wire::names;
use ambit_wire::workload::{Address, EndpointHealth, GatewayAddress};
use prost::Message;

use super::state::{Dirty, SentCapture, Update};
use super::waypoint::{exempt, gateway};
use super::{Index, Key, PodRecord};
use super::{authorization, build, leaving};

impl Index {
    /// Computes anew what was touched since the last call.
    pub fn flush(&mut self) -> Update {
        for policy in std::mem::take(&mut self.dirty.policies) {
            self.find_in_force(&policy);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut update = Update::default();
        self.touch_bare(&mut dirty);
        let mut authorizations = BTreeMap::new();
        let replanned = self.replan(&mut dirty, &mut authorizations, &mut update);
        self.touch_bare(&mut dirty);
        for namespace in &dirty.namespaces {
            self.flush_namespace(namespace, &mut authorizations, &mut update);
        }
        for key in &dirty.services {
            let service = self.services.get(key).filter(|_| !self.is_usurped(key));
            let message = service.map(|record| {
                let (gateway, external) = (self.service_gateway(key), self.external_addresses(key, record));
                build::service(&self.config, key, record, gateway, external).encode_to_vec()
            });
            update
                .addresses
                .insert(build::service_name(&self.config, key), message);
        }
        for key in &dirty.slices {
            self.flush_slice(key, &mut update);
        }
        let some_left = !self.leaving.is_empty();
        for key in &dirty.pods {
            self.flush_pod(key, &mut update);
        }
        // A node undoes all of its work once the last pod may go.
        if dirty.node_config || (some_left && self.leaving.is_empty()) {
            update.node_config = Some(self.node_config().encode_to_vec());
            let strict = authorization::strict(&self.config.system_namespace);
            let name = format!("{}/{}", strict.namespace, strict.name);
            update.everywhere.insert(name, Some(strict.encode_to_vec()));
        }
        self.place(authorizations, &dirty, &mut update);
        self.flush_waypoints(&replanned, &mut update);
        // Warnings about rules and Services depend on these.
        update.namespaces = self.naming(dirty.namespaces.iter().chain(&dirty.accounts));
        let services = dirty.services.into_iter().map(|key| key.namespace);
        update
            .namespaces
            .extend(services.filter(|namespace| self.ambient.contains_key(namespace)));
        update.namespaces.extend(dirty.namespaces);
        update
            .namespaces
            .extend(dirty.pods.into_iter().map(|key| key.namespace));
        for namespace in &replanned {
            update
                .namespaces
                .extend(self.routes.namespaces_at(namespace).cloned());
        }
        update.namespaces.extend(dirty.routes);
        update.namespaces.extend(replanned);
        update.timers.append(&mut self.timers);
        self.started = true;
        update
    }

    fn node_config(&self) -> NodeConfig {
        let mesh = self.mesh.clone().unwrap_or_default();
        NodeConfig {
            uninstall: self.active_mesh().is_none() && self.leaving.is_empty(),
            drain_deadline_seconds: u32::try_from(mesh.drain_deadline.as_secs()).unwrap_or(u32::MAX),
            trust_domain: mesh.trust_domain,
        }
    }

    fn flush_namespace(
        &mut self,
        namespace: &str,
        authorizations: &mut BTreeMap<String, Option<Vec<u8>>>,
        update: &mut Update,
    ) {
        let enrolled = self.is_enrolled(namespace) && self.existing.contains(namespace);
        let message = enrolled.then(|| {
            EnrolledNamespace {
                name: namespace.to_owned(),
            }
            .encode_to_vec()
        });
        update.enrolled.insert(namespace.to_owned(), message);
        self.flush_mtls(namespace, enrolled, authorizations);
        let old = self.sent.rules.remove(namespace).unwrap_or_default();
        let mut new = BTreeMap::new();
        let rules = self
            .ambient
            .get(namespace)
            .filter(|_| enrolled)
            .map(|a| a.rules.as_slice())
            .unwrap_or_default();
        let waypoints = self.waypoint_principals(namespace);
        for (rule, authorization) in rules.iter().zip(authorization::in_force(namespace, rules)) {
            new.insert(authorization::wire_name(rule), authorization.encode_to_vec());
            let message = exempt(authorization, &waypoints).encode_to_vec();
            authorizations.insert(authorization::full_name(namespace, rule), Some(message));
        }
        for gone in old.keys().filter(|name| !new.contains_key(*name)) {
            authorizations.insert(format!("{namespace}/{gone}"), None);
        }
        if !new.is_empty() {
            self.sent.rules.insert(namespace.to_owned(), new);
        }
    }

    /// The authorization of ports with another mode of mTLS than the namespace's other ports.
    fn flush_mtls(
        &mut self,
        namespace: &str,
        enrolled: bool,
        authorizations: &mut BTreeMap<String, Option<Vec<u8>>>,
    ) {
        let wanted = self.strict_by_port(namespace).filter(|_| enrolled);
        let sent = match &wanted {
            Some(_) => !self.sent.mtls_ports.insert(namespace.to_owned()),
            None => self.sent.mtls_ports.remove(namespace),
        };
        if wanted.is_some() || sent {
            let name = format!("{namespace}/{}", authorization::strict_by_port_name());
            authorizations.insert(name, wanted.map(|message| message.encode_to_vec()));
        }
    }

    fn strict_by_port(&self, namespace: &str) -> Option<ambit_wire::security::Authorization> {
        let ports = &self.ambient.get(namespace)?.mtls_ports;
        authorization::strict_by_port(namespace, self.mtls(namespace), ports)
    }

    fn flush_slice(&mut self, key: &Key, update: &mut Update) {
        let new = self.bare_endpoints(key, |pod, record| Some(self.surroundings(pod, record)));
        for gone in self.sent.bare.remove(key).unwrap_or_default() {
            update.addresses.insert(gone, None);
        }
        if !new.is_empty() {
            self.sent.bare.insert(key.clone(), new.keys().cloned().collect());
        }
        for (name, message) in new {
            update.addresses.insert(name, Some(message.encode_to_vec()));
        }
    }

    /// Workloads of a slice's endpoints that are not said to be pods', by name. `around` is what a captured pod's depends on; without that, it is
    /// reached in plaintext.
    pub(super) fn bare_endpoints(
        &self,
        key: &Key,
        around: impl Fn(&Key, &PodRecord) -> Option<build::Surroundings>,
    ) -> HashMap<String, Address> {
        let Some(slice) = self.endpoints.get(key) else {
            return HashMap::new();
        };
        let service_key = key.sibling(&slice.service);
        let Some(service) = self.services.get(&service_key) else {
            return HashMap::new();
        };
        let listed = slice.endpoints.iter();
        let listed = listed.filter(|e| e.pod.is_none() && self.endpoints.takes(&service_key, service, e));
        let bare = listed.flat_map(|endpoint| endpoint.addresses.iter().map(move |a| (endpoint, *a)));
        let bare = bare.map(|(endpoint, address)| build::Bare {
            address,
            endpoint,
            pod: self
                .holder(address)
                .filter(|(_, pod)| pod.marked && !pod.host_network && pod.has_identity())
                .and_then(|(pod, record)| Some((pod, record, around(pod, record)?))),
        });
        let (bare, trust_domain) = (bare.collect(), self.trust_domain());
        build::bare_endpoints(&self.config, key, slice, service, &trust_domain, bare)
    }

    /// The pod that has an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<(&Key, &PodRecord)> {
        let (_, key) = self.by_address.get(&address)?.last()?;
        self.pods.get_key_value(key)
    }

    /// Marks the slices that list these pods by nothing but an address.
    fn touch_bare(&self, dirty: &mut Dirty) {
        let pods = dirty.pods.iter().filter_map(|key| self.pods.get(key));
        let addresses = pods.flat_map(|pod| &pod.addresses);
        let slices = addresses.flat_map(|address| self.endpoints.slices_at(*address));
        dirty.slices.extend(slices.cloned());
    }

    fn flush_pod(&mut self, key: &Key, update: &mut Update) {
        let pod = self.pods.get(key);
        let message =
            pod.and_then(|pod| build::workload(&self.config, key, pod, self.surroundings(key, pod)));
        update.addresses.insert(
            build::workload_uid(&self.config, key),
            message.map(|m| m.encode_to_vec()),
        );
        self.flush_capture(key, update);
    }

    /// What the pod's node is told.
    fn flush_capture(&mut self, key: &Key, update: &mut Update) {
        let before = self.sent.captures.remove(key);
        if let Some(sent) = &before {
            let of_node = update.captures.entry(sent.node.clone()).or_default();
            of_node.insert(sent.uid.clone(), None);
        }
        let enrolled = self.is_enrolled(&key.namespace);
        let Some(pod) = self.pods.get(key).filter(|p| !p.node.is_empty()) else {
            self.leaving.remove(key);
            return;
        };
        let known = before.as_ref().is_some_and(|sent| sent.uid == pod.uid);
        if !known && !self.existing.contains(&key.namespace) {
            // Whether the namespace is enrolled is not known: the node lets the pod wait until it is.
            self.leaving.remove(key);
            return;
        }
        let captured = pod.marked && before.is_some_and(|sent| sent.capture && sent.uid == pod.uid);
        let held = captured
            && !build::wanted(enrolled, pod)
            && leaving::is_held(&mut self.leaving, key, &mut self.timer, &mut update.timers);
        if !held {
            self.leaving.remove(key);
        }
        let message = build::capture(key, pod, enrolled, held);
        let sent = SentCapture {
            node: pod.node.clone(),
            uid: pod.uid.clone(),
            capture: message.capture,
        };
        let of_node = update.captures.entry(pod.node.clone()).or_default();
        of_node.insert(pod.uid.clone(), Some(message.encode_to_vec()));
        self.sent.captures.insert(key.clone(), sent);
    }

    /// The waypoint that a Service is reached through.
    fn service_gateway(&self, key: &Key) -> Option<GatewayAddress> {
        let waypoint = self.plans.get(&key.namespace)?.in_force(&key.name)?;
        Some(gateway(&self.config, waypoint))
    }

    pub(super) fn surroundings(&self, key: &Key, pod: &PodRecord) -> build::Surroundings {
        let enrolled = self.is_enrolled(&key.namespace);
        let mut addresses = pod.addresses.clone();
        if !pod.host_network {
            addresses.retain(|a| {
                self.by_address
                    .get(a)
                    .and_then(|claims| claims.last())
                    .is_none_or(|(_, holder)| holder == key)
            });
        }
        let services = self.endpoints.services(key).filter_map(|service| {
            let record = self.services.get(service)?;
            let mut list = self.endpoints.membership(service, record, &key.name, pod.ready)?;
            if self.is_waypoint_service(service) {
                // It is bound as soon as a replica is ready, which its slice may have yet to say.
                list.health = EndpointHealth::AsWorkload.into();
            }
            Some((build::service_name(&self.config, service), list))
        });
        let plan = self.plans.get(&key.namespace);
        let waypoint = plan.and_then(|p| p.of_pod(&key.name)?.waypoint.as_deref());
        build::Surroundings {
            trust_domain: self.trust_domain(),
            locality: self.locality(&pod.node),
            addresses,
            services: services.collect(),
            waypoint: waypoint.map(|w| gateway(&self.config, &key.sibling(w))),
            policies: if build::wanted(enrolled, pod) {
                self.policies(key, pod)
            } else {
                Vec::new()
            },
            identities_only: false,
        }
    }

    /// Authorizations that the workload names: rules with a pod selector, and those that keep others away.
    fn policies(&self, key: &Key, pod: &PodRecord) -> Vec<String> {
        let mut found = self.selecting_rules(key, pod);
        found.extend(self.closing_policies(key));
        found.sort();
        found
    }

    /// Those of a pod to be captured that keep others away: strict mTLS, and what keeps ways around waypoints closed.
    pub(super) fn closing_policies(&self, key: &Key) -> Vec<String> {
        let mut found = Vec::new();
        if self.strict_by_port(&key.namespace).is_some() {
            found.push(format!(
                "{}/{}",
                key.namespace,
                authorization::strict_by_port_name()
            ));
        } else if self.mtls(&key.namespace) == MtlsMode::Strict {
            found.push(format!(
                "{}/{}",
                self.config.system_namespace,
                names::STRICT_POLICY
            ));
        }
        let plan = self.plans.get(&key.namespace);
        let guards = plan.and_then(|p| Some(&p.of_pod(&key.name)?.guards));
        found.extend(
            guards
                .into_iter()
                .flatten()
                .map(|g| format!("{}/{g}", key.namespace)),
        );
        found
    }

    /// Rules of the AmbientNamespace that select the pod.
    pub(super) fn selecting_rules(&self, key: &Key, pod: &PodRecord) -> Vec<String> {
        let rules = self
            .ambient
            .get(&key.namespace)
            .map(|a| a.rules.as_slice())
            .unwrap_or_default();
        let selecting = rules
            .iter()
            .filter(|r| r.pod_selector.is_some() && authorization::selects(r.pod_selector.as_ref(), pod));
        selecting
            .map(|r| authorization::full_name(&key.namespace, r))
            .collect()
    }
}
