//! A limit on log lines that peers cause: for each subject and reason a few lines pass, then one every ten seconds.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines that pass without a pause.
const BURST: u32 = 5;
/// After this time one more line passes, and the number of suppressed lines is reported.
const REFILL: Duration = Duration::from_secs(10);
/// The maximum of subjects for one reason; further ones share one bucket.
const MAX_SUBJECTS: usize = 1024;

static THROTTLE: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(Instant::now()));
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Whether to log an event that `subject` (an identity, an address, a pod) has caused for this reason. Suppressed lines
/// are counted (`ambit_log_suppressed_total`). A separate line reports their number by subject and reason.
pub fn log_permit(subject: &str, reason: &'static str) -> bool {
    let now = Instant::now();
    let permitted = THROTTLE.take(subject, reason, now);
    if !permitted {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
    }
    THROTTLE.report(now);
    permitted
}

/// Suppressed lines.
pub(crate) fn suppressed_lines() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Reports suppressed lines when a report is due.
pub(super) fn report() {
    THROTTLE.report(Instant::now());
}

struct Throttle(Mutex<Inner>);

struct Inner {
    reasons: HashMap<&'static str, HashMap<Box<str>, Bucket>>,
    reported: Instant,
}

struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

struct Report {
    subject: Box<str>,
    reason: &'static str,
    lines: u64,
}

impl Throttle {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Inner {
            reasons: HashMap::new(),
            reported: now,
        }))
    }

    fn take(&self, subject: &str, reason: &'static str, now: Instant) -> bool {
        let mut inner = self.0.lock();
        let subjects = inner.reasons.entry(reason).or_default();
        let subject = if subjects.contains_key(subject) || subjects.len() < MAX_SUBJECTS {
            subject
        } else {
            "others"
        };
        match subjects.get_mut(subject) {
            Some(bucket) => bucket.take(now),
            None => {
                let bucket = Bucket {
                    tokens: BURST - 1,
                    refilled: now,
                    suppressed: 0,
                };
                subjects.insert(subject.into(), bucket);
                true
            }
        }
    }

    /// Logs the number of suppressed lines since the last report, and forgets quiet subjects.
    fn report(&self, now: Instant) {
        // Logged without the lock, as this line may itself be throttled.
        for Report {
            subject,
            reason,
            lines,
        } in self.due(now)
        {
            tracing::warn!(subject, reason, lines, "log lines were suppressed");
        }
    }

    fn due(&self, now: Instant) -> Vec<Report> {
        let mut inner = self.0.lock();
        if now.saturating_duration_since(inner.reported) < REFILL {
            return Vec::new();
        }
        inner.reported = now;
        let mut reports = Vec::new();
        for (reason, subjects) in &mut inner.reasons {
            subjects.retain(|subject, bucket| {
                let lines = std::mem::take(&mut bucket.suppressed);
                if lines > 0 {
                    let subject = subject.clone();
                    reports.push(Report {
                        subject,
                        reason,
                        lines,
                    });
                }
                bucket.refill(now);
                lines > 0 || bucket.tokens < BURST
            });
        }
        reports
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let permitted = self.tokens > 0;
        if permitted {
            self.tokens -= 1;
        } else {
            self.suppressed += 1;
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_yields_few_lines_and_a_count() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        let passed = (0..1000)
            .filter(|_| throttle.take("ns/attacker", "request", start))
            .count();
        assert_eq!(passed, BURST as usize);
        // Others are logged meanwhile, and so is another reason.
        assert!(throttle.take("ns/bystander", "request", start));
        assert!(throttle.take("ns/attacker", "tls", start));
        assert!(throttle.due(start).is_empty());
        let reports = throttle.due(start + REFILL);
        assert_eq!(reports.len(), 1);
        assert_eq!(
            (&*reports[0].subject, reports[0].reason),
            ("ns/attacker", "request")
        );
        assert_eq!(reports[0].lines, 1000 - u64::from(BURST));
        assert!(throttle.take("ns/attacker", "request", start + REFILL));
        assert!(!throttle.take("ns/attacker", "request", start + REFILL));
    }

    #[test]
    fn subjects_are_bounded_and_forgotten() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        let passed = (0..10 * MAX_SUBJECTS)
            .filter(|n| throttle.take(&n.to_string(), "tls", start))
            .count();
        assert!(passed <= MAX_SUBJECTS + BURST as usize, "{passed}");
        throttle.due(start + REFILL);
        let quiet = start + REFILL * (BURST + 1);
        throttle.due(quiet);
        assert!(throttle.0.lock().reasons["tls"].is_empty());
    }
}
