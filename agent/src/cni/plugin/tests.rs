use super::*;
use std::cell::RefCell;

fn environment(command: &str, namespace: &str) -> HashMap<String, String> {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    );
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/n1"),
        ("CNI_ARGS", &arguments),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn previous() -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.1.7/24", "interface": 1}, {"address": "fd00::7/64"}]})
}

fn config() -> String {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ambit-cni",
        "exemptNamespaces": ["kube-system"], "prevResult": previous(),
    })
    .to_string()
}

fn unreachable(_: &Path, _: &Request) -> io::Result<Answer> {
    Err(io::Error::from(io::ErrorKind::ConnectionRefused))
}

#[test]
fn add_asks_the_agent_and_passes_the_result_on() {
    let asked = RefCell::new(None);
    let ask = |socket: &Path, request: &Request| {
        assert_eq!(socket, Path::new(ambit_wire::names::CNI_SOCKET));
        asked.replace(Some(request.clone()));
        Ok(Answer::Captured)
    };
    let result = call(&environment("ADD", "shop"), &config(), &ask).expect("succeeds");
    assert_eq!(result, Some(previous()));
    let expected = Request {
        version: VERSION,
        operation: Operation::Add,
        container_id: "c1".into(),
        netns: "/var/run/netns/n1".into(),
        pod_namespace: "shop".into(),
        pod_name: "web-1".into(),
        pod_uid: Some("u1".into()),
        addresses: vec!["10.0.1.7".into(), "fd00::7".into()],
        valid: Default::default(),
    };
    assert_eq!(asked.into_inner(), Some(expected));
}

#[test]
fn exempt_namespaces_start_without_the_agent() {
    let result = call(&environment("ADD", "kube-system"), &config(), &unreachable);
    assert_eq!(result, Ok(Some(previous())));
}

#[test]
fn an_unreachable_agent_is_a_named_reason_to_try_again() {
    let error = call(&environment("ADD", "shop"), &config(), &unreachable).expect_err("fails");
    assert_eq!(
        (error.code, error.msg.as_str()),
        (TRY_AGAIN_LATER, "ambit: AgentUnreachable")
    );
    assert!(error.details.contains("kube-system"), "{}", error.details);
}

#[test]
fn the_agents_reason_is_passed_on() {
    let ask = |_: &Path, _: &Request| {
        Ok(Answer::Failed {
            reason: "NoZtunnel".into(),
            message: "no ztunnel is connected".into(),
        })
    };
    let error = call(&environment("ADD", "shop"), &config(), &ask).expect_err("fails");
    assert_eq!(
        error,
        CniError::new(TRY_AGAIN_LATER, "ambit: NoZtunnel", "no ztunnel is connected")
    );
}

#[test]
fn del_never_fails() {
    assert_eq!(
        call(&environment("DEL", "shop"), &config(), &unreachable),
        Ok(None)
    );
    assert_eq!(call(&environment("DEL", "shop"), "{", &unreachable), Ok(None));
}

#[test]
fn version_and_check_need_no_agent() {
    let version = call(
        &environment("VERSION", ""),
        "{\"cniVersion\":\"1.0.0\"}",
        &unreachable,
    );
    let versions = version.expect("succeeds").expect("a result");
    assert_eq!(versions["supportedVersions"], json!(VERSIONS));
    assert_eq!(
        call(&environment("CHECK", "shop"), &config(), &unreachable),
        Ok(None)
    );
}

#[test]
fn what_is_wrong_is_said_with_the_specifications_codes() {
    let code = |environment: &HashMap<String, String>, input: &str| {
        call(environment, input, &unreachable).expect_err("fails").code
    };
    let add = environment("ADD", "shop");
    assert_eq!(code(&add, "not json"), DECODING_FAILURE);
    assert_eq!(code(&add, r#"{"cniVersion":"9.9.9"}"#), INCOMPATIBLE_VERSION);
    assert_eq!(code(&add, r#"{"cniVersion":"1.0.0"}"#), INVALID_CONFIG);
    assert_eq!(
        code(&environment("EXPLODE", "shop"), &config()),
        INVALID_ENVIRONMENT
    );
}

fn call_of_1_1(command: &str, more: &Value, ask: &Ask<'_>) -> Result<Option<Value>, CniError> {
    let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "ambit-cni", "exemptNamespaces": ["kube-system"]});
    let (Value::Object(into), Value::Object(more)) = (&mut config, more) else {
        panic!("objects")
    };
    into.extend(more.clone());
    call(&environment(command, "shop"), &config.to_string(), ask)
}

#[test]
fn version_1_1_is_announced_and_taken() {
    let versions = call(&environment("VERSION", ""), "{}", &unreachable)
        .expect("succeeds")
        .expect("a result");
    assert!(
        versions["supportedVersions"]
            .as_array()
            .expect("a list")
            .contains(&json!("1.1.0"))
    );
    let added = call_of_1_1("ADD", &json!({"prevResult": previous()}), &|_, _| {
        Ok(Answer::Passed)
    });
    assert_eq!(added, Ok(Some(previous())));
}

#[test]
fn status_is_not_ready_until_the_agent_was_up_since_boot() {
    let status = |ask: &Ask<'_>| call_of_1_1("STATUS", &json!({}), ask);
    assert_eq!(status(&|_, _| Ok(Answer::Passed)), Ok(None));
    let absent = status(&|_, _| Err(io::Error::from(io::ErrorKind::NotFound)));
    assert_eq!(absent.expect_err("no pod can start").code, 50);
    // While it is being replaced the node stays ready.
    assert_eq!(status(&unreachable), Ok(None));
}

#[test]
fn gc_names_the_sandboxes_that_are_and_never_fails() {
    let asked = RefCell::new(vec![]);
    let note = |_: &Path, request: &Request| {
        asked
            .borrow_mut()
            .push((request.operation, request.valid.clone()));
        Ok(Answer::Passed)
    };
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    assert_eq!(call_of_1_1("GC", &valid, &note), Ok(None));
    assert_eq!(
        call_of_1_1("GC", &json!({}), &note),
        Ok(None),
        "no list: nothing is known to be gone"
    );
    assert_eq!(*asked.borrow(), [(Operation::Gc, ["c1".to_owned()].into())]);
    assert_eq!(call_of_1_1("GC", &valid, &unreachable), Ok(None));
}
