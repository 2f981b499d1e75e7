//! Ports that the kubelet connects to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The pod's ports of declared probes (HTTP, TCP, gRPC) and HTTP hooks. A probe of another host is not of the pod.
pub(super) fn ports(pod: &Pod) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    // Of init containers only sidecars have probes; asking all of them costs nothing.
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let probes = [
            &container.readiness_probe,
            &container.liveness_probe,
            &container.startup_probe,
        ];
        found.extend(
            probes
                .into_iter()
                .flatten()
                .filter_map(|p| probe_port(container, p)),
        );
        let hooks = container
            .lifecycle
            .iter()
            .flat_map(|l| [&l.post_start, &l.pre_stop]);
        found.extend(hooks.flatten().filter_map(|h| hook_port(container, h)));
    }
    found
}

fn probe_port(container: &Container, probe: &Probe) -> Option<u16> {
    if let Some(http) = &probe.http_get {
        return own(http.host.as_deref())
            .then(|| resolve(container, &http.port))
            .flatten();
    }
    if let Some(tcp) = &probe.tcp_socket {
        return own(tcp.host.as_deref())
            .then(|| resolve(container, &tcp.port))
            .flatten();
    }
    number(probe.grpc.as_ref()?.port)
}

fn hook_port(container: &Container, hook: &LifecycleHandler) -> Option<u16> {
    let http = hook.http_get.as_ref()?;
    own(http.host.as_deref())
        .then(|| resolve(container, &http.port))
        .flatten()
}

/// Whether the kubelet connects to the pod's own address.
fn own(host: Option<&str>) -> bool {
    host.is_none_or(str::is_empty)
}

fn resolve(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name));
            // A number in quotes is taken as a number, as the kubelet does.
            named.map_or_else(|| name.parse().ok(), |p| number(p.container_port))
        }
    }
}

/// A port that there can be.
pub(super) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p != 0)
}
