//! The task that keeps one identity's certificate fresh.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use rand::Rng;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Notify, SemaphorePermit};
use tokio::time::Instant;

use super::{CertificateError, Entry, Inner, WorkloadCertificate};
use crate::clock::WallClock;
use ambit_identity::SpiffeId;

/// Slowest pace of retries while somebody waits.
const WAITED_FOR_BACKOFF: Duration = Duration::from_secs(1);

pub(super) async fn run(manager: Arc<Inner>, identity: SpiffeId, entry: Weak<Entry>) {
    // The worker must not keep the entry: dropping it is what ends the worker.
    let Some((cancel, demand)) = entry
        .upgrade()
        .map(|entry| (entry.cancel.clone(), Arc::clone(&entry.demand)))
    else {
        return;
    };
    cancel
        .run_until_cancelled(keep_fresh(&manager, &identity, &entry, &demand))
        .await;
    let mut entries = manager.entries.lock();
    // A new entry may have taken the place of the one that ended.
    if entries
        .get(&identity)
        .is_some_and(|current| Weak::ptr_eq(current, &entry))
    {
        entries.remove(&identity);
    }
}

async fn keep_fresh(manager: &Inner, identity: &SpiffeId, entry: &Weak<Entry>, demand: &Notify) {
    let mut failures: u32 = 0;
    let mut wanted = false;
    loop {
        let permit = queue(manager, demand, wanted).await;
        let attempt = tokio::time::timeout(manager.config.request_timeout, request(manager, identity)).await;
        drop(permit);
        let result = attempt.unwrap_or_else(|_| {
            let waited = manager.config.request_timeout;
            Err(CertificateError::Unavailable(format!(
                "no response within {}s",
                waited.as_secs_f32()
            )))
        });
        let ended = Instant::now();
        let Some(entry_now) = entry.upgrade() else { return };
        let next = match result {
            Ok(certificate) => {
                failures = 0;
                let renewal = renewal(&certificate, manager.config.clock.now());
                let wait = renewal.duration_since(manager.config.clock.now());
                tracing::info!(
                    serial = certificate.serial(),
                    renew_in_seconds = wait.unwrap_or_default().as_secs(),
                    "certificate issued"
                );
                entry_now.status.send_modify(|status| {
                    status.certificate = Some(Arc::new(certificate));
                    status.failure = None;
                });
                Next::Renewal(renewal)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let wait = backoff(&manager.config, failures);
                let has_valid = entry_now.status.borrow().valid(entry_now.clock.now()).is_some();
                tracing::warn!(
                    %error,
                    retry_in_seconds = wait.as_secs_f32(),
                    "no certificate; {}",
                    if has_valid { "the current one is still valid" } else { "connections with this identity fail" }
                );
                entry_now
                    .status
                    .send_modify(|status| status.failure = Some(error));
                Next::Retry(wait)
            }
        };
        drop(entry_now);
        let needed = || entry.upgrade().is_some_and(|entry| entry.needs_certificate());
        wanted = pause(manager.config.clock, demand, needed, ended, next).await;
    }
}

/// A place among the requests to the CA. Renewals queue apart, and move over when someone comes to need them.
async fn queue<'a>(manager: &'a Inner, demand: &Notify, wanted: bool) -> Option<SemaphorePermit<'a>> {
    let on_demand = async {
        if !wanted {
            demand.notified().await;
        }
        manager.on_demand.acquire().await
    };
    tokio::select! {
        biased;
        permit = on_demand => permit.ok(),
        permit = manager.background.acquire() => permit.ok(),
    }
}

/// When there is to be another attempt.
enum Next {
    Renewal(SystemTime),
    Retry(Duration),
}

/// Waits for the next attempt; true when it comes early because someone needs it.
async fn pause(
    clock: WallClock,
    demand: &Notify,
    needed: impl Fn() -> bool,
    ended: Instant,
    next: Next,
) -> bool {
    let soon = match next {
        Next::Renewal(_) => WAITED_FOR_BACKOFF,
        Next::Retry(wait) => wait.min(WAITED_FOR_BACKOFF),
    };
    let due = async {
        match next {
            Next::Renewal(time) => clock.reached(time).await,
            Next::Retry(wait) => tokio::time::sleep_until(ended + wait).await,
        }
    };
    // Whoever asked before the certificate came may be heard only now.
    let demanded = async {
        loop {
            demand.notified().await;
            if needed() {
                return;
            }
        }
    };
    tokio::select! {
        () = due => false,
        () = demanded => {
            tokio::time::sleep_until(ended + soon).await;
            true
        }
    }
}

async fn request(manager: &Inner, identity: &SpiffeId) -> Result<WorkloadCertificate, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::invalid)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let uri = identity
        .to_string()
        .try_into()
        .map_err(CertificateError::invalid)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let csr = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(CertificateError::invalid)?;
    let chain = manager.source.sign(identity, csr).await?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    WorkloadCertificate::new(identity.clone(), key, chain, &manager.config.roots)
}

/// Half of the validity, give or take a tenth of it, so that certificates issued together are not renewed together.
fn renewal(certificate: &WorkloadCertificate, now: SystemTime) -> SystemTime {
    let lifetime = certificate
        .not_after()
        .duration_since(certificate.not_before())
        .unwrap_or_default();
    let share = rand::rng().random_range(0.45..0.55);
    (certificate.not_before() + lifetime.mul_f64(share)).max(now + Duration::from_secs(1))
}

fn backoff(config: &super::ManagerConfig, failures: u32) -> Duration {
    let doubled = config
        .min_backoff
        .saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled
        .min(config.max_backoff)
        .mul_f64(rand::rng().random_range(0.8..1.0))
}
