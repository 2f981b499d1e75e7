//! A pod leaves the mesh with no request refused: neither plaintext that comes before its ztunnel takes it, nor HBONE that comes when
//! nothing listens any more.

use ambit_wire::workload::TunnelProtocol;

use super::*;

impl World {
    /// A captured pod `a` that refuses plaintext.
    fn strict() -> Self {
        let mut world = Self::enrolled();
        world.mesh(json!({"mtls": {"mode": "Strict"}}));
        world.pod(&marked(pod("a", "10.0.0.1")));
        assert!(world.captured() && world.hbone() && world.refuses_plaintext());
        world
    }

    fn captured(&self) -> bool {
        self.capture("u-a").unwrap().capture
    }

    fn hbone(&self) -> bool {
        self.workload("a").unwrap().tunnel_protocol() == TunnelProtocol::Hbone
    }

    fn refuses_plaintext(&self) -> bool {
        !self.workload("a").unwrap().authorization_policies.is_empty()
    }

    /// Nothing refuses plaintext, everybody who is in the mesh speaks HBONE still, and the pod's node knows of nothing.
    fn is_leaving(&self) -> bool {
        !self.refuses_plaintext() && self.hbone() && self.captured()
    }
}

#[test]
fn plaintext_is_taken_before_anybody_speaks_it_and_hbone_spoken_until_the_redirection_is_away() {
    let mut world = World::strict();
    world.namespace("shop", None);
    assert!(world.is_leaving());
    world.leave();
    assert!(!world.captured() && world.hbone());
    // Its node has taken the redirection away; its listeners stay for those who hear of it late.
    world.pod(&pod("a", "10.0.0.1"));
    assert!(!world.hbone() && !world.captured());
    assert!(world.timers.is_empty());
}

#[test]
fn a_pod_that_opts_out_leaves_in_the_same_way() {
    let mut world = World::strict();
    let out = with(
        marked(pod("a", "10.0.0.1")),
        "/metadata/labels/istio.io~1dataplane-mode",
        json!("none"),
    );
    world.pod(&out);
    assert!(world.is_leaving());
    assert_eq!(world.capture("u-a").unwrap().reason, "");
    world.leave();
    let told = world.capture("u-a").unwrap();
    assert_eq!((told.capture, told.reason.as_str()), (false, "OptedOut"));
}

#[test]
fn one_that_comes_back_in_time_stays_and_leaves_anew() {
    let mut world = World::strict();
    world.namespace("shop", None);
    world.namespace("shop", Some("ambient"));
    assert!(world.captured() && world.refuses_plaintext());
    let first = std::mem::take(&mut world.timers);
    world.namespace("shop", None);
    let second = std::mem::replace(&mut world.timers, first);
    world.leave();
    assert!(
        world.is_leaving(),
        "the time of the first leaving is not the second's"
    );
    world.timers = second;
    world.leave();
    assert!(!world.captured());
}

#[test]
fn nodes_undo_their_work_when_the_last_pod_may_go() {
    let mut world = World::strict();
    world.index.set_mesh(None);
    world.flush();
    assert!(world.is_leaving() && !world.node_config.uninstall);
    world.leave();
    assert!(!world.captured() && world.node_config.uninstall);

    // One that is deleted meanwhile keeps nobody waiting.
    let mut world = World::strict();
    world.index.set_mesh(None);
    world.flush();
    world.delete_pod("shop", "a");
    assert!(world.node_config.uninstall);
    world.leave();
}

#[test]
fn who_never_was_captured_is_not_held() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    world.namespace("shop", None);
    assert!(!world.captured());
    // The mark of somebody else's hand, which the node removes.
    world.pod(&marked(pod("a", "10.0.0.1")));
    assert!(!world.captured());
    assert!(world.timers.is_empty());
}
