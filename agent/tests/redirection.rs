//! The rules as the kernel holds them, against the same rules loaded by `nft`. Needs root; each test makes a network
//! namespace that ends with its thread.

#![allow(clippy::expect_used, reason = "a test that cannot be set up fails")]

use ambit_agent::netlink::{self, PodTable};
use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4};
use std::process::{Command, Stdio};

const POD: &str = r#"table inet ambit {
 chain pre { type nat hook prerouting priority dstnat; policy accept;
  iifname "lo" return
  meta mark 0x539 return
  tcp dport 15008 return
  ip saddr 169.254.7.127 return
  meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn fib daddr type local counter redirect to :15006
 }
 chain out { type nat hook output priority -100; policy accept;
  meta mark 0x539 return
  fib daddr type local return
  meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn counter redirect to :15001
 }
 chain mrk { type route hook output priority mangle; policy accept;
  meta mark 0x539 ct state new ct mark set 0x111
  ct direction reply ct mark 0x111 meta mark set 0x111
 }
 chain nospoof { type filter hook output priority filter; policy accept;
  meta mark 0x539 oifname != "lo" fib saddr type != local counter drop
 }
 chain seed { type filter hook input priority filter; policy accept;
  ip daddr 127.0.0.1 tcp dport 15009 meta mark != 0x539 drop
  ip6 daddr ::1 tcp dport 40000 meta mark != 0x539 drop
 }
}"#;

fn seeds() -> [SocketAddr; 2] {
    ["127.0.0.1:15009", "[::1]:40000"].map(|text| text.parse().expect("an address"))
}

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
        netlink::install_pod_table(&seeds()).expect("installed");
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
        netlink::install_pod_table(&seeds()).expect("installed");
        let once = ruleset();
        netlink::install_pod_table(&seeds()).expect("installed again");
        assert_eq!(ruleset(), once);
        assert_eq!(netlink::pod_table().expect("looked"), PodTable::Redirecting);
        netlink::drain_pod_table().expect("drained");
        assert_eq!(netlink::pod_table().expect("looked"), PodTable::Draining);
        let drained = ruleset();
        assert!(
            !drained.contains("redirect to") && drained.contains("ct mark set"),
            "{drained}"
        );
        netlink::remove_pod_table().expect("removed");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn reply_route_is_added_once_and_removed() {
    in_new_netns(|| {
        netlink::raise_loopback().expect("up");
        let rules = || run("ip", &["rule"], "");
        let before = rules();
        netlink::add_reply_route().expect("added");
        netlink::add_reply_route().expect("added again");
        assert_eq!(
            rules().matches("fwmark 0x111 lookup 100").count(),
            1,
            "{}",
            rules()
        );
        assert!(run("ip", &["route", "list", "table", "100"], "").contains("local default dev lo"));
        netlink::remove_reply_route().expect("removed");
        netlink::remove_reply_route().expect("removed again");
        assert_eq!(rules(), before);
        assert_eq!(
            run("ip", &["route", "list", "table", "all"], "")
                .matches("table 100")
                .count(),
            0
        );
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
            netlink::raise_loopback().expect("up");
            netlink::add_reply_route().expect("added");
            netlink::install_pod_table(&seeds()).expect("installed");
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
