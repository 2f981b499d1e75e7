//! The rules as the kernel holds them, against the same rules loaded by `nft`. Needs root; each test makes a network
//! namespace that ends with its thread.

#![allow(clippy::expect_used, reason = "a test that cannot be set up fails")]

use ambit_agent::netlink::{self, PodTable};
use std::io::Write;
use std::net::SocketAddrV4;
use std::process::{Command, Stdio};

/// The rules of a captured pod.
const POD: &str = r#"table inet ambit {
 set bypass { type ipv4_addr . inet_service . inet_service; size 65535; flags dynamic; }
 set taken { type ipv4_addr . inet_service . inet_service; size 65535; flags dynamic; }
 set stray { type ipv4_addr . inet_service . inet_service; size 65535; flags dynamic,timeout; timeout 1s; }
 set bypass6 { type ipv6_addr . inet_service . inet_service; size 65535; flags dynamic; }
 set taken6 { type ipv6_addr . inet_service . inet_service; size 65535; flags dynamic; }
 set stray6 { type ipv6_addr . inet_service . inet_service; size 65535; flags dynamic,timeout; timeout 1s; }
 chain pre { type filter hook prerouting priority mangle; policy accept;
  tcp flags & (fin|syn|rst|ack) != syn return
  meta l4proto != tcp return
  iifname "lo" meta mark 0x77 meta l4proto tcp tproxy to :15001 accept
  iifname "lo" return
  tcp dport 15008 return
  ip saddr 169.254.7.127 return
  fib daddr type local meta l4proto tcp tproxy to :15006 accept
 }
 chain note { type filter hook prerouting priority -151; policy accept;
  meta l4proto != tcp return
  iifname "lo" return
  tcp flags & (fin|syn|rst|ack) == syn delete @bypass { ip saddr . tcp sport . tcp dport }
  tcp flags & (fin|syn|rst|ack) == syn delete @bypass6 { ip6 saddr . tcp sport . tcp dport }
  tcp flags & (fin|syn|rst|ack) == syn return
  socket wildcard 0 return
  add @stray { ip saddr . tcp sport . tcp dport }
  add @stray6 { ip6 saddr . tcp sport . tcp dport }
 }
 chain out { type route hook output priority mangle; policy accept;
  meta l4proto != tcp return
  meta mark 0x539 return
  fib daddr type local return
  ip daddr 169.254.7.127 return
  tcp flags & (fin|syn|rst|ack) == syn delete @bypass { ip daddr . tcp dport . tcp sport }
  ip daddr . tcp dport . tcp sport @bypass ip daddr . tcp dport . tcp sport != @taken return
  tcp flags & rst == rst ip daddr . tcp dport . tcp sport @stray return
  tcp flags & (fin|syn|rst|ack) == syn delete @bypass6 { ip6 daddr . tcp dport . tcp sport }
  ip6 daddr . tcp dport . tcp sport @bypass6 ip6 daddr . tcp dport . tcp sport != @taken6 return
  tcp flags & rst == rst ip6 daddr . tcp dport . tcp sport @stray6 return
  meta mark set 0x77
 }
 chain nospoof { type filter hook output priority filter; policy accept;
  meta mark 0x539 oifname != "lo" fib saddr type != local counter drop
 }
 chain seed { type filter hook input priority filter; policy accept;
  ip daddr 127.0.0.1 tcp dport 15009 meta mark != 0x539 drop
  ip6 daddr ::1 tcp dport 15009 meta mark != 0x539 drop
 }
}"#;

