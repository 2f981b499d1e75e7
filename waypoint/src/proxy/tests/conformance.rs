//! HTTP/2 as clients find it: h2spec's cases, over the real way in.

use ambit_hbone::testing::h2spec;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::support::{Application, Mesh, echo, full};

/// Cases that the waypoint need not pass, each with the reason.
const EXCEPTIONS: &[&str] = &[
    // What begins otherwise than HTTP/2 is taken for HTTP/1, and told so before the connection is closed; h2spec reads that as a frame.
    "http2/3.5: Sends invalid connection preface",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_finds_no_more_than_is_known() {
    let mesh = Mesh::new().await;
    let application = Application::start(|request: Request<Incoming>| async {
        // hyper leaves it to applications not to send a body then.
        match request.method() {
            &Method::HEAD => Response::new(full("")),
            _ => echo(request).await,
        }
    })
    .await;
    mesh.endpoint("server", application.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tunnelling = async {
        let connections = tokio_util::task::TaskTracker::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut stream = mesh.connect(8080).await;
            connections.spawn(async move {
                // Nearly every case ends with an error of the connection.
                let _ = tokio::io::copy_bidirectional(&mut tcp, &mut stream).await;
            });
        }
    };
    tokio::select! {
        tried = h2spec::assert_passes(address, EXCEPTIONS) => tried.unwrap(),
        () = tunnelling => unreachable!("the listener stays"),
    }
}
