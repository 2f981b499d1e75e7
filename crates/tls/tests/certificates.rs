//! The certificate manager, with a certificate authority in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateError, CertificateManager, CertificateState, ManagerConfig, WallClock};
use futures::future::join_all;

const WAIT: Duration = Duration::from_secs(20);
/// Short, and half of it is more than a busy machine makes a test wait for its turn.
const LIFETIME: Duration = Duration::from_secs(10);

fn id(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "test", name).unwrap()
}

fn manager(ca: &Arc<TestCa>) -> CertificateManager {
    let config = ManagerConfig {
        min_backoff: Duration::from_millis(5),
        ..ManagerConfig::default()
    };
    CertificateManager::new(Arc::clone(ca) as _, config)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn all_who_need_an_identity_share_one_request() {
    let ca = Arc::new(TestCa::new().unwrap());
    let manager = manager(&ca);
    let leases: Vec<_> = (0..10).map(|_| manager.lease(id("a"))).collect();
    let certificates = join_all(leases.iter().map(|lease| lease.certificate(WAIT))).await;
    let serials: Vec<_> = certificates
        .iter()
        .map(|c| c.as_ref().unwrap().serial().to_owned())
        .collect();
    assert!(serials.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(ca.requests(), 1);
}

#[tokio::test]
async fn a_certificate_is_renewed_while_it_is_still_valid() {
    let ca = Arc::new(TestCa::new().unwrap());
    ca.set_lifetime(Some(LIFETIME));
    let manager = manager(&ca);
    let lease = manager.lease(id("a"));
    let first = lease.certificate(WAIT).await.unwrap();
    until("renewed", || {
        lease.current().is_some_and(|now| now.serial() != first.serial())
    })
    .await;
    assert!(first.not_after() > SystemTime::now());
}

/// How far the clocks of tests have jumped, in hours.
macro_rules! jumping_clock {
    ($clock:ident, $hours:ident) => {
        static $hours: AtomicU64 = AtomicU64::new(0);
        fn $clock() -> SystemTime {
            SystemTime::now() + HOUR * u32::try_from($hours.load(Ordering::SeqCst)).unwrap()
        }
    };
}

const HOUR: Duration = Duration::from_secs(3600);

fn with_clock(ca: &Arc<TestCa>, clock: fn() -> SystemTime) -> CertificateManager {
    ca.set_lifetime(Some(24 * HOUR));
    let config = ManagerConfig {
        clock: WallClock::of(clock),
        ..ManagerConfig::default()
    };
    CertificateManager::new(Arc::clone(ca) as _, config)
}

#[tokio::test]
async fn a_certificate_that_ended_while_the_machine_slept_is_replaced_when_it_is_asked_for() {
    jumping_clock!(clock, SLEPT);
    let ca = Arc::new(TestCa::new().unwrap());
    let manager = with_clock(&ca, clock);
    let lease = manager.lease(id("a"));
    let first = lease.certificate(WAIT).await.unwrap();
    SLEPT.store(25, Ordering::SeqCst);
    assert!(lease.current().is_none());
    ca.set_lifetime(None);
    let second = lease.certificate(WAIT).await.unwrap();
    assert_ne!(first.serial(), second.serial());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_by_the_wall_clock() {
    jumping_clock!(clock, SLEPT);
    let ca = Arc::new(TestCa::new().unwrap());
    let manager = with_clock(&ca, clock);
    let lease = manager.lease(id("a"));
    let first = lease.certificate(WAIT).await.unwrap();
    SLEPT.store(14, Ordering::SeqCst);
    // Nobody asks for it, and the timers know nothing of the time that has passed.
    let renewed = async {
        while lease.current().is_none_or(|now| now.serial() == first.serial()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), renewed)
        .await
        .unwrap();
    assert_eq!(ca.requests(), 2);
}

#[tokio::test]
async fn the_last_good_certificate_is_kept_while_the_ca_is_away() {
    let ca = Arc::new(TestCa::new().unwrap());
    ca.set_lifetime(Some(LIFETIME));
    let manager = manager(&ca);
    let lease = manager.lease(id("a"));
    let first = lease.certificate(WAIT).await.unwrap();
    ca.set_refusal(Some(CertificateError::Unavailable("away".into())));
    until("a renewal failed", || ca.requests() > 1).await;
    assert_eq!(lease.certificate(WAIT).await.unwrap().serial(), first.serial());
    until("the failure shows", || manager.dump()[0].error.is_some()).await;
    assert_eq!(manager.dump()[0].state, CertificateState::Available);
    until("it has expired", || lease.current().is_none()).await;
    ca.set_refusal(None);
    lease.certificate(WAIT).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_gets_it_as_soon_as_the_ca_agrees() {
    let ca = Arc::new(TestCa::new().unwrap());
    ca.set_refusal(Some(CertificateError::Refused("no such pod on this node".into())));
    let manager = manager(&ca);
    let lease = manager.lease(id("a"));
    let error = lease.certificate(Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("no such pod on this node"), "{error}");
    assert_eq!(manager.dump()[0].state, CertificateState::Unavailable);
    let waiting = tokio::spawn(async move { lease.certificate(WAIT).await });
    until("asked again", || ca.requests() > 2).await;
    ca.set_refusal(None);
    assert_eq!(*waiting.await.unwrap().unwrap().identity(), id("a"));
}

#[tokio::test]
async fn an_identity_that_nobody_uses_is_dropped() {
    let ca = Arc::new(TestCa::new().unwrap());
    let manager = manager(&ca);
    let (a, b) = (manager.lease(id("a")), manager.lease(id("b")));
    a.certificate(WAIT).await.unwrap();
    b.certificate(WAIT).await.unwrap();
    drop(a);
    until("only b is left", || {
        manager.dump().iter().map(|d| d.identity.clone()).eq([id("b")])
    })
    .await;
    // And it can come back.
    manager.lease(id("a")).certificate(WAIT).await.unwrap();
    tokio::time::timeout(WAIT, manager.shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_dump_has_chains_and_no_keys() {
    let ca = Arc::new(TestCa::new().unwrap());
    let manager = manager(&ca);
    let lease = manager.lease(id("a"));
    lease.certificate(WAIT).await.unwrap();
    let dump = format!("{:?}", manager.dump());
    assert!(dump.contains("BEGIN CERTIFICATE") && dump.contains("spiffe://cluster.local/ns/test/sa/a"));
    assert!(!dump.contains("PRIVATE"));
}
