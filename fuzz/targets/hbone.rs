//! HBONE after TLS: the connection always ends by itself once the peer is gone or silent; streams stay within the
//! limit, each with an IP address and port; no stream has bytes that did not come in its DATA frames.
//!
//! Input: flags, the size of the portions that come at once, and what the client sends after HTTP/2's preface.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use ambit_fuzz::{Peer, run};
use ambit_hbone::testing::serve_unauthenticated;
use ambit_hbone::{ConnectRequest, HboneConfig, HboneHandler, RequestRefusal};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_STREAMS: u32 = 4;

#[derive(Default)]
struct Echo {
    open: AtomicU32,
    received: AtomicUsize,
}

impl HboneHandler for Echo {
    async fn connect(self: Arc<Self>, mut request: ConnectRequest) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(open <= 2 * MAX_STREAMS, "{open} streams at once");
        match request.authority().port() % 4 {
            0 => request.refuse(StatusCode::SERVICE_UNAVAILABLE),
            1 => request.gone().await,
            _ => self.echo(request).await,
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn refused(&self, refusal: &RequestRefusal) {
        assert!(refusal.status().is_client_error());
    }
}

impl Echo {
    async fn echo(&self, request: ConnectRequest) {
        let Ok(stream) = request.accept() else {
            return;
        };
        let (mut io, mut buffer) = (stream.into_io(), vec![0; 4096]);
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            self.received.fetch_add(n, Ordering::Relaxed);
            if io.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        // The client may be gone.
        let _ = io.shutdown().await;
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, portion], said)) = data.split_first_chunk() else {
        return;
    };
    let said = [if flags & 1 == 0 { PREFACE } else { b"" }, said].concat();
    let came = data_bytes(said.strip_prefix(PREFACE).unwrap_or_default());
    let client = Peer::new(said, portion.into(), flags & 2 == 0);
    let config = HboneConfig {
        max_streams: MAX_STREAMS,
        ..HboneConfig::default()
    };
    let echo = Arc::new(Echo::default());
    run(async {
        let serving = serve_unauthenticated(client, &config, CancellationToken::new(), Arc::clone(&echo));
        // There is no response to PINGs.
        let longest =
            config.connect_timeout + config.ping_interval + config.ping_timeout + Duration::from_secs(60);
        let ended = tokio::time::timeout(longest, serving).await;
        assert!(
            ended.is_ok(),
            "the connection stays, with nobody at its other end"
        );
    });
    assert_eq!(
        echo.open.load(Ordering::Relaxed),
        0,
        "streams outlive their connection"
    );
    let received = echo.received.load(Ordering::Relaxed);
    assert!(received <= came, "{received} bytes were received of {came}");
});

/// Payload of DATA frames.
fn data_bytes(mut frames: &[u8]) -> usize {
    let mut streams = HashMap::<[u8; 4], usize>::new();
    while let Some((&[a, b, c, kind, _, s @ ..], rest)) = frames.split_first_chunk::<9>() {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let payload = length.min(rest.len());
        if kind == 0 {
            *streams.entry(s).or_default() += payload;
        }
        frames = &rest[payload..];
    }
    streams.values().sum()
}