/// The chains that differ while connections leave the mesh.
const LEAVING: &str = r#"
 chain note { type filter hook prerouting priority -151; policy accept;
  meta l4proto != tcp return
  iifname "lo" return
  tcp flags & (fin|syn|rst|ack) == syn add @bypass { ip saddr . tcp sport . tcp dport }
  tcp flags & (fin|syn|rst|ack) == syn add @bypass6 { ip6 saddr . tcp sport . tcp dport }
  tcp flags & (fin|syn|rst|ack) == syn return
  socket wildcard 0 return
  add @stray { ip saddr . tcp sport . tcp dport }
  add @stray6 { ip6 saddr . tcp sport . tcp dport }
 }
 chain out { type route hook output priority mangle; policy accept;
  meta l4proto != tcp return
  meta mark 0x539 return
  fib daddr type local return
  ip daddr 169.254.7.127 return
  tcp flags & (fin|syn|rst|ack) == syn delete @taken { ip daddr . tcp dport . tcp sport }
  tcp flags & (fin|syn|rst|ack) == syn add @bypass { ip daddr . tcp dport . tcp sport }
  ip daddr . tcp dport . tcp sport @bypass ip daddr . tcp dport . tcp sport != @taken return
  tcp flags & rst == rst ip daddr . tcp dport . tcp sport @stray return
  tcp flags & (fin|syn|rst|ack) == syn delete @taken6 { ip6 daddr . tcp dport . tcp sport }
  tcp flags & (fin|syn|rst|ack) == syn add @bypass6 { ip6 daddr . tcp dport . tcp sport }
  ip6 daddr . tcp dport . tcp sport @bypass6 ip6 daddr . tcp dport . tcp sport != @taken6 return
  tcp flags & rst == rst ip6 daddr . tcp dport . tcp sport @stray6 return
  meta mark set 0x77
 }"#;

const NODE: &str = r#"table ip ambit_node {
 set probes { type ipv4_addr . inet_service; elements = { 10.1.2.3 . 8080, 10.1.2.4 . 80 }; }
 chain postrouting { type nat hook postrouting priority 95; policy accept;
  ip daddr . tcp dport @probes ct status & dnat == 0 meta skuid 0 fib saddr type local snat to 169.254.7.127
 }
 chain guard { type filter hook forward priority -5; policy accept;
  ip saddr 169.254.7.127 drop
 }
}"#;

/// Runs `body` on a thread in a network namespace of its own.
fn in_new_netns<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} cannot be started: {e}"));
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{program} {arguments:?} failed");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn ruleset() -> String {
    run("nft", &["list", "ruleset"], "")
}

/// The rules of a pod that is being released.
fn leaving() -> String {
    let chain = |text: &str, name: &str| {
        let begin = text.find(&format!(" chain {name} ")).expect("the chain is there");
        let end = begin + text[begin..].find("\n }").expect("the chain ends") + 3;
        begin..end
    };
    let mut text = POD.to_owned();
    for name in ["note", "out"] {
        let place = chain(&text, name);
        text.replace_range(place, &LEAVING[chain(LEAVING, name)]);
    }
    let pre = chain(&text, "pre");
    let empty = " chain pre { type filter hook prerouting priority mangle; policy accept;\n }";
    text.replace_range(pre, empty);
    text
}

/// What `nft` prints after loading `text` itself.
fn as_nft_has_it(text: &str) -> String {
    in_new_netns(|| {
        run("nft", &["-f", "-"], text);
        ruleset()
    })
}

#[test]
fn pod_rules_are_those_of_nft() {
    let ours = in_new_netns(|| {
        netlink::install_redirection().expect("installed");
        ruleset()
    });
    assert_eq!(ours, as_nft_has_it(POD));
}

