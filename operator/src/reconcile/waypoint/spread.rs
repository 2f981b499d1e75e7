//! Which replicas of a waypoint have more than their share of the load: pure.

use std::collections::HashMap;

/// Reports of a replica, one a second, that have to agree: connections are not moved for a peak.
const AGREE: u32 = 3;
/// Beyond the mean by less than a quarter is its share.
const TOLERANCE: u64 = 4;
/// Nor are they moved for less than one request in flight, in thousandths.
const LEAST: u64 = 1000;

/// Replicas (pod UIDs) that had more than their share in all of their latest reports.
#[derive(Debug, Default)]
pub(super) struct Spreader(HashMap<String, Beyond>);

#[derive(Debug)]
struct Beyond {
    /// Reports in a row.
    reports: u32,
    /// The least of them, beyond the mean, in thousandths.
    least: u64,
}

impl Spreader {
    /// What replicas are to hand to others, by pod UID, in thousandths of requests in flight. `loads` has what all replicas reported now.
    /// A replica that is told so is looked at anew from its next report on.
    pub(super) fn decide(&mut self, loads: &[(&str, u64)]) -> Vec<(String, u64)> {
        let sum: u64 = loads.iter().map(|(_, milli)| milli).sum();
        let mean = sum / u64::try_from(loads.len()).unwrap_or(u64::MAX).max(1);
        let beyond = |milli: u64| milli.saturating_sub(mean);
        let much = |milli: u64| beyond(milli) >= LEAST.max(mean / TOLERANCE);
        self.0
            .retain(|uid, _| loads.iter().any(|(of, milli)| of == uid && much(*milli)));
        let mut told = Vec::new();
        for (uid, milli) in loads.iter().filter(|(_, milli)| much(*milli)) {
            let seen = self.0.entry((*uid).to_owned()).or_insert(Beyond {
                reports: 0,
                least: u64::MAX,
            });
            seen.reports += 1;
            seen.least = seen.least.min(beyond(*milli));
            if seen.reports == AGREE {
                told.push(((*uid).to_owned(), seen.least));
                self.0.remove(*uid);
            }
        }
        told
    }

    /// Not all replicas have reported: nobody can say what a share is.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after each of these reports of the replicas a, b and so on.
    fn said<const N: usize>(reports: &[[u64; N]]) -> Vec<Vec<(String, u64)>> {
        let mut spreader = Spreader::default();
        let names = ["a", "b", "c", "d"];
        let said = reports.iter().map(|report| {
            let loads: Vec<_> = names.into_iter().zip(report.iter().copied()).collect();
            spreader.decide(&loads)
        });
        said.collect()
    }

    fn none() -> Vec<(String, u64)> {
        Vec::new()
    }

    #[test]
    fn new_replica_gets_its_share() {
        let reports = [[30_000, 0], [28_000, 0], [34_000, 0], [20_000, 10_000]];
        let shed = vec![("a".to_owned(), 14_000)];
        assert_eq!(said(&reports), [none(), none(), shed, none()]);
    }

    #[test]
    fn uneven_load_is_told_again_after_as_many_reports() {
        let said = said(&[[9000, 1000, 2000]; 7]);
        let told = said.iter().map(|told| !told.is_empty());
        assert_eq!(
            told.collect::<Vec<_>>(),
            [false, false, true, false, false, true, false]
        );
        assert_eq!(
            said[2],
            [("a".to_owned(), 5000)],
            "the others have less than the mean"
        );
    }

    #[test]
    fn peaks_small_differences_and_little_load_move_nothing() {
        let peak = [
            [12_000, 4000],
            [6000, 6000],
            [12_000, 4000],
            [12_000, 4000],
            [6000, 6000],
        ];
        assert!(said(&peak).iter().all(Vec::is_empty));
        assert!(
            said(&[[12_000, 8000]; 9]).iter().all(Vec::is_empty),
            "within a quarter"
        );
        assert!(
            said(&[[1900, 0]; 9]).iter().all(Vec::is_empty),
            "less than one request"
        );
        assert!(
            said(&[[50_000]; 9]).iter().all(Vec::is_empty),
            "there is no other"
        );
    }

    #[test]
    fn missing_reports_begin_it_anew() {
        let mut spreader = Spreader::default();
        let loads = [("a", 9000), ("b", 0)];
        for _ in 0..2 {
            assert!(spreader.decide(&loads).is_empty());
            assert!(spreader.decide(&loads).is_empty());
            spreader.forget();
        }
    }
}
