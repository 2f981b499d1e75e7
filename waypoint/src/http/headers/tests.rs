use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    map
}

#[test]
fn hop_by_hop_fields_go_and_the_others_stay() {
    let mut map = headers(&[
        ("host", "server"),
        ("connection", "close, X-Mine"),
        ("connection", "host"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, Trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("trailer", "x-sum"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ]);
    remove_hop_by_hop(&mut map, false);
    assert_eq!(
        map,
        headers(&[
            ("host", "server"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            ),
        ])
    );
}

#[test]
fn only_websocket_is_an_upgrade() {
    let asks = |fields: &[(&str, &str)]| is_websocket(&Method::GET, Version::HTTP_11, &headers(fields));
    assert!(asks(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket")
    ]));
    assert!(!asks(&[
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c")
    ]));
    assert!(!asks(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c")
    ]));
    assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
    assert!(!asks(&[("upgrade", "websocket")]));
    let websocket = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    assert!(!is_websocket(&Method::POST, Version::HTTP_11, &websocket));
    assert!(!is_websocket(&Method::GET, Version::HTTP_10, &websocket));
}

#[test]
fn the_name_a_request_is_for_is_one() {
    let of = |uri: &str, fields: &[(&str, &str)], version| {
        authority(&uri.parse().unwrap(), &headers(fields), version).map(|a| a.map(|a| a.to_string()))
    };
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    assert_eq!(of("/", &[("host", "a:80")], one), Ok(Some("a:80".to_owned())));
    assert_eq!(of("http://b/", &[("host", "a")], one), Ok(Some("b".to_owned())));
    assert_eq!(of("/", &[("host", "")], one), Ok(None));
    assert_eq!(of("/", &[], Version::HTTP_10), Ok(None));
    assert_eq!(of("/", &[], one), Err(HostError::Missing));
    assert_eq!(
        of("/", &[("host", "a"), ("host", "a")], one),
        Err(HostError::Several)
    );
    assert_eq!(of("/", &[("host", "a/b")], one), Err(HostError::Malformed));
    assert_eq!(of("/", &[("host", "x@a")], one), Err(HostError::Malformed));
    assert_eq!(of("/", &[("host", "a, b")], one), Err(HostError::Malformed));
    assert_eq!(of("http://a/", &[("host", "A")], two), Ok(Some("a".to_owned())));
    assert_eq!(of("http://a/", &[("host", "b")], two), Err(HostError::Differ));
}

#[test]
fn absolute_targets_become_origin_form() {
    let mut map = headers(&[("host", "other")]);
    let uri: Uri = "http://server:8080/a?b".parse().unwrap();
    let authority = uri.authority().cloned();
    assert_eq!(to_http1(&uri, authority.as_ref(), &mut map), "/a?b");
    assert_eq!(map, headers(&[("host", "server:8080")]));
}

#[test]
fn http1_becomes_http2() {
    let mut map = headers(&[("host", "server:8080"), ("connection", "upgrade"), ("a", "b")]);
    let uri: Uri = "/a?b".parse().unwrap();
    let authority = authority(&uri, &map, Version::HTTP_11).unwrap().unwrap();
    let uri = to_http2(&uri, &authority, &mut map).unwrap();
    assert_eq!(uri, "http://server:8080/a?b");
    assert_eq!(map, headers(&[("a", "b")]));
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (value, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        assert_eq!(is_grpc(&headers(&[("content-type", value)])), grpc, "{value}");
    }
}