#[test]
fn pod_rules_are_replaced_drained_and_removed() {
    in_new_netns(|| {
        assert_eq!(netlink::pod_table().expect("looked"), PodTable::Absent);
        netlink::drain_pod_table().expect("nothing to drain is no error");
        netlink::remove_pod_table().expect("nothing to remove is no error");
        netlink::install_redirection().expect("installed");
        let once = ruleset();
        netlink::install_redirection().expect("installed again");
        assert_eq!(ruleset(), once);
        assert_eq!(netlink::pod_table().expect("looked"), PodTable::Redirecting);
        netlink::drain_pod_table().expect("drained");
        assert_eq!(netlink::pod_table().expect("looked"), PodTable::Draining);
        let drained = ruleset();
        assert_eq!(drained, as_nft_has_it(&leaving()));
        netlink::install_redirection().expect("joined again");
        assert_eq!(ruleset(), once);
        netlink::remove_pod_table().expect("removed");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn the_route_is_added_once_and_removed() {
    in_new_netns(|| {
        netlink::raise_loopback().expect("up");
        let rules = || run("ip", &["rule"], "");
        let before = rules();
        netlink::install_redirection().expect("added");
        netlink::install_redirection().expect("added again");
        assert_eq!(
            rules().matches("fwmark 0x77 lookup 100").count(),
            1,
            "{}",
            rules()
        );
        assert!(run("ip", &["route", "list", "table", "100"], "").contains("local default dev lo"));
        netlink::remove_redirection_route().expect("removed");
        netlink::remove_redirection_route().expect("removed again");
        assert_eq!(rules(), before);
        assert_eq!(
            run("ip", &["route", "list", "table", "all"], "")
                .matches("table 100")
                .count(),
            0
        );
    });
}

/// Its address is the one that the client wanted, not the listener's.
#[test]
fn a_redirected_connection_in_its_handshake_waits_to_be_accepted() {
    in_new_netns(|| {
        netlink::install_redirection().expect("installed");
        let _listeners = ambit_agent::netns::make_listeners().expect("made");
        let ours = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let _queued = std::net::TcpStream::connect(ours.local_addr().expect("asked")).expect("connected");
        run("ip", &["address", "add", "10.0.1.7/32", "dev", "lo"], "");
        run("ip", &["route", "add", "10.0.0.0/8", "dev", "lo"], "");
        let no_answer = [
            "table ip block { chain out { type filter hook output priority 0",
            "tcp flags & (syn|ack) == (syn|ack) drop",
            "}",
            "}",
        ];
        run("nft", &["-f", "-"], &no_answer.join("\n"));
        assert_eq!(netlink::waiting_connections().expect("listed"), 0);
        let connect = |address: &str| {
            let address: std::net::SocketAddr = address.parse().expect("an address");
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
            socket.set_nonblocking(true).expect("set");
            socket.connect(&address.into()).expect_err("under way");
            socket
        };
        let _clients = ["10.1.2.3:80", "10.1.2.4:15008"].map(connect);
        while netlink::waiting_connections().expect("listed") < 2 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn node_rules_are_those_of_nft_and_probes_follow() {
    let probe = |text: &str| text.parse::<SocketAddrV4>().expect("an address");
    let ours = in_new_netns(|| {
        netlink::install_node_table(&[probe("10.1.2.9:1")]).expect("installed");
        netlink::set_probes(&[probe("10.1.2.3:8080"), probe("10.1.2.4:80")]).expect("replaced");
        let text = ruleset();
        netlink::remove_node_table().expect("removed");
        netlink::remove_node_table().expect("removed again");
        assert_eq!(ruleset(), "");
        text
    });
    assert_eq!(sorted_elements(&ours), sorted_elements(&as_nft_has_it(NODE)));
}

/// A set's elements are listed in no order.
fn sorted_elements(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split([',', '\n', '{', '}', '=']).map(str::trim).collect();
    words.sort_unstable();
    words
}

#[test]
fn many_probes_fit_one_transaction() {
    in_new_netns(|| {
        let many: Vec<_> = (0..4000u32)
            .map(|i| SocketAddrV4::new((0x0a00_0000 + i).into(), 8080))
            .collect();
        netlink::install_node_table(&many).expect("installed");
        assert!(ruleset().contains("10.0.15.159 . 8080"));
    });
}

#[test]
fn a_refusal_names_what_was_refused() {
    in_new_netns(|| {
        let error = netlink::set_probes(&[]).expect_err("there is no table");
        assert!(
            error.to_string().contains("empty set probes of table ambit_node"),
            "{error}"
        );
    });
}

/// A pod with `hostUsers: false`: its network namespace belongs to a user namespace of its own.
#[tokio::test]
async fn a_pod_with_a_user_namespace_is_entered_and_redirected() {
    use ambit_agent::netns::{Netns, NetnsError, NetnsRunner, make_listeners};
    let process = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            "echo made; exec sleep 1000",
        ])
        .stdout(Stdio::piped())
        .spawn();
    let mut process = process.expect("unshare runs");
    let mut said = String::new();
    let output = process.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said).expect("read");
    if said.is_empty() {
        _ = process.wait();
        eprintln!("skipped: this kernel makes no user namespaces");
        return;
    }
    let path = format!("/proc/{}/ns/net", process.id());
    let netns = Netns::open(path.as_ref()).expect("opened");
    let outcome = NetnsRunner::new(1)
        .run(&netns, || {
            netlink::install_redirection().expect("installed");
            let in_force = netlink::InForce::installed().expect("listed");
            let listeners = make_listeners()?;
            let missing = in_force.missing().expect("listed");
            Ok::<_, NetnsError>((
                netlink::pod_table().expect("looked"),
                missing,
                listeners.as_fds().len(),
            ))
        })
        .await;
    process.kill().expect("killed");
    process.wait().expect("ended");
    assert_eq!(outcome.expect("entered"), (PodTable::Redirecting, vec![], 7));
}
