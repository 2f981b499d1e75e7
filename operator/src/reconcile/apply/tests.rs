use super::*;
use crate::reconcile::testing::Server;

const PATH: &str = "/api/v1/namespaces/shop/services/waypoint";

fn desired() -> Value {
    json!({"spec": {"replicas": 1}})
}

fn live(hash: &str, version: i64) -> Live {
    let fields = json!({"f:spec": {"f:replicas": {}}});
    let entries = json!([{"manager": "ambit-operator", "operation": "Apply", "fieldsV1": fields}]);
    let meta: ObjectMeta = serde_json::from_value(json!({ "managedFields": entries })).unwrap();
    Live {
        owned: Owned::of(&meta),
        uid: Some("u".into()),
        hash: Some(hash.into()),
        version: Some(version),
        ours: true,
    }
}

fn last_applied(hash: &str, version: i64, seen: bool) -> Option<LastApplied> {
    let object = live(hash, version);
    Some(LastApplied {
        hash: hash.into(),
        object,
        seen,
    })
}

#[test]
fn object_as_desired_is_not_written() {
    let is = |last, live: Option<&Live>| settled("h", &desired(), last, live).is_ok();
    assert!(!is(None, None));
    assert!(
        is(None, Some(&live("h", 3))),
        "after a start the hash is believed"
    );
    assert!(!is(None, Some(&live("other", 3))));
    let scaled = Live {
        owned: Owned::default(),
        ..live("h", 3)
    };
    assert!(
        !is(None, Some(&scaled)),
        "but not when somebody has changed it since"
    );
    assert!(
        is(last_applied("h", 3, true), Some(&scaled)),
        "what was applied here, and no more written to, is left at that"
    );
    assert!(
        is(last_applied("h", 3, false), None),
        "the watch has yet to hear of what was applied"
    );
    assert!(!is(last_applied("h", 3, true), None), "deleted by hand");
    assert!(is(last_applied("h", 3, false), Some(&live("h", 2))));
    assert!(is(last_applied("h", 3, true), Some(&live("h", 3))));
    assert!(
        !is(last_applied("h", 3, true), Some(&live("h", 4))),
        "somebody has written to it"
    );
    assert!(
        !is(last_applied("other", 3, true), Some(&live("other", 3))),
        "another is desired"
    );
    let anew = Live {
        uid: Some("v".into()),
        ..live("h", 1)
    };
    assert!(
        !is(last_applied("h", 3, true), Some(&anew)),
        "made anew by somebody"
    );
}

#[test]
fn object_found_as_desired_is_restored_later() {
    let found = settled("h", &desired(), None, Some(&live("h", 3))).unwrap();
    assert!(settled("h", &desired(), Some(found.clone()), Some(&live("h", 4))).is_err());
    assert!(settled("h", &desired(), Some(found), None).is_err());
}

fn service() -> Rendered {
    Rendered {
        gvk: GroupVersionKind::gvk("", "v1", "Service"),
        namespace: "shop".into(),
        name: "waypoint".into(),
        object: json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {labels::MANAGED_BY: labels::OPERATOR}},
            "spec": {"selector": {"a": "b"}},
        }),
    }
}

fn seen(server: &Server) -> Live {
    let object: DynamicObject = serde_json::from_value(server.get(PATH).unwrap()).unwrap();
    Live::of(&object.metadata)
}

#[tokio::test]
async fn foreign_replacement_is_not_changed() {
    let server = Server::default();
    let applied = Applied::default();
    applied.apply(&server.client(), service(), None).await.unwrap();
    let live = seen(&server);
    applied
        .apply(&server.client(), service(), Some(&live))
        .await
        .unwrap();
    assert_eq!(server.writes().len(), 1);
    // It went with its namespace, and the namespace's next owner has a Service of that name.
    server.remove(PATH);
    let theirs =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "waypoint", "namespace": "shop"}});
    server.put(PATH, theirs);
    let refused = applied.apply(&server.client(), service(), None).await;
    assert!(
        matches!(refused, Err(ReconcileError::Taken { .. })),
        "{refused:?}"
    );
    assert_eq!(server.writes(), []);
}

#[tokio::test]
async fn lost_label_is_restored() {
    let (server, applied) = (Server::default(), Applied::default());
    let client = server.client();
    applied.apply(&client, service(), None).await.unwrap();
    // By the one that has applied it, and by one that restarts.
    for operator in [&applied, &Applied::default()] {
        let live = seen(&server);
        operator.apply(&client, service(), Some(&live)).await.unwrap();
        server.unlabel(PATH);
        operator.apply(&client, service(), None).await.unwrap();
        assert!(server.labelled(PATH).is_some());
    }
    server.unlabel(PATH);
    let anew = Applied::default();
    anew.apply(&client, service(), None).await.unwrap();
    assert!(server.labelled(PATH).is_some());
    // Where nothing of what was applied is left, only the one that has done it knows.
    let live = seen(&server);
    anew.apply(&client, service(), Some(&live)).await.unwrap();
    server.writes();
    let theirs = json!({"metadata": {"name": "waypoint", "namespace": "shop", "uid": live.uid}});
    server.put(PATH, theirs);
    let refused = Applied::default().apply(&client, service(), None).await;
    assert!(
        matches!(refused, Err(ReconcileError::Taken { .. })),
        "{refused:?}"
    );
    assert_eq!(server.writes(), []);
    anew.apply(&client, service(), None).await.unwrap();
    assert_eq!(server.writes().len(), 1);
}

#[tokio::test]
async fn nothing_is_created_in_a_terminating_namespace() {
    let server = Server::default();
    server.leave("shop");
    let refused = Applied::default().apply(&server.client(), service(), None).await;
    assert!(
        matches!(refused, Err(ReconcileError::Leaving { .. })),
        "{refused:?}"
    );
}

/// Somebody else writes the object whenever the operator has: it writes less and less often, and names the other.
#[tokio::test(start_paused = true)]
async fn contest_of_two_writers_backs_off() {
    let (server, applied) = (Server::default(), Applied::default());
    let client = server.client();
    applied.apply(&client, service(), None).await.unwrap();
    applied
        .apply(&client, service(), Some(&seen(&server)))
        .await
        .unwrap();
    server.writes();
    let overwrite = || {
        server.edit(PATH, json!({"spec": {"selector": {"a": "c"}}}), &["/spec"]);
        let mut object = server.get(PATH).unwrap();
        let other = json!({"manager": "kustomize", "operation": "Update", "fieldsV1": {"f:spec": {"f:selector": {}}}});
        let entries = object["metadata"]["managedFields"].as_array_mut().unwrap();
        entries.retain(|entry| entry["manager"] != "kustomize");
        entries.push(other);
        server.put(PATH, object);
    };
    let (mut written, mut named) = (0, 0);
    for _ in 0..600 {
        overwrite();
        match applied.apply(&client, service(), Some(&seen(&server))).await {
            Ok(()) => written += 1,
            Err(error @ ReconcileError::Contested { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains("Service shop/waypoint") && text.contains("\"kustomize\""),
                    "{text}"
                );
                named += 1;
            }
            Err(error) => panic!("{error}"),
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!((3..12).contains(&written) && named > 500, "{written} {named}");
    assert_eq!(server.writes().len(), written);
    // The other is gone: it is corrected once more, and at once after a while.
    tokio::time::advance(Duration::from_secs(1000)).await;
    for _ in 0..2 {
        overwrite();
        applied
            .apply(&client, service(), Some(&seen(&server)))
            .await
            .unwrap();
    }
}
