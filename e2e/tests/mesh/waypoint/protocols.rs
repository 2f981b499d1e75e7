//! What a waypoint carries besides HTTP/1.1: gRPC, WebSocket, HTTP/2 without TLS.

use std::net::TcpStream as StdStream;

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{Heard, Web};
use ambit_sample::echo::echo_client::EchoClient;
use ambit_sample::echo::{CountTo, Words};
use anyhow::{Context, Result, bail, ensure};
use http::Method;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::{WAYPOINT, condition, enforce, metric, policy};
use ambit_e2e::lab::{LIMIT, Lab};

fn into_tokio(stream: StdStream) -> Result<TcpStream> {
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

/// A gRPC client in a client's pod.
async fn channel(web: &Web, client: &str, port: u16) -> Result<Channel> {
    let stream = into_tokio(web.dial(client, port)?)?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("one connection is all there is"));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_shared(format!("http://web.{}:{port}", web.namespace()))?;
    Ok(endpoint.connect_with_connector(connector).await?)
}

#[test]
fn grpc_deadlines_streams_and_trailers_pass() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("grpc", |web| {
        let rule = json!({"name": "no-chat", "action": "Deny", "headers": [{"name": "x-forbidden"}]});
        enforce(&lab, web, "calls", json!({"authorization": [rule]}))?;
        let counted = || {
            metric(
                &web.waypoints(WAYPOINT)?,
                "istio_requests_total",
                &["request_protocol=\"grpc\""],
            )
        };
        let before = counted()?;
        Runtime::new()?.block_on(async {
            for client in ["load-a", "load-b"] {
                let seen = ambit_sample::exercise(channel(web, client, Web::GRPC).await?).await?;
                ensure!(seen.is_whole(), "{client}: {seen:#?}");
                println!("{client}: {seen:?}");
            }
            // The policy allows whatever carries no forbidden header, of every kind of call.
            let mut calls = EchoClient::new(channel(web, "load-a", Web::GRPC).await?);
            let mut request = tonic::Request::new(CountTo {
                last: 3,
                every_millis: 0,
            });
            request.metadata_mut().insert("x-forbidden", "1".parse()?);
            let refused = calls.count(request).await.err().context("it was answered")?;
            let reason = refused.metadata().get("x-ambit-reason").context("no reason")?;
            ensure!(
                refused.code() == Code::PermissionDenied && reason == "denied by grpc/calls/no-chat",
                "{refused:?}"
            );
            // The same connection goes on.
            let words = Words {
                text: "still here".into(),
                ..Words::default()
            };
            ensure!(
                calls.say(words).await?.into_inner().text == "still here",
                "another answer"
            );
            anyhow::Ok(())
        })?;
        eventually(
            "calls that missed their deadline to be cancelled at the server",
            LIMIT,
            || {
                let cancelled: u64 = web.counts()?.iter().map(|counts| counts.cancelled).sum();
                ensure!(cancelled == 2, "{cancelled} of 2 are");
                Ok(())
            },
        )?;
        eventually("every call to be counted", LIMIT, || {
            let calls = counted()? - before;
            ensure!(calls >= 12.0, "{calls} calls are");
            Ok(())
        })
    })
}

#[test]
fn slow_grpc_call_gets_deadline_exceeded() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("grpcslow", |web| {
        enforce(&lab, web, "patience", json!({"timeouts": {"request": "300ms"}}))?;
        Runtime::new()?.block_on(async {
            let mut calls = EchoClient::new(channel(web, "load-a", Web::GRPC).await?);
            let slow = Words {
                text: "slow".into(),
                delay_millis: 20_000,
                ..Words::default()
            };
            let late = calls.say(slow).await.err().context("it was answered")?;
            ensure!(late.code() == Code::DeadlineExceeded, "{late:?}");
            anyhow::Ok(())
        })
    })
}

