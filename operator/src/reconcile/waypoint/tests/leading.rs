//! The writer as a whole: it leads, fails and loses the lease.

use super::*;
use crate::reconcile::{Health, Leadership, Writer};

fn writer(world: &World, leadership: Leadership) -> Writer {
    Writer::new(
        world.server.client(),
        settings(),
        Arc::clone(&world.index),
        Arc::clone(&world.objects),
        leadership,
        Arc::clone(&world.loads),
        Health::default(),
    )
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_creates_and_scales_waypoints() {
    let world = World::new();
    world.change(MESH, |mesh| {
        mesh["spec"]["waypoint"] = json!({"scaling": {"targetInFlight": 10}});
    });
    let (leads, leadership) = tokio::sync::watch::channel(false);
    let writer = writer(&world, leadership);
    let stop = CancellationToken::new();
    let writing = tokio::spawn(writer.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.server.writes(), [], "it does not lead");

    leads.send_replace(true);
    world.until(|w| w.server.get(DEPLOYMENT).is_some()).await;
    world.replica();
    world.until(World::bound).await;
    let stream = world.loads.stream("shop", "waypoint", "w0");
    world
        .until(|world| {
            stream.report(&ambit_wire::waypoint::Load {
                in_flight_milli: 25_000,
                ..Default::default()
            });
            world.replicas() == 3
        })
        .await;
    stop.cancel();
    writing.await.unwrap();
}

/// As a quota or an admission webhook does: what is refused in one namespace is tried ever more rarely, whatever
/// changes elsewhere, and holds up nobody else.
#[tokio::test(start_paused = true)]
async fn failures_back_off_and_delay_no_other_namespace() {
    let world = World::new();
    world.server.refuse(DEPLOYMENT, true);
    let (leads, leadership) = tokio::sync::watch::channel(true);
    let registry = prometheus::Registry::new();
    let mut writer = writer(&world, leadership);
    writer.register(&registry).unwrap();
    let counted = |series: &str| {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse::<f64>()
            .unwrap()
    };
    let errors = "ambit_operator_reconcile_errors_total{kind=\"namespace\",reason=\"api\"}";
    let passes = "ambit_operator_reconcile_duration_seconds_count{kind=\"namespace\"}";
    let retry = "ambit_operator_queue_depth{state=\"retry\"}";
    assert_eq!(
        (counted(errors), counted(passes), counted(retry)),
        (0.0, 0.0, 0.0)
    );
    let writing = tokio::spawn(writer.run(CancellationToken::new()));
    world.until(|w| w.server.attempts(DEPLOYMENT) > 0).await;
    // A cluster in which something changes all the time.
    for n in 0..300 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pod = json!({
            "metadata": {"name": format!("p{n}"), "namespace": "shop", "uid": format!("u{n}")}, "spec": {"containers": []},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        see(pod, &world.index, &world.objects);
    }
    let attempts = world.server.attempts(DEPLOYMENT);
    assert!((5..30).contains(&attempts), "{attempts} attempts in a minute");
    assert!(counted(errors) >= 5.0);
    let failing = counted(retry);
    assert!(failing >= 1.0);
    assert!(counted(passes) >= counted(errors));

    // Somebody edits what it is made from: that is tried at once.
    world.server.refuse(DEPLOYMENT, false);
    world.change(POLICY, |policy| {
        policy["metadata"]["generation"] = json!(2);
        policy["spec"]["timeouts"]["request"] = json!("6s");
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.server.get(DEPLOYMENT).is_some());
    assert!(counted(retry) < failing, "{failing}");
    assert!(counted("ambit_operator_reconcile_duration_seconds_count{kind=\"mesh\"}") >= 1.0);
    leads.send_replace(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for state in ["due", "running", "retry"] {
        let depth = counted(&format!("ambit_operator_queue_depth{{state=\"{state}\"}}"));
        assert_eq!(depth, 0.0, "{state}");
    }
    writing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pass_ends_with_the_leadership() {
    let world = World::new();
    world.server.silence(true);
    let (leads, leadership) = tokio::sync::watch::channel(true);
    let writing = tokio::spawn(writer(&world, leadership).run(CancellationToken::new()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    // It is in a request; another replica leads from now on.
    leads.send_replace(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.server.silence(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.writes(), []);
    leads.send_replace(true);
    world.until(|w| w.server.get(DEPLOYMENT).is_some()).await;
    writing.abort();
}

/// Long before the Deployment says so.
#[tokio::test(start_paused = true)]
async fn unschedulable_waypoint_is_reported_at_once() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.change(POD, |pod| {
        pod["metadata"]["labels"]["app.kubernetes.io/part-of"] = json!("ambit");
        pod["spec"]["nodeName"].take();
        pod["status"] = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "2 nodes had untolerated taint",
        }]});
    });
    world.settle().await;
    let policy = world.server.get(POLICY).unwrap();
    let message = policy["status"]["ancestors"][0]["conditions"][1]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("pod waypoint-0: Unschedulable: 2 nodes had untolerated taint"),
        "{message}"
    );
    assert!(world.reconciler.troubles("shop")["waypoint"].contains("Unschedulable"));
}

/// Not only when everything is compared anew.
#[tokio::test(start_paused = true)]
async fn a_changed_mesh_reaches_the_waypoints_at_once() {
    let world = World::new();
    let (_leads, leadership) = tokio::sync::watch::channel(true);
    let writing = tokio::spawn(writer(&world, leadership).run(CancellationToken::new()));
    world.until(|w| w.server.get(DEPLOYMENT).is_some()).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.watch();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut mesh = world.server.get(MESH).unwrap();
    mesh["metadata"]["generation"] = json!(2);
    mesh["spec"] = json!({
        "waypoint": {"placement": {"nodeSelector": {"pool": "mesh"}}}, "telemetry": {"logLevel": "debug"},
    });
    world.server.put(MESH, mesh);
    // The watches notify of nothing else.
    world.of::<Mesh>(MESH);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let deployment = world.server.get(DEPLOYMENT).unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["pool"], "mesh");
    assert_eq!(world.server.get(ROOT).unwrap()["data"]["log-filter"], "debug");
    writing.abort();
}

/// A roll-out of many pods is not as many writes.
#[tokio::test(start_paused = true)]
async fn counters_are_written_once_a_second() {
    let world = World::new();
    let (_leads, leadership) = tokio::sync::watch::channel(true);
    let writing = tokio::spawn(writer(&world, leadership).run(CancellationToken::new()));
    world.until(|w| w.server.get(DEPLOYMENT).is_some()).await;
    let captured = |n: u32| {
        let pod = json!({
            "metadata": {
                "name": format!("p{n}"), "namespace": "shop", "uid": format!("u{n}"),
                "annotations": {"ambient.istio.io/redirection": "enabled"},
            },
            "spec": {"nodeName": "n1", "serviceAccountName": "cart", "containers": []},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        see(pod, &world.index, &world.objects);
    };
    let counted = || {
        world
            .server
            .get(AMBIENT)
            .map(|a| a["status"]["pods"]["captured"].clone())
    };
    captured(0);
    world.until(|_| counted() == Some(json!(1))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.server.writes();
    for n in 1..=100 {
        captured(n);
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.watch();
    }
    world.until(|_| counted() == Some(json!(101))).await;
    let writes = world.server.writes().into_iter();
    let statuses = writes.filter(|w| w.path.starts_with(AMBIENT)).count();
    // Ten seconds of changes.
    assert!((5..=13).contains(&statuses), "{statuses} writes");
    writing.abort();
}
