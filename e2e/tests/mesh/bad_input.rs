//! What is refused, and that it harms nobody.

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, LogLine, Pod};
use ambit_e2e::sample::{MARKER, Shop};
use ambit_identity::SpiffeId;
use ambit_tls::WorkloadCertificate;
use ambit_wire::names::TOKEN_AUDIENCE;
use anyhow::{Context, Result, bail, ensure};
use http::Method;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::hbone::{Caller, certificate, foreign_certificate, token, ztunnel_token};
use ambit_e2e::lab::{LIMIT, Lab};

#[test]
fn api_server_refuses_invalid_objects_with_reason() -> Result<()> {
    let lab = Lab::enter()?;
    let mesh = |name: &str, spec: &str| {
        format!("apiVersion: ambit.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    let ambient = |name: &str, spec: &str| {
        format!(
            "apiVersion: ambit.dev/v1alpha1\nkind: AmbientNamespace\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let rule = |rule: &str| ambient("ambient", &format!("{{authorization: [{rule}]}}"));
    for (manifest, words) in [
        (
            mesh("default", "{identity: {leafTTL: 5s}}"),
            ["spec.identity.leafTTL", "between 1m and 720h"],
        ),
        (
            mesh("default", "{mtls: {mode: Loose}}"),
            ["spec.mtls.mode", "supported values"],
        ),
        (
            mesh("default", "{trustDomain: other.example}"),
            ["spec.trustDomain", "cannot be changed"],
        ),
        (
            mesh("default", "{ztunnel: {resources: {requests: {cpu: '-1'}}}}"),
            ["spec.ztunnel.resources.requests.cpu", "should match"],
        ),
        (mesh("default", "{nonsense: 1}"), ["nonsense", "unknown field"]),
        (
            mesh("second", "{}"),
            ["metadata.name must be 'default'", "one Mesh"],
        ),
        (
            ambient("other", "{}"),
            ["metadata.name must be 'ambient'", "one AmbientNamespace"],
        ),
        (
            rule("{name: r, action: Deny}"),
            ["spec.authorization[0]", "needs 'from' or 'ports'"],
        ),
        (
            rule("{name: r, action: Deny, from: [{principals: ['spiffe://a/ns/b/sa/c']}]}"),
            ["principals", "without a scheme"],
        ),
    ] {
        let said = lab
            .cluster
            .refusal("default", &manifest)
            .with_context(|| manifest.clone())?;
        ensure!(
            words.iter().all(|word| said.contains(word)),
            "{manifest}\nis refused with\n{said}"
        );
    }
    Ok(())
}

fn id(shop: &Shop, account: &str) -> Result<SpiffeId> {
    Ok(SpiffeId::new("cluster.local", shop.namespace(), account)?)
}

#[test]
fn control_plane_signs_only_for_pods_of_the_node() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("signing", |shop| {
        shop.enroll()?;
        let client = shop.pod_of("client-a")?;
        let here = lab.ztunnel_of(&client)?;
        let others = mesh::ztunnels(&lab.cluster)?
            .into_iter()
            .find(|ztunnel| ztunnel.node != client.node);
        let elsewhere = others.context("there is one node only")?;
        let unbound = token(&lab.cluster, "ambit-ztunnel", TOKEN_AUDIENCE, None)?;
        let audience = token(&lab.cluster, "ambit-ztunnel", "another", Some(&here))?;
        let agents = Pod::list(
            &lab.cluster,
            mesh::NAMESPACE,
            "app.kubernetes.io/name=ambit-agent",
        )?;
        let agent = token(&lab.cluster, "ambit-agent", TOKEN_AUDIENCE, agents.first())?;
        let right = ztunnel_token(&lab.cluster, &here)?;
        let identity = id(shop, "client-a")?;
        let runtime = Runtime::new()?;
        let ask =
            |token: &str, identity: &SpiffeId| runtime.block_on(certificate(&lab.cluster, token, identity));

        for (who, token, identity, code) in [
            ("no token", String::new(), &identity, Code::Unauthenticated),
            (
                "a made-up token",
                "x.y.z".into(),
                &identity,
                Code::Unauthenticated,
            ),
            (
                "a token for another audience",
                audience,
                &identity,
                Code::Unauthenticated,
            ),
            (
                "a token bound to no pod",
                unbound,
                &identity,
                Code::Unauthenticated,
            ),
            ("an agent", agent, &identity, Code::PermissionDenied),
            (
                "the other node's ztunnel",
                ztunnel_token(&lab.cluster, &elsewhere)?,
                &identity,
                Code::PermissionDenied,
            ),
            (
                "an account that no pod has",
                right.clone(),
                &id(shop, "nobody")?,
                Code::PermissionDenied,
            ),
        ] {
            match ask(&token, identity)? {
                Ok(_) => bail!("{who} got a certificate of {identity}"),
                Err(status) => ensure!(
                    status.code() == code && !status.message().is_empty(),
                    "{who}: {status:?}"
                ),
            }
        }
        let certificate = ask(&right, &identity)?;
        let certificate =
            certificate.map_err(|status| anyhow::anyhow!("the right ztunnel was refused: {status:?}"))?;
        ensure!(
            certificate.identity() == &identity && certificate.is_valid(std::time::SystemTime::now()),
            "{certificate:?}"
        );

        let replicas = mesh::control_planes(&lab.cluster)?;
        for reason in [
            "invalid_token",
            "unbound_token",
            "identity_not_on_node",
            "not_allowed",
        ] {
            eventually("the refusal to be logged", LIMIT, || {
                let mut logged = Vec::new();
                for replica in &replicas {
                    logged.extend(LogLine::find(&lab.cluster, replica, &["call refused", reason])?);
                }
                let line = logged.first().with_context(|| format!("no log of {reason}"))?;
                ensure!(
                    line.field("peer").is_some_and(|peer| peer.contains(':')),
                    "no address in {}",
                    line.text()
                );
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// What a stranger at a pod's HBONE port meets.
struct Door<'a> {
    lab: &'a Lab,
    ztunnel: Pod,
    server: Pod,
}

impl Door<'_> {
    fn refused(&self, reason: &str) -> Result<f64> {
        self.ztunnel.metric(
            "ambit_ztunnel_connections_refused_total",
            &[&format!("reason=\"{reason}\"")],
        )
    }

    /// Fails unless `attempt` adds to the count of `reason`, and to the log a line with both addresses and `word`.
    fn expect(
        &self,
        what: &str,
        reason: &str,
        word: &str,
        attempt: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = self.refused(reason)?;
        attempt().with_context(|| what.to_owned())?;
        eventually(
            &format!("the refusal of {what} to be counted and logged"),
            LIMIT,
            || {
                let now = self.refused(reason)?;
                ensure!(now > before, "{reason} is {now} as before");
                let destination = format!("dst.addr={}:15008", self.server.ip);
                let lines =
                    LogLine::find(&self.lab.cluster, &self.ztunnel, &["refused", &destination, word])?;
                let line = lines.last().context("no line in the log")?;
                ensure!(
                    line.field("src.addr").is_some_and(|peer| peer.contains(':')),
                    "no peer in {}",
                    line.text()
                );
                Ok(())
            },
        )
    }
}

fn must_fail<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => bail!("it was served"),
        Err(_) => Ok(()),
    }
}

#[test]
fn strangers_at_hbone_port_are_refused() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("strangers", |shop| {
        shop.enroll()?;
        let server = shop.pods_of("server")?.remove(0);
        let ztunnel = lab.ztunnel_of(&server)?;
        let restarts = ztunnel.restarts;
        let runtime = Runtime::new()?;
        // Genuine, as a ztunnel of this node would have it.
        let token = ztunnel_token(&lab.cluster, &ztunnel)?;
        let server_id = id(shop, "server")?;
        let genuine: WorkloadCertificate = runtime
            .block_on(certificate(&lab.cluster, &token, &server_id))?
            .map_err(|status| anyhow::anyhow!("no certificate: {status:?}"))?;
        let foreign = runtime.block_on(foreign_certificate(&lab.cluster, &server_id))?;
        let caller = Caller::new(&genuine, &server_id);
        let authority = format!("{}:8080", server.ip);
        let ip = server.ip;

        // What is right is served: the refusals below are not for want of a server.
        let answer = runtime.block_on(caller.get_through(ip, &authority))?;
        ensure!(answer.contains(MARKER), "{answer}");

        let door = Door {
            lab: &lab,
            ztunnel: ztunnel.clone(),
            server,
        };
        door.expect("a peer without a certificate", "tls", "TLS", || {
            must_fail(runtime.block_on(Caller::nameless(&genuine, &server_id).ask(
                ip,
                Method::CONNECT,
                &authority,
            )))
        })?;
        door.expect("a peer with a foreign certificate", "tls", "TLS", || {
            must_fail(runtime.block_on(Caller::new(&foreign, &server_id).ask(
                ip,
                Method::CONNECT,
                &authority,
            )))
        })?;
        door.expect("a GET", "request", "GET", || {
            let status = runtime.block_on(caller.ask(ip, Method::GET, &authority))?;
            ensure!(status.is_client_error(), "{status}");
            Ok(())
        })?;
        let elsewhere = format!("{}:8080", shop.pod_of("client-a")?.ip);
        door.expect("a CONNECT to another pod", "authority", &elsewhere, || {
            let status = runtime.block_on(caller.ask(ip, Method::CONNECT, &elsewhere))?;
            ensure!(status.is_client_error(), "{status}");
            Ok(())
        })?;
        let own = format!("{ip}:15001");
        door.expect("a CONNECT to the proxy itself", "own_port", &own, || {
            let status = runtime.block_on(caller.ask(ip, Method::CONNECT, &own))?;
            ensure!(status.is_client_error(), "{status}");
            Ok(())
        })?;

        shop.wait_more("client-a", 10)?;
        ensure!(
            shop.stats("client-a")?.total_failed() == 0,
            "others suffered: {:?}",
            shop.stats("client-a")?.failures
        );
        ensure!(
            lab.ztunnel_of(&door.server)?.restarts == restarts,
            "the ztunnel was started again"
        );
        Ok(())
    })
}