#[test]
fn websocket_and_h2c_pass() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("upgrade", |web| {
        let rule = json!({"name": "no-secrets", "action": "Deny", "paths": [{"prefix": "/secret"}]});
        enforce(&lab, web, "sockets", json!({"authorization": [rule]}))?;
        Runtime::new()?.block_on(async {
            let url = |path: &str| format!("ws://web.{}:8080{path}", web.namespace());
            let stream = into_tokio(web.dial("load-a", Web::HTTP)?)?;
            let (mut socket, _) = tokio_tungstenite::client_async(url("/socket"), stream).await?;
            use futures::{SinkExt, StreamExt};
            for round in 0..20 {
                let sent = Message::text(format!("{round} ").repeat(1000));
                socket.send(sent.clone()).await?;
                let back = socket.next().await.context("the WebSocket ended")??;
                ensure!(back == sent, "another message came back");
            }
            socket.close(None).await?;
            while let Some(Ok(_)) = socket.next().await {}
            // The rule is for WebSockets too.
            let stream = into_tokio(web.dial("load-a", Web::HTTP)?)?;
            let refused = tokio_tungstenite::client_async(url("/secret"), stream).await;
            let refused = refused.err().context("a WebSocket was opened against the rule")?;
            let WebSocketError::Http(answer) = refused else {
                bail!("not refused with an answer, but {refused}");
            };
            let reason = answer.headers().get("x-ambit-reason").context("no reason")?;
            ensure!(
                answer.status() == 403 && reason == "denied by upgrade/sockets/no-secrets",
                "{answer:?}"
            );

            let stream = into_tokio(web.dial("load-b", Web::HTTP)?)?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            let driver = tokio::spawn(connection);
            let uri = format!("http://web.{}:8080/two?x=y", web.namespace());
            let request = http::Request::builder().method(Method::GET).uri(uri).body(())?;
            let (answer, _) = sender.ready().await?.send_request(request, true)?;
            let answer = answer.await?;
            ensure!(answer.status() == 200, "{answer:?}");
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while let Some(data) = body.data().await {
                text.extend_from_slice(&data?);
            }
            driver.abort();
            let received: Heard = serde_json::from_slice(&text)?;
            ensure!(received.path == "/two?x=y", "{received:?}");
            anyhow::Ok(())
        })?;
        // Trace context goes on to the server.
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let received = web.echo("load-a", &Request::get("/").header("traceparent", trace))?;
        let passed = received
            .headers
            .get("traceparent")
            .map(String::as_str)
            .unwrap_or_default();
        ensure!(
            passed.contains("0af7651916cd43dd8448eb211c80319c"),
            "{received:?}"
        );
        Ok(())
    })
}

#[test]
fn non_http_passes_and_caller_rules_apply() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("rawtcp", |shop| {
        shop.enroll()?;
        let enforce = |spec: Value| -> Result<()> {
            let targets = json!([{"kind": "Service", "name": "server"}]);
            let mut spec = spec;
            spec["targetRefs"] = targets;
            lab.cluster.apply(shop.namespace(), &policy("raw", spec))?;
            eventually("the policy to be enforced", LIMIT, || {
                let policy = ["waypointpolicy", "raw", "--namespace", shop.namespace()];
                let (status, reason, message) = condition(&lab.cluster.get(&policy)?, "Programmed")?;
                ensure!(status == "True", "{reason}: {message}");
                Ok(())
            })
        };
        // HTTP, lines, and a server that speaks first.
        enforce(json!({"timeouts": {"request": "10s"}}))?;
        let opened = || -> Result<f64> {
            let pods = Pod::list(&lab.cluster, shop.namespace(), "ambit.dev/waypoint=waypoint")?;
            metric(&pods, "istio_tcp_connections_opened_total", &[])
        };
        eventually("connections that are no HTTP to go through it", LIMIT, || {
            ensure!(opened()? > 20.0, "{} did", opened()?);
            Ok(())
        })?;
        // A waypoint waits a while for a client's first bytes, unless the Service says that there is nothing to wait
        // for.
        let said = r#"[{"op": "add", "path": "/spec/ports/2/appProtocol", "value": "tcp"}]"#;
        let patch = ["patch", "service", "server", "--type=json", "--patch", said];
        let before = shop.stats("client-a")?.flows["banner"].ok;
        eventually("a server that sends first to be reached", LIMIT, || {
            let now = shop.stats("client-a")?.flows["banner"].ok;
            ensure!(now > before + 3, "{} times", now - before);
            Ok(())
        })?;
        lab.cluster
            .run_kubectl(&[&patch[..], &["--namespace", shop.namespace()]].concat())?;
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, 5)?;
            shop.reset_slowest(client)?;
            let stats = shop.wait_more(client, 30)?;
            ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
            for (flow, counted) in &stats.flows {
                println!("{client}, {flow}: {counted:?}");
            }
        }

        let principal = format!("cluster.local/ns/{}/sa/client-a", shop.namespace());
        enforce(json!({"authorization": [{"name": "a", "action": "Allow", "from": [{"principals": [principal]}]}]}))?;
        eventually("client-b to be refused, whatever it speaks", LIMIT, || {
            let before = shop.stats("client-b")?;
            shop.wait_more("client-a", 5)?;
            let after = shop.stats("client-b")?;
            for (name, flow) in &after.flows {
                let (was, now) = (before.flows[name], flow);
                ensure!(now.ok == was.ok && now.failed > was.failed, "{name}: {was:?}, {now:?}");
            }
            Ok(())
        })?;
        let stats = shop.stats("client-a")?;
        println!("client-a had {} failures while the pods were closed to others", stats.total_failed());

        // A rule about HTTP is for HTTP alone to pass.
        enforce(json!({"authorization": [{"name": "gets", "action": "Allow", "methods": ["GET"]}]}))?;
        eventually("HTTP to pass alone", LIMIT, || {
            let before = shop.stats("client-b")?.flows;
            let http = before["http"].ok;
            eventually("more answers over HTTP", LIMIT, || {
                ensure!(shop.stats("client-b")?.flows["http"].ok > http + 5, "none");
                Ok(())
            })?;
            let after = shop.stats("client-b")?.flows;
            for name in ["tcp", "banner"] {
                ensure!(after[name].ok == before[name].ok, "{name} is answered: {after:?}");
            }
            Ok(())
        })
    })
}
