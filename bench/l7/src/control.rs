//! The control plane of one waypoint: it signs its certificate, tells it what it serves, and takes its load reports.
//! Who calls is not looked at: it runs in a network namespace of the benchmark's own.

mod resources;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_bench::l7::WAYPOINT;
use ambit_identity::SpiffeId;
use ambit_wire::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::waypoint::waypoint_server::{Waypoint, WaypointServer};
use ambit_wire::waypoint::{Load, LoadAck};
use ambit_wire::xds;
use anyhow::{Context, Result};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::authority::{Authority, identity};
use resources::Resources;

/// Where to listen and what to tell.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder of the certificate authority
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen: IP:PORT
    #[arg(long)]
    listen: SocketAddr,
    /// The one endpoint of the Service: IP:PORT
    #[arg(long)]
    backend: SocketAddr,
    /// The waypoint writes its access log
    #[arg(long)]
    access_log: bool,
    /// How many routes the Service has; requests match the last one
    #[arg(long, default_value_t = 0)]
    routes: usize,
}

/// Serves until the process is ended.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let incoming = TcpIncoming::bind(options.listen)
        .with_context(|| format!("cannot listen on {}", options.listen))?
        .with_nodelay(Some(true));
    crate::waiting();
    serve(options, incoming).await
}

async fn serve(options: &Options, incoming: TcpIncoming) -> Result<()> {
    let authority = Authority::open(&options.dir)?;
    let (certificate, key) = authority.server(options.listen.ip())?;
    let control = Control {
        resources: Arc::new(Resources::new(
            options.backend,
            options.access_log,
            options.routes,
        )),
        authority: Arc::new(authority),
        waypoint: identity(WAYPOINT)?,
    };
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let server = Server::builder()
        .tls_config(tls)?
        .add_service(AggregatedDiscoveryServiceServer::new(control.clone()))
        .add_service(IstioCertificateServiceServer::new(control.clone()))
        .add_service(WaypointServer::new(control));
    Ok(server.serve_with_incoming(incoming).await?)
}

#[derive(Clone)]
struct Control {
    resources: Arc<Resources>,
    authority: Arc<Authority>,
    waypoint: SpiffeId,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Control {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let responses = xds::serve(
            Arc::clone(&self.resources),
            WAYPOINT,
            request.into_inner(),
            CancellationToken::new(),
        );
        Ok(Response::new(responses))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Control {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let signed = self.authority.sign(&self.waypoint, &request.into_inner().csr);
        let leaf = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![leaf, self.authority.root_pem().to_owned()],
        }))
    }
}

#[tonic::async_trait]
impl Waypoint for Control {
    type ReportStream = BoxStream<'static, Result<LoadAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<Load>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let acknowledged = request.into_inner().map(|load| load.map(|_| LoadAck::default()));
        Ok(Response::new(acknowledged.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ambit_bench::l7::files;
    use ambit_tls::{CertificateManager, ManagerConfig};
    use ambit_wire::istio_ca::IstioCa;
    use ambit_wire::waypoint::waypoint_client::WaypointClient;
    use ambit_wire::{TokenFile, control_channel};

    use super::*;

    #[tokio::test]
    async fn a_waypoint_gets_its_certificate_and_can_report() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path()).unwrap();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = Options {
            dir: dir.path().into(),
            listen: incoming.local_addr().unwrap(),
            backend: "192.0.2.1:8080".parse().unwrap(),
            access_log: false,
            routes: 2,
        };
        let url = format!("https://{}", options.listen);
        let serving = tokio::spawn(async move { serve(&options, incoming).await });
        let channel = control_channel(&url, &dir.path().join(files::ROOT)).unwrap();
        let token = TokenFile::new(dir.path().join(files::TOKEN));
        let ca = IstioCa::new(channel.clone(), token, Duration::from_secs(3600));
        let manager = CertificateManager::new(Arc::new(ca), ManagerConfig::default());
        let lease = manager.lease(identity(WAYPOINT).unwrap());
        let certificate = lease.certificate(Duration::from_secs(20)).await.unwrap();
        assert_eq!(certificate.identity(), &identity(WAYPOINT).unwrap());

        let loads = futures::stream::iter([Load::default(), Load::default()]);
        let acknowledged = WaypointClient::new(channel)
            .report(loads)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(acknowledged.count().await, 2);
        serving.abort();
    }
}
