//! Connections that TCPRoutes and TLSRoutes send to a backend. Nothing of what is said on them is changed.

use std::io;
use std::sync::Arc;

use ambit_l7::{Action, ConnectionTable, HelloReader, MAX_CLIENT_HELLO, Plan};
use ambit_policy::Decision;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::connection::{ClientConnection, Target};
use super::passthrough::{decide, pass_through, pass_to, record, refuse};
use crate::http::ClientStream;
use crate::observe::Flag;

const READ: usize = 4 << 10;

/// Serves a connection to a port with routes of connections.
pub(super) async fn serve<IO: ClientStream>(client: ClientConnection, mut io: IO) {
    let mut said = BytesMut::new();
    let server_name = match wants_server_name(&client) {
        false => Ok(Ok(None)),
        true => tokio::select! {
            read = read_server_name(&client, &mut io, &mut said) => read,
            () = client.until_unwanted() => return,
        },
    };
    let server_name = match server_name {
        Ok(server_name) => server_name,
        Err(error) => {
            return tracing::debug!(%error, "the client's connection ended before its TLS handshake");
        }
    };
    // By the routes of now: the client may have taken its time.
    let Ok(frontend) = client.target() else {
        return;
    };
    let Some(routes) = frontend.connection_routes(client.identity.namespace()) else {
        drop(frontend);
        return pass_through(client, io, said.freeze()).await;
    };
    let mut record = record(&client, &frontend);
    let decision = decide(&client, &frontend);
    record.decided(&decision);
    if !decision.is_allowed() {
        return refuse(io).await;
    }
    let plan = match routes.missing() {
        Some(missing) => Err(format!("{missing} has not been received")),
        None => plan(routes.connection_table(), server_name),
    };
    let chosen = plan.and_then(|plan| {
        record.governed_by(&plan.label);
        Chosen::of(&client, plan)
    });
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(reason) => {
            record.failed(Flag::NoRoute, format!("route: {reason}"));
            return refuse(io).await;
        }
    };
    // A route is no way around the backend's own rules.
    record.routed(chosen.target.destination());
    let decision = decide(&client, &chosen.target);
    record.decided(&decision);
    if !decision.is_allowed() {
        return refuse(io).await;
    }
    let still = |frontend: &Target| chosen.decide(&client, frontend);
    pass_to(&client, &chosen.target, record, io, said.freeze(), still).await;
}

fn wants_server_name(client: &ClientConnection) -> bool {
    let Ok(target) = client.target() else {
        return false;
    };
    let routes = target.connection_routes(client.identity.namespace());
    let table = routes.and_then(|routes| routes.connection_table());
    matches!(table, Some(ConnectionTable::Tls(_)))
}

/// The server name that a client asks for, if any; or why that cannot be told.
type ServerName = Result<Option<Box<str>>, String>;

/// Reads until the name of the server is known; what was read stays in `said`.
///
/// # Errors
/// The end of the stream, or its error.
async fn read_server_name(
    client: &ClientConnection,
    io: &mut (impl AsyncRead + Unpin),
    said: &mut BytesMut,
) -> io::Result<ServerName> {
    let timeout = client.proxy.timeouts.detect;
    let mut reader = HelloReader::default();
    let reading = async {
        loop {
            said.reserve(READ);
            let room = MAX_CLIENT_HELLO.saturating_sub(said.len());
            if (&mut *io).take(room as u64).read_buf(said).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match reader.read(said) {
                Ok(None) => {}
                Ok(Some(hello)) => return Ok(Ok(hello.server_name)),
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
    };
    let read = tokio::time::timeout(timeout, reading).await;
    read.unwrap_or_else(|_| Ok(Err(format!("no TLS handshake of the client within {timeout:?}"))))
}

/// The plan for a connection.
fn plan(table: Option<&ConnectionTable>, server_name: ServerName) -> Result<&Arc<Plan>, String> {
    match table {
        None => Err("no rule".to_owned()),
        Some(ConnectionTable::Tcp(plan)) => Ok(plan),
        Some(ConnectionTable::Tls(names)) => {
            let name = server_name?;
            names.lookup(name.as_deref()).ok_or_else(|| match name {
                Some(name) => format!("no host name matches the server name {name}"),
                None => "the client names no server, and every route has host names".to_owned(),
            })
        }
    }
}

/// The backend of a connection.
struct Chosen {
    id: Box<str>,
    port: u16,
    /// As it was when the connection was opened.
    target: Target,
}

impl Chosen {
    fn of(client: &ClientConnection, plan: &Plan) -> Result<Self, String> {
        let Action::Forward(split) = &plan.action else {
            return Err(format!("{}: the rule is not valid", plan.rule));
        };
        let backend = split.pick(rand::random());
        let backend = backend.ok_or_else(|| format!("{}: no backend, or not a valid one", plan.rule))?;
        let target = client.backend(&backend.id, backend.port);
        let target =
            target.ok_or_else(|| format!("{}: backend {} has not been received", plan.rule, backend.id))?;
        Ok(Self {
            id: backend.id.clone(),
            port: backend.port,
            target,
        })
    }

    /// Decides by the rules of both Services. Those of a backend that no route sends anything to any more are not sent: what was last
    /// known of them holds.
    fn decide(&self, client: &ClientConnection, frontend: &Target) -> Decision {
        let decision = decide(client, frontend);
        if !decision.is_allowed() {
            return decision;
        }
        let now = client.backend(&self.id, self.port);
        decide(client, now.as_ref().unwrap_or(&self.target))
    }
}
