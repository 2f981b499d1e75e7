//! The server as HTTP/2 has it: h2spec's cases.

use std::sync::Arc;

use ambit_hbone::testing::{h2spec, serve_unauthenticated};
use ambit_hbone::{ConnectRequest, HboneConfig, HboneHandler, RequestRefusal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Sends back what comes. h2spec sends no CONNECT, so that all its requests are refused; a refusal is a response like another.
struct Echo;

impl HboneHandler for Echo {
    async fn connect(self: Arc<Self>, request: ConnectRequest) {
        if let Ok(stream) = request.accept() {
            let (mut read, mut write) = tokio::io::split(stream.into_io());
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    }

    fn refused(&self, _: &RequestRefusal) {}
}

/// Cases that the server need not pass, each with the reason.
const EXCEPTIONS: &[&str] = &[
    // The case is over when a body comes; a refusal has none.
    "generic/2: Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
    "generic/2: Sends a PRIORITY frame on half-closed (remote) stream",
    // The requests are refused as they come, so that no more streams are open at once than may be, unless the server falls behind.
    "http2/5.1.2: Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    // A connection that is closed before all that came on it was read is reset, which h2spec does not take for an end.
    "http2/3.5: Sends invalid connection preface",
];

#[tokio::test]
async fn h2spec_finds_no_more_than_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let config = HboneConfig {
                    // h2spec takes every limit for the default one.
                    max_frame_size: 16 << 10,
                    ..HboneConfig::default()
                };
                // Nearly every case ends with an error of the connection.
                let _ = serve_unauthenticated(tcp, &config, CancellationToken::new(), Arc::new(Echo)).await;
            });
        }
    });
    h2spec::assert_passes(address, EXCEPTIONS).await.unwrap();
}
