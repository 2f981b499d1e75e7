//! In network namespaces of their own, with what the node agent makes. Needs root: the threads give up every privilege
//! before the first socket.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Command;

use ambit_agent::netlink::{install_redirection, raise_loopback};
use ambit_agent::netns::make_listeners;
use prometheus::Opts;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 3));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3));
const FOREIGN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const FOREIGN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

fn limits(most: usize, all: usize) -> StoreLimits {
    StoreLimits {
        most,
        idle: Budget::new(all),
        counter: IntCounterVec::new(Opts::new("sockets", "of the test"), &["how"]).unwrap(),
    }
}

fn counted(limits: &StoreLimits, how: &str) -> u64 {
    limits.counter.with_label_values(&[how]).get()
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Runs `test` in a captured pod, as a process without any privilege would.
fn in_pod<F: Future<Output = ()>>(test: impl FnOnce(Handed) -> F + Send) {
    std::thread::scope(|scope| {
        let pod = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            raise_loopback().unwrap();
            for addition in [
                "address add 10.9.0.3/32 dev lo",
                "route add default dev lo",
                "-6 address add fd00::3/128 dev lo nodad",
                "-6 route add default dev lo",
            ] {
                ip(addition);
            }
            let listeners = make_listeners().unwrap();
            install_redirection().unwrap();
            let descriptors = listeners
                .as_fds()
                .into_iter()
                .map(|fd| fd.try_clone_to_owned().unwrap());
            let handed = Handed::new(descriptors.collect()).unwrap();
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, none).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test(handed));
        };
        scope.spawn(pod).join().unwrap();
    });
}

/// An application that says its peer's address, reads to the end, and closes.
fn application(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            use std::io::{Read, Write};
            let mut tcp = tcp.unwrap();
            let peer = tcp.peer_addr().unwrap().ip().to_string();
            tcp.write_all(peer.as_bytes()).unwrap();
            tcp.shutdown(std::net::Shutdown::Write).unwrap();
            tcp.read_to_end(&mut Vec::new()).unwrap();
        }
    });
    at
}

async fn connect(sockets: &PodSockets, from: IpAddr, to: SocketAddr) -> ReusableStream {
    let socket = sockets.take(to.ip(), LONG).await.unwrap();
    socket.begin(from, to).unwrap();
    let stream = tokio::time::timeout(LONG, socket.established()).await.unwrap();
    stream.unwrap().reusable()
}

/// The whole of a connection; returns who the application took it for.
async fn ask(sockets: &PodSockets, from: IpAddr, to: SocketAddr) -> String {
    let mut stream = connect(sockets, from, to).await;
    let tcp: &mut TcpStream = stream.borrow_mut();
    let mut said = String::new();
    tcp.read_to_string(&mut said).await.unwrap();
    tcp.shutdown().await.unwrap();
    // On the loopback the acknowledgement of the end is there, or on its way.
    let ended = async {
        while !has_ended(tcp) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, ended).await.unwrap();
    said
}

#[test]
fn sockets_are_made_and_reused_without_any_privilege() {
    in_pod(|handed| async move {
        let limits = limits(8, 8);
        let sockets = PodSockets::new(&handed.seeds, &limits);
        for (pod, foreign) in [(V4, FOREIGN_V4), (V6, FOREIGN_V6)] {
            let to = application(pod);
            let any = if pod.is_ipv4() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            };
            for _ in 0..50 {
                assert_eq!(ask(&sockets, foreign, to).await, foreign.to_string());
                assert_eq!(ask(&sockets, any, to).await, pod.to_string());
            }
        }
        assert_eq!((counted(&limits, "made"), counted(&limits, "reused")), (2, 198));
        let socket = sockets.take(V4, LONG).await.unwrap();
        let socket = SockRef::from(socket.socket.as_ref().unwrap());
        assert_eq!(socket.mark().unwrap(), ambit_wire::names::MARK_PROXY);
        socket.set_mark(7).expect_err("that takes a privilege");
    });
}

#[test]
fn linger_of_a_reset_is_cleared() {
    in_pod(|handed| async move {
        let sockets = PodSockets::new(&handed.seeds, &limits(8, 8));
        let to = application(V4);
        let refused = SocketAddr::new(V4, 9);
        for _ in 0..3 {
            let socket = sockets.take(V4, LONG).await.unwrap();
            let of = socket.socket.as_ref().unwrap();
            of.set_linger(Some(Duration::ZERO)).unwrap();
            socket.begin(FOREIGN_V4, refused).unwrap();
            let error = socket.established().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert_eq!(sockets.idle(), 1);
            let stream = connect(&sockets, FOREIGN_V4, to).await;
            assert_eq!(SockRef::from(&stream.tcp).linger().unwrap(), None);
            assert_eq!(stream.tcp.local_addr().unwrap().ip(), FOREIGN_V4);
            drop(stream);
        }
    });
}

#[test]
fn one_port_serves_many_destinations() {
    in_pod(|handed| async move {
        let sockets = PodSockets::new(&handed.seeds, &limits(8, 8));
        let listeners: Vec<_> = (10..22)
            .map(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap())
            .collect();
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
        let mut open = Vec::new();
        for listener in &listeners {
            for _ in 0..3 {
                open.push(connect(&sockets, V4, listener.local_addr().unwrap()).await);
            }
        }
        assert_eq!(open.len(), 36);
    });
}

#[test]
fn two_ztunnels_make_sockets_from_one_seed_at_once() {
    in_pod(|handed| async move {
        let (one, other) = (limits(0, 0), limits(0, 0));
        let to = application(V4);
        let many = async |limits: &StoreLimits| {
            for _ in 0..20 {
                // Anew each time, as after a restart.
                let sockets = PodSockets::new(&handed.seeds, limits);
                assert_eq!(ask(&sockets, FOREIGN_V4, to).await, FOREIGN_V4.to_string());
            }
        };
        tokio::join!(many(&one), many(&other));
        assert_eq!((counted(&one, "made"), counted(&other, "made")), (20, 20));
    });
}

#[test]
fn idle_sockets_are_bounded() {
    in_pod(|handed| async move {
        let limits = limits(3, 4);
        let (pod, other) = (
            PodSockets::new(&handed.seeds, &limits),
            PodSockets::new(&handed.seeds, &limits),
        );
        for sockets in [&pod, &other] {
            let mut taken = Vec::new();
            for _ in 0..5 {
                taken.push(sockets.take(V4, LONG).await.unwrap());
            }
        }
        assert_eq!((pod.idle(), other.idle()), (3, 1));
        assert_eq!(counted(&limits, "closed"), 6);
        pod.close();
        assert_eq!((pod.idle(), limits.idle.used()), (0, 1));
        let error = pod.take(V4, LONG).await.unwrap_err();
        assert!(matches!(error, SocketError::Closed), "{error}");
    });
}
