use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn split(weights: &[(u32, bool)]) -> Split {
    let specs: Vec<BackendSpec> = weights
        .iter()
        .enumerate()
        .map(|(i, &(weight, valid))| BackendSpec {
            weight,
            valid,
            ..BackendSpec::new(i.to_string(), 80)
        })
        .collect();
    Split::compile(&specs, None).unwrap()
}

/// How many of 100,000 requests each backend gets, and how many get none.
fn shares(split: &Split) -> (Vec<u32>, u32) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut counts = vec![0; split.backends().len()];
    let mut none = 0;
    for _ in 0..100_000 {
        match split.pick(rng.random()) {
            Some(backend) => counts[backend.id.parse::<usize>().unwrap()] += 1,
            None => none += 1,
        }
    }
    (counts, none)
}

#[test]
fn shares_follow_weights() {
    let (counts, none) = shares(&split(&[(70, true), (30, true), (0, true)]));
    assert!((69_000..71_000).contains(&counts[0]), "{counts:?}");
    assert_eq!((counts[2], none), (0, 0));
    let (counts, _) = shares(&split(&[(1, true), (999_999, true)]));
    assert!(counts[0] < 5, "{counts:?}");
}

#[test]
fn invalid_backends_keep_their_share() {
    let (counts, none) = shares(&split(&[(1, true), (1, false)]));
    assert!((49_000..51_000).contains(&counts[0]), "{counts:?}");
    assert_eq!((counts[1], none), (0, 100_000 - counts[0]));
}

#[test]
fn nothing_to_pick() {
    for weights in [&[][..], &[(0, true), (0, true)], &[(1, false)]] {
        assert_eq!(shares(&split(weights)).1, 100_000, "{weights:?}");
    }
}

// Every number yields a backend with a weight: no gap at either end.
#[test]
fn ends_of_the_range() {
    let split = split(&[(0, true), (MAX_WEIGHT, true), (MAX_WEIGHT, true), (0, true)]);
    assert_eq!(&*split.pick(0).unwrap().id, "1");
    assert_eq!(&*split.pick(u32::MAX).unwrap().id, "2");
    assert_eq!(&*split.pick(u32::MAX / 2).unwrap().id, "1");
    assert_eq!(&*split.pick(u32::MAX / 2 + 1).unwrap().id, "2");
}

#[test]
fn bounds() {
    let heavy = BackendSpec {
        weight: MAX_WEIGHT + 1,
        ..BackendSpec::new("a", 80)
    };
    assert!(Split::compile(&[heavy], None).is_err());
    assert!(Split::compile(&[BackendSpec::new("a", 0)], None).is_err());
    // Of an invalid reference the port may be unknown.
    let unknown = BackendSpec {
        valid: false,
        ..BackendSpec::new("a", 0)
    };
    assert!(Split::compile(&[unknown], None).is_ok());
}
