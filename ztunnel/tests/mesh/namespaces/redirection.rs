//! The redirection without NAT and without conntrack: what a connection keeps that NAT would take, and joining and
//! leaving with connections open.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ambit_agent::netlink::{forget_ended_connections, install_redirection};
use ambit_tls::testing::TestCa;
use ambit_wire::names::MARK_PROXY;
use ambit_wire::workload::TunnelProtocol;
use socket2::{Domain, SockRef, Socket, Type};

use super::net::{Net, Pod, command};
use super::{Cluster, ask, cluster, tell_peer_at};
use crate::agent::at;
use crate::control_plane::ControlPlane;
use crate::node::{Node, WAIT, until};

/// Sends back all that a client sends, and says so when the client has ended its side.
pub(super) async fn echo_server(pod: &Pod) -> SocketAddr {
    echo_server_at(pod, pod.ip.into()).await
}

/// The same at this of the pod's addresses.
pub(super) async fn echo_server_at(pod: &Pod, ip: IpAddr) -> SocketAddr {
    let listener = pod.run(move || TcpListener::bind((ip, 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            std::thread::spawn(move || {
                let mut tcp = tcp.unwrap();
                let mut back = tcp.try_clone().unwrap();
                if std::io::copy(&mut tcp, &mut back).is_ok() {
                    back.write_all(b"and that was all").ok();
                }
            });
        }
    });
    address
}

pub(super) async fn open(pod: &Pod, to: SocketAddr) -> TcpStream {
    let connect = move || {
        let tcp = TcpStream::connect_timeout(&to, WAIT)?;
        tcp.set_read_timeout(Some(WAIT))?;
        Ok(tcp)
    };
    pod.run(connect).await.unwrap()
}

pub(super) fn talk(tcp: &mut TcpStream, words: &str) {
    tcp.write_all(words.as_bytes()).unwrap();
    let mut heard = vec![0; words.len()];
    tcp.read_exact(&mut heard).unwrap();
    // Nothing more is on its way when a test takes rules away: who is outside would reset what it does not know.
    SockRef::from(&*tcp).set_tcp_quickack(true).unwrap();
    assert_eq!(heard, words.as_bytes());
}

/// An entry would end before a half-closed connection does that is quiet for longer than its timeout, and would take
/// both ends from each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_all_their_states_have_no_conntrack_entry() {
    let Cluster {
        node: _node,
        client,
        server,
        ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let server_at = echo_server(&server).await;
    let mut tunnelled = open(&client, server_at).await;
    let mut plaintext = open(&outsider, server_at).await;
    for tcp in [&mut tunnelled, &mut plaintext] {
        talk(tcp, "hello");
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for pod in [&client, &server] {
        let entries = pod
            .run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))
            .await;
        assert_eq!(entries.unwrap(), "", "{}", pod.name);
    }
    for tcp in [&mut tunnelled, &mut plaintext] {
        let mut rest = String::new();
        tcp.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "and that was all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_port_reaches_two_destinations_at_once() {
    let Cluster {
        node: _node,
        client,
        server,
        ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let destinations = [echo_server(&server).await, echo_server(&outsider).await];
    let from = at(client.ip, 41000);
    let mut open = client
        .run(move || {
            let connect = |to: SocketAddr| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())?;
                socket.connect_timeout(&to.into(), WAIT)?;
                socket.set_read_timeout(Some(WAIT))?;
                Ok(TcpStream::from(socket))
            };
            destinations
                .into_iter()
                .map(connect)
                .collect::<std::io::Result<Vec<_>>>()
        })
        .await
        .unwrap();
    for (tcp, words) in open.iter_mut().zip(["one", "two"]) {
        talk(tcp, words);
    }
}

