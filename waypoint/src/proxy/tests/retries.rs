//! What is tried again, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_wire::waypoint as wire;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc};

use super::answers::millis;
use super::rules::policy;
use super::support::*;
use crate::http::HttpTimeouts;

pub(super) fn retry(change: impl FnOnce(&mut wire::Retry)) -> wire::Policy {
    let mut retry = wire::Retry {
        attempts: 2,
        status_codes: vec![503],
        connect_failure: true,
        reset: true,
        backoff_base: millis(1),
        backoff_max: millis(10),
        ..wire::Retry::default()
    };
    change(&mut retry);
    wire::Policy {
        retry: Some(retry),
        ..policy("orders", [])
    }
}

/// Fails every third request, and every first.
async fn flaky() -> Application {
    let count = Arc::new(AtomicUsize::new(0));
    Application::start(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if number.is_multiple_of(3) {
                let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
                return failed.body(full("failed")).unwrap();
            }
            Response::new(full(body))
        }
    })
    .await
}

#[tokio::test]
async fn clients_do_not_see_the_failures_of_an_endpoint_that_fails_now_and_then() {
    let mesh = Mesh::new().await;
    let application = flaky().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|_| {}));
    let mut client = mesh.http1(80).await;
    for _ in 0..20 {
        let put = Request::put("/")
            .header("host", "server")
            .body(full("body"))
            .unwrap();
        let (status, _, body) = whole(client.send(put).await).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "body"));
    }
    let retries = mesh.metric(&["ambit_retries_total", "shop/orders"]);
    assert_eq!(retries, 10);
    assert_eq!(application.seen() as u64, 20 + retries);
    // Answers that were not wanted did not cost their connections.
    assert_eq!(application.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_last_answer_is_the_clients_when_all_tries_fail() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |_| {
        let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        failed.body(full("mine")).unwrap()
    })
    .await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|_| {}));
    let (status, reason, body) = mesh.http1(80).await.get("/").await;
    assert_eq!(
        (status, reason.as_str(), body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "", "mine")
    );
    assert_eq!(application.seen(), 3);
}

#[tokio::test]
async fn post_is_tried_again_only_when_asked() {
    let mesh = Mesh::new().await;
    let application = flaky().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|_| {}));
    let post = || {
        Request::post("/")
            .header("host", "server")
            .body(full("body"))
            .unwrap()
    };
    let mut client = mesh.http1(80).await;
    assert_eq!(
        client.send(post()).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(application.seen(), 1);
    let application = flaky().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|retry| retry.non_idempotent = true));
    let (status, _, body) = whole(mesh.http1(80).await.send(post()).await).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "body"));
    assert_eq!(application.seen(), 2);
}

#[tokio::test]
async fn a_body_that_is_not_kept_is_sent_once() {
    let mesh = Mesh::new().await;
    let application = flaky().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|_| {}));
    let put = Request::put("/")
        .header("host", "server")
        .body(full(vec![b'x'; 65 << 10]))
        .unwrap();
    let status = mesh.http1(80).await.send(put).await.status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(application.seen(), 1);
}

