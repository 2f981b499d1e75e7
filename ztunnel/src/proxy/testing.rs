//! A proxy and a pod without a node, for tests.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::{HboneConfig, HbonePool};
use ambit_mesh::Skew;
use ambit_runtime::Shares;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, ManagerConfig};
use ambit_wire::broker::PodIdentity;
use ambit_wire::workload::{Address, Workload, address};

use super::{Denials, Proxy, Strangers, original_destination};
use crate::limits::Limits;
use crate::observe::Metrics;
use crate::pod::Pod;
use crate::state::MeshState;

/// Where the application of [`pod`] would listen.
pub(crate) const APPLICATION: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 3)), 80);

/// A mesh without workloads and policies.
pub(crate) fn proxy(access_log: bool) -> Arc<Proxy> {
    let (hbone, limits) = (HboneConfig::default(), Limits::default());
    let metrics = Arc::new(Metrics::new().unwrap());
    Arc::new(Proxy {
        state: Arc::new(MeshState::new("")),
        certificates: CertificateManager::new(Arc::new(TestCa::new().unwrap()), ManagerConfig::default()),
        pool: HbonePool::new(hbone.clone()),
        hbone,
        descriptors: Shares::new(limits.descriptors),
        handshakes: Shares::new(limits.handshakes),
        stores: metrics.stores(&limits),
        skew: Skew::new(limits.skew_timeout),
        limits,
        denials: Denials::default(),
        strangers: Strangers::default(),
        metrics,
        access_log,
        original_destination: Arc::new(original_destination),
        data: tokio::runtime::Handle::current(),
    })
}

/// The control plane's workload of [`pod`], by name.
pub(crate) fn server() -> (String, Address) {
    at_address_of_the_server("server", "test")
}

/// The workload of another pod with the same address.
pub(crate) fn at_address_of_the_server(name: &str, namespace: &str) -> (String, Address) {
    let std::net::IpAddr::V4(ip) = APPLICATION.ip() else {
        panic!("IPv4 only")
    };
    let workload = Workload {
        uid: format!("c//Pod/{namespace}/{name}"),
        name: name.into(),
        namespace: namespace.into(),
        addresses: vec![ip.octets().to_vec()],
        ..Workload::default()
    };
    let uid = workload.uid.clone();
    let what = Some(address::Type::Workload(workload));
    (uid, Address { r#type: what })
}

/// The pod `server` in namespace `test`.
pub(crate) fn pod(proxy: &Proxy) -> Arc<Pod> {
    let identity = PodIdentity {
        uid: "server-uid".into(),
        name: "server".into(),
        namespace: "test".into(),
        service_account: "server".into(),
        addresses: vec![APPLICATION.ip().to_string()],
        trust_domain: "cluster.local".into(),
        netns_inode: 1,
    };
    let name = "server-uid".into();
    let descriptors = proxy.descriptors.take(&name).unwrap();
    let memory = proxy.hbone.memory.borrower(&name);
    let (certificates, stores, limits) = (&proxy.certificates, &proxy.stores, &proxy.limits);
    Arc::new(Pod::new(identity, certificates, &[], stores, limits, descriptors, memory).unwrap())
}