/// What the kernel says to a packet that belongs to no connection reaches its sender: a client of the pod that had the
/// address before learns at once that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_connection_is_reset() {
    let Cluster {
        node: _node,
        client,
        server,
        ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let server_at = echo_server(&server).await;
    let mut tcp = open(&outsider, server_at).await;
    talk(&mut tcp, "hello");
    // Forgotten without a word.
    let peer = outsider.ip;
    let forget = move || {
        command("nft add table ip block")?;
        command("nft add chain ip block out { type filter hook postrouting priority 0 ; }")?;
        command(&format!("nft add rule ip block out ip daddr {peer} drop"))?;
        command(&format!("ss -K dst {peer}"))?;
        command("nft delete table ip block")
    };
    server.run(forget).await.unwrap();
    let reset = tokio::task::spawn_blocking(move || {
        tcp.write_all(b"are you there").ok();
        tcp.read(&mut [0])
    });
    let error = reset.await.unwrap().expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// What the ztunnel has passed on and closed is still on its way to an application that reads late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_pod_gets_the_rest_of_a_connection() {
    const LENGTH: usize = 400_000;
    let Cluster {
        mut node,
        client,
        server,
        ..
    } = cluster().await;
    let ip = server.ip;
    let listener = server.run(move || TcpListener::bind(at(ip, 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let send = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept()?;
        tcp.write_all(&[7; LENGTH])
    });
    let mut tcp = open(&client, address).await;
    tcp.shutdown(std::net::Shutdown::Write).unwrap();
    send.join().unwrap().unwrap();
    client.begin_release().await;
    // The ztunnel has nothing more to do with it, on either side.
    node.until_metric("istio_tcp_connections_closed_total", &[], 2)
        .await;
    let undelivered = || ambit_agent::netlink::undelivered_connections().map_err(std::io::Error::other);
    assert!(client.run(undelivered).await.unwrap() > 0);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = vec![];
        tcp.read_to_end(&mut all).map(|_| all.len())
    });
    client.end_release(&mut node).await;
    assert_eq!(read.await.unwrap().unwrap(), LENGTH);
}

/// As the agent restores what something in the pod removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_rules_divert_no_connection() {
    let Cluster {
        node: _node,
        client,
        server,
        ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let destinations = [echo_server(&server).await, echo_server(&outsider).await];
    let mut connections = vec![];
    for loss in [
        "nft delete table inet ambit",
        "nft flush table inet ambit",
        "ip rule del fwmark 0x77 lookup 100",
        "ip route flush table 100",
    ] {
        // Redirected.
        for to in destinations {
            connections.push(open(&client, to).await);
        }
        client.run(move || command(loss)).await.unwrap();
        // Past the mesh.
        for to in destinations {
            connections.push(open(&client, to).await);
        }
        let restore = || install_redirection().map_err(std::io::Error::other);
        client.run(restore).await.unwrap();
        connections.iter_mut().for_each(|tcp| talk(tcp, loss));
    }
}

/// Ports of clients from which the pod noted a connection that goes its own way.
async fn noted(pod: &Pod) -> Vec<u16> {
    let list = || {
        let sets = ["bypass", "bypass6"].map(|set| ["list", "set", "inet", "ambit", set]);
        let texts = sets.map(|words| Command::new("nft").args(words).output().unwrap().stdout);
        Ok(String::from_utf8(texts.concat()).unwrap())
    };
    let text = pod.run(list).await.unwrap();
    // Address, far port, near port.
    let keys = text
        .split([',', '{', '}', '\n'])
        .map(|key| key.trim().split(" . "));
    keys.filter_map(|mut key| key.nth(1)?.parse().ok()).collect()
}