#[tokio::test]
async fn another_endpoint_gets_the_next_try() {
    let mesh = Mesh::new().await;
    let bad = Application::start(async |_| {
        let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        failed.body(full("")).unwrap()
    })
    .await;
    let good = Application::echo().await;
    mesh.endpoint("bad", bad.address);
    mesh.endpoint("good", good.address);
    mesh.policy(retry(|retry| retry.attempts = 1));
    let mut client = mesh.http1(80).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.0, StatusCode::OK);
    }
    assert_eq!(good.seen(), 20);
    assert!(bad.seen() > 0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_costs_nothing_even_without_a_policy() {
    let mesh = Mesh::new().await;
    let nobody = Application::echo().await.address;
    let good = Application::echo().await;
    mesh.endpoint("gone", nobody);
    mesh.endpoint("good", good.address);
    let mut client = mesh.http1(80).await;
    for _ in 0..20 {
        let post = Request::post("/")
            .header("host", "server")
            .body(full("body"))
            .unwrap();
        assert_eq!(client.send(post).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_endpoint_closed_costs_nothing() {
    let mesh = Mesh::new().await;
    // Each connection is good for one answer; it is closed when the next request has been read, or before it comes.
    let address = raw_application(async |mut tcp, number| {
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        if number.is_multiple_of(2) {
            read_head(&mut tcp).await;
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut client = mesh.http1(80).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.2, "ok");
    }
}

#[tokio::test]
async fn a_post_on_a_kept_connection_is_not_sent_twice() {
    let mesh = Mesh::new().await;
    let heads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heads);
    let address = raw_application(move |mut tcp, _| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut tcp).await;
            count.fetch_add(1, Ordering::SeqCst);
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
            if read_head(&mut tcp).await.starts_with("POST") {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    let post = Request::post("/")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    let (status, reason, _) = whole(client.send(post).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{reason}");
    assert_eq!(heads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let mesh = Mesh::new().await;
    let count = AtomicUsize::new(0);
    let application = Application::start(move |_| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Response::new(full("ok"))
        }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|retry| retry.per_try_timeout = millis(1000)));
    assert_eq!(mesh.http1(80).await.get("/").await.2, "ok");
    assert_eq!(application.seen(), 2);
}

/// Endpoints that connections take longer to than one is waited for where there are others.
async fn slow_to_reach(count: usize) -> (Mesh, Vec<(Application, Ztunnel)>) {
    let timeouts = HttpTimeouts {
        connect: Duration::from_millis(50),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let mut endpoints = Vec::new();
    for number in 0..count {
        let application = Application::start_at(own_address(), echo).await;
        let name = format!("server-{number}");
        let ztunnel = mesh.hbone_endpoint(&name, application.address).await;
        *ztunnel.delay.lock() = Duration::from_millis(500);
        endpoints.push((application, ztunnel));
    }
    (mesh, endpoints)
}

#[tokio::test]
async fn the_last_try_is_not_given_up_for_an_endpoint_that_would_not_be_tried() {
    let (mesh, _endpoints) = slow_to_reach(3).await;
    // One retry, for nothing: the second endpoint is the last.
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!((status, reason.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn the_last_endpoint_is_not_given_up_for_one_that_was_not_reached() {
    let (mesh, endpoints) = slow_to_reach(2).await;
    mesh.policy(retry(|retry| retry.attempts = 1));
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!((status, reason.as_str()), (StatusCode::OK, ""));
    assert_eq!(endpoints.iter().map(|(a, _)| a.seen()).sum::<usize>(), 1);
    assert_eq!(mesh.metric(&["ambit_retries_total", "shop/orders"]), 1);
}

#[tokio::test]
async fn connections_that_are_no_http_wait_for_the_last_endpoint_too() {
    let (mesh, _endpoints) = slow_to_reach(2).await;
    let request = "GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    let answer = mesh.exchange(9000, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_try_that_was_answered_early_takes_nothing_from_the_next_one() {
    let mesh = Mesh::new().await;
    let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel();
    let address = raw_application(move |tcp, _| {
        let ended = ended.clone();
        async move {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            let mut number = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                number += 1;
                let (first, ended) = (number == 1, ended.clone());
                let mut body = request.into_body();
                tokio::spawn(async move {
                    if first {
                        assert_eq!(body.data().await.unwrap().unwrap(), "one,");
                        let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
                        respond.send_response(failed.body(()).unwrap(), true).unwrap();
                        // It would read on, and gets no more.
                        let error = body.data().await.map(|data| data.unwrap_err().reason());
                        ended.send(error).unwrap();
                        return;
                    }
                    let mut answer = respond.send_response(Response::new(()), false).unwrap();
                    let mut all = Vec::new();
                    while let Some(data) = body.data().await {
                        all.extend(data.unwrap());
                    }
                    answer.send_data(all.into(), true).unwrap();
                });
            }
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    mesh.policy(retry(|_| {}));
    let (sender, body) = channel();
    sender.send(Frame::data("one,".into())).unwrap();
    let put = Request::put("http://server/").body(body).unwrap();
    let mut client = mesh.http2(8080).await;
    let answer = tokio::spawn(async move { whole(client.send(put).await).await });
    let ending = tokio::time::timeout(WAIT, endings.recv()).await.unwrap();
    assert_eq!(ending.unwrap(), Some(Some(h2::Reason::CANCEL)));
    sender.send(Frame::data("two".into())).unwrap();
    drop(sender);
    let (status, _, body) = answer.await.unwrap();
    assert_eq!((status, body.as_str()), (StatusCode::OK, "one,two"));
}

/// As many KiB, no two of them alike.
fn numbers(count: usize) -> String {
    (0..count).map(|number| format!("{number:1023}\n")).collect()
}

/// Reads as many bytes at least, and says whether so many came.
async fn read(body: &mut Incoming, count: usize) -> bool {
    let mut read = 0;
    while read < count {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return false,
        }
    }
    true
}

/// A request of which more comes, while it waits for its next try, than is kept; then it may end, too.
async fn between_two_tries(ends: bool) {
    let mesh = Mesh::new().await;
    let (read_on, mut has_read_on) = mpsc::unbounded_channel();
    let count = Arc::<AtomicUsize>::default();
    // The first request is answered early, and would be read on.
    let serve = move |request: Request<Incoming>| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let read_on = read_on.clone();
        async move {
            let mut body = request.into_body();
            if !first {
                return Response::new(full(body.collect().await.unwrap().to_bytes()));
            }
            assert!(read(&mut body, 10 << 10).await);
            tokio::spawn(async move { read_on.send(read(&mut body, 100 << 10).await) });
            let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            failed.body(full("failed")).unwrap()
        }
    };
    let mut endpoints = Vec::new();
    for name in ["server-1", "server-2"] {
        let application = Application::start_at(own_address(), serve.clone()).await;
        let ztunnel = mesh.hbone_endpoint(name, application.address).await;
        endpoints.push((application, ztunnel));
    }
    mesh.policy(retry(|_| {}));
    let (sender, body) = channel();
    let all = numbers(111);
    let send = |sender: &mpsc::UnboundedSender<_>, part: std::ops::Range<usize>| {
        let data = Bytes::copy_from_slice(&all.as_bytes()[part.start << 10..part.end << 10]);
        sender.send(Frame::data(data)).unwrap();
    };
    let put = Request::put("http://server/").body(body).unwrap();
    let mut client = mesh.http2(8080).await;
    let answer = tokio::spawn(async move { whole(client.send(put).await).await });
    while endpoints.iter().all(|(application, _)| application.seen() == 0) {
        tokio::task::yield_now().await;
    }
    // The first try has its connection. That of the next one is left waiting.
    let mut held = Vec::new();
    for (_, ztunnel) in &endpoints {
        held.push(ztunnel.gate.lock().await);
    }
    send(&sender, 0..10);
    mesh.counts(&["ambit_retries_total", "shop/orders"], 1).await;
    send(&sender, 10..110);
    let mut sender = Some(sender);
    let mut end = || {
        if let Some(sender) = sender.take() {
            send(&sender, 110..111);
        }
    };
    if ends {
        end();
    }
    let took = tokio::time::timeout(WAIT, has_read_on.recv()).await.unwrap();
    held.clear();
    end();
    let (status, reason, body) = answer.await.unwrap();
    assert_eq!((status, reason.as_str()), (StatusCode::OK, ""));
    assert_eq!((body.len(), body == all), (all.len(), true));
    assert_eq!(took, Some(false));
}

#[tokio::test]
async fn what_comes_between_two_tries_is_the_next_one_s() {
    between_two_tries(false).await;
}

#[tokio::test]
async fn what_ends_between_two_tries_is_sent_to_its_end() {
    between_two_tries(true).await;
}

#[tokio::test]
async fn an_early_answer_to_what_is_not_kept_is_the_client_s_and_the_endpoint_gets_the_rest() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |request| {
        let mut body = request.into_body();
        assert!(read(&mut body, 65 << 10).await);
        let (sender, answer) = channel();
        tokio::spawn(async move {
            let rest = body.collect().await.unwrap().to_bytes();
            sender.send(Frame::data(rest)).unwrap();
        });
        let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        failed.body(answer).unwrap()
    })
    .await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|_| {}));
    let (sender, body) = channel();
    sender.send(Frame::data(numbers(65).into())).unwrap();
    let put = Request::put("http://server/").body(body).unwrap();
    let answer = mesh.http2(8080).await.send(put).await;
    sender.send(Frame::data("the rest".into())).unwrap();
    drop(sender);
    let (status, _, body) = whole(answer).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the rest")
    );
    assert_eq!(application.seen(), 1);
}

#[tokio::test]
async fn what_an_http2_endpoint_refuses_is_tried_again() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |tcp, _| {
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        let mut number = 0;
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            number += 1;
            if number == 1 {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                respond.send_response(Response::new(()), true).unwrap();
            }
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let post = Request::post("http://server/").body(full("body")).unwrap();
    assert_eq!(mesh.http2(8080).await.send(post).await.status(), StatusCode::OK);
}

/// An endpoint that fails at once is always idle: least-loaded alone would give it at least its share.
#[tokio::test]
async fn an_endpoint_that_fails_fast_draws_few_requests() {
    let mesh = Mesh::new().await;
    let bad = Application::start(async |_| {
        let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        failed.body(full("")).unwrap()
    })
    .await;
    let good = Application::echo().await;
    mesh.endpoint("bad", bad.address);
    mesh.endpoint("good", good.address);
    let mut client = mesh.http1(80).await;
    for _ in 0..200 {
        client.get("/").await;
    }
    assert!(bad.seen() * 4 < good.seen(), "{} and {}", bad.seen(), good.seen());
}

/// With all endpoints failing, a fifth of the requests in flight is sent once more, and the others are passed on as they came.
#[tokio::test]
async fn in_an_outage_a_fifth_of_the_requests_is_tried_again() {
    const REQUESTS: usize = 20;
    let mesh = Mesh::new().await;
    let (first, again) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let number = Arc::new(AtomicUsize::new(0));
    let (held, retried) = (Arc::clone(&first), Arc::clone(&again));
    let application = Application::start(move |_| {
        let is_first = number.fetch_add(1, Ordering::SeqCst) < REQUESTS;
        let gate = Arc::clone(if is_first { &held } else { &retried });
        async move {
            drop(gate.acquire().await);
            let failed = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            failed.body(full("failed")).unwrap()
        }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(retry(|retry| retry.attempts = 1));
    let client = mesh.http2(80).await;
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let request = Request::get("http://server/").body(full("")).unwrap();
                whole(client.send(request).await).await
            })
        })
        .collect();
    let seen = async |count| {
        while application.seen() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, seen(REQUESTS)).await.unwrap();
    first.add_permits(REQUESTS);
    let limited = ["istio_requests_total", "response_flags=\"URX\""];
    mesh.counts(&limited, REQUESTS as u64 * 4 / 5).await;
    again.add_permits(REQUESTS);
    for request in requests {
        let (status, _, body) = request.await.unwrap();
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "failed")
        );
    }
    assert_eq!(application.seen(), REQUESTS * 6 / 5);
    assert_eq!(mesh.metric(&["ambit_retry_limit_total"]), REQUESTS as u64 * 4 / 5);
    assert_eq!(mesh.metric(&["ambit_retries_total"]), REQUESTS as u64 / 5);
}

/// An endpoint that takes HTTP/2 and then says nothing more, not even to PING, as one whose node is gone.
#[tokio::test]
async fn an_http2_endpoint_without_hbone_that_falls_silent_is_given_up_for_another() {
    let mesh = Mesh::with(HttpTimeouts {
        ping: Duration::from_millis(50),
        ..HttpTimeouts::default()
    })
    .await;
    let silent = raw_application(async |mut tcp, _| {
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    mesh.endpoint("server-1", silent);
    let mut client = mesh.http2(8080).await;
    let get = || Request::get("http://server/").body(full("")).unwrap();
    assert_eq!(client.send(get()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    mesh.counts(&["istio_requests_total", "response_flags=\"UC\""], 1)
        .await;
    // One that is only slow answers PING.
    let slow = Application::start(async |_| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Response::new(full("at last"))
    })
    .await;
    mesh.remove("server-1");
    mesh.endpoint("server-2", slow.address);
    assert_eq!(whole(client.send(get()).await).await.2, "at last");
}
