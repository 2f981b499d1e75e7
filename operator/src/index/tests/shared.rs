use super::*;
use crate::control::{Directory, Sources};

fn filled(shared: &SharedIndex) {
    shared.change(|index| {
        let mesh: Mesh =
            object(json!({"metadata": {"name": "default"}, "spec": {"identity": {"leafTTL": "1h"}}}));
        index.set_mesh(Some(MeshRecord::of(&mesh)));
        index.set_namespace("shop", Some(true));
        let a: Pod = object(pod("a", "10.0.0.1"));
        index.set_pod(&Key::new("shop", "a"), PodRecord::of(&a));
    });
}

#[test]
fn nothing_is_served_before_everything_was_read() {
    let shared = SharedIndex::new(Config::default());
    let early = shared.pod_captures("n1");
    let quiet = shared.pod_captures("n9");
    filled(&shared);
    assert!(!Directory::is_ready(&shared));
    assert!(!shared.addresses().is_ready() && !early.is_ready());
    shared.set_ready();
    assert!(Directory::is_ready(&shared));
    assert!(
        shared.addresses().is_ready()
            && shared.authorizations("n1").is_ready()
            && shared.node_config("n1").is_ready()
    );
    assert_eq!((early.len(), quiet.len()), (1, 0));
    assert!(early.is_ready() && quiet.is_ready() && shared.pod_captures("n7").is_ready());
    assert_eq!(shared.take_touched(), ["shop".to_owned()].into());
}

#[test]
fn later_changes_reach_the_collections_and_the_reconcilers() {
    let shared = SharedIndex::new(Config::default());
    filled(&shared);
    shared.set_ready();
    shared.take_touched();
    let changed = shared.subscribe();
    let captures = shared.pod_captures("n1");
    shared.change(|index| index.set_pod(&Key::new("shop", "a"), None));
    assert!(captures.is_empty() && shared.addresses().is_empty());
    assert!(changed.has_changed().unwrap());
    assert_eq!(shared.take_touched(), ["shop".to_owned()].into());
    assert!(shared.take_touched().is_empty());
}

#[test]
fn who_runs_where() {
    let shared = SharedIndex::new(Config::default());
    filled(&shared);
    shared.set_ready();
    let info = Directory::pod(&shared, "u-a").unwrap();
    assert!(info.enrolled && !info.host_network);
    assert_eq!(
        (info.node.as_str(), info.service_account.as_str()),
        ("n1", "cart")
    );
    assert_eq!(shared.enrolled_pod("n1", "shop", "cart"), Some(info));
    assert_eq!(shared.enrolled_pod("n2", "shop", "cart"), None);
    assert_eq!(shared.enrolled_pod("n1", "shop", "other"), None);
    assert_eq!(shared.enrolled_pod("n1", "other", "cart"), None);
    assert_eq!(Directory::mesh(&shared).leaf_ttl.as_secs(), 3600);
    // A pod that is left alone gets no certificate.
    shared.change(|index| {
        let value = with(
            pod("a", "10.0.0.1"),
            "/metadata/labels/istio.io~1dataplane-mode",
            json!("none"),
        );
        index.set_pod(&Key::new("shop", "a"), PodRecord::of(&object::<Pod>(value)));
    });
    assert_eq!(shared.enrolled_pod("n1", "shop", "cart"), None);
}