/// Begins to connect from a client's address and port.
fn connect_from(from: SocketAddr, to: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    match from {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    // Of the proxy's sockets nothing is redirected.
    socket.set_mark(MARK_PROXY)?;
    socket.set_nonblocking(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// The proxy speaks to applications from clients' addresses: a port of which the pod believes that it is a client's own
/// is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connection_leaves_the_bypass_set() {
    let net = Net::new();
    let (client, server) = (net.pod("client", 2).await, net.pod("server", 3).await);
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = ambit_ztunnel::Limits::default();
    let mut node = Node::start_parts(&control_plane, &ca, limits, None).await;
    control_plane.set_workload(server.workload(TunnelProtocol::Hbone));
    node.ready().await;
    for ip in [IpAddr::from(server.ip), server.ip6.into()] {
        let (echo, peer) = (echo_server_at(&server, ip).await, tell_peer_at(&server, ip).await);
        // The server ends them, and its kernel remembers them for a minute.
        for _ in 0..20 {
            ask(&client, peer).await.unwrap();
        }
        let (mut stays, mut ends) = (open(&client, echo).await, open(&client, echo).await);
        for tcp in [&mut stays, &mut ends] {
            talk(tcp, "from before");
        }
        let port = |tcp: &TcpStream| tcp.local_addr().unwrap().port();
        let (first, second) = (port(&stays), port(&ends));
        server.capture(&mut node).await;
        let mut before = noted(&server).await;
        before.sort_unstable();
        assert_eq!(before, [first.min(second), first.max(second)]);
        drop(ends);
        until("the one that has ended is forgotten", async || {
            let forget = || forget_ended_connections().map_err(std::io::Error::other);
            server.run(forget).await.unwrap();
            noted(&server).await == [first]
        })
        .await;
        // As the proxy tries it: the other way round, the ends are those of the one that goes on.
        let from = SocketAddr::new(
            if ip.is_ipv4() {
                client.ip.into()
            } else {
                client.ip6.into()
            },
            first,
        );
        let attempt = server.run(move || connect_from(from, echo)).await.unwrap();
        let forget = || forget_ended_connections().map_err(std::io::Error::other);
        server.run(forget).await.unwrap();
        assert_eq!(noted(&server).await, [first]);
        drop(attempt);
        talk(&mut stays, "goes on");
        ask(&client, peer).await.unwrap();
        server.begin_release().await;
        // What begins now is noted, too, and has ended when the pod joins again.
        for _ in 0..20 {
            ask(&client, peer).await.unwrap();
        }
        let again = || install_redirection().map_err(std::io::Error::other);
        server.run(again).await.unwrap();
        assert_eq!(noted(&server).await, [first]);
        talk(&mut stays, "still");
        drop(stays);
        server.begin_release().await;
        server.end_release(&mut node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_and_leaving_fail_no_connection() {
    join_and_leave(|pod| pod.ip.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_and_leaving_fail_no_connection_over_ipv6() {
    join_and_leave(|pod| pod.ip6.into()).await;
}

/// Two pods join and leave again and again, while connections that were open before each step go on, and new ones come
/// all the time.
async fn join_and_leave(address: fn(&Pod) -> IpAddr) {
    let net = Net::new();
    let pods = [net.pod("client", 2).await, net.pod("server", 3).await];
    let [client, server] = &pods;
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = ambit_ztunnel::Limits::default();
    let mut node = Node::start_parts(&control_plane, &ca, limits, None).await;
    for pod in &pods {
        control_plane.set_workload(pod.workload(TunnelProtocol::None));
    }
    node.ready().await;
    until("both are known", async || {
        node.config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 2)
    })
    .await;
    let (from, to) = (address(client), address(server));
    let (echo, peer) = (echo_server_at(server, to).await, tell_peer_at(server, to).await);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, count, asking) = (Arc::clone(&stop), Arc::clone(&asked), client.clone());
    let load = tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            assert_eq!(ask(&asking, peer).await.unwrap(), from.to_string());
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let some_more = async || {
        let before = asked.load(Ordering::SeqCst);
        until("connections go on", async || {
            load.is_finished() || asked.load(Ordering::SeqCst) > before + 20
        })
        .await;
        assert!(!load.is_finished(), "one failed");
    };
    let mut before = vec![open(client, echo).await];
    for _ in 0..3 {
        for pod in &pods {
            some_more().await;
            pod.capture(&mut node).await;
            before.push(open(client, echo).await);
        }
        some_more().await;
        assert!(node.metric("istio_tcp_connections_opened_total", &[]).await > 0);
        before.iter_mut().for_each(|tcp| talk(tcp, "in the mesh"));
        for pod in &pods {
            pod.begin_release().await;
            before.push(open(client, echo).await);
            some_more().await;
            before.iter_mut().for_each(|tcp| talk(tcp, "leaving"));
            // Those that are redirected have to end for the release to.
            before.clear();
            pod.end_release(&mut node).await;
        }
        before.push(open(client, echo).await);
    }
    stop.store(true, Ordering::SeqCst);
    load.await.unwrap();
    before.iter_mut().for_each(|tcp| talk(tcp, "out of the mesh"));
}
