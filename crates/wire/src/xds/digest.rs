//! Digests of resources by name and version, in buckets of names: two sides compare what they hold without listing it.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The most buckets, and those that a collection keeps digests of.
pub(super) const MOST_BUCKETS: usize = 8_192;
const LEAST_BUCKETS: usize = 64;
/// With more buckets less has to be listed where some differ, and the digests are longer.
const RESOURCES_OF_BUCKET: usize = 32;
const BYTES: usize = 16;

/// Digests of all that one side holds of a type. Their number is a power of two.
#[derive(Clone, PartialEq, Eq)]
pub struct HeldDigests(Vec<u128>);

impl fmt::Debug for HeldDigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldDigests({} buckets)", self.0.len())
    }
}

impl HeldDigests {
    /// The digests of `held`, names and versions.
    pub fn of<'a>(held: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Self {
        let buckets = (held.len() / RESOURCES_OF_BUCKET).next_power_of_two();
        let buckets = buckets.clamp(LEAST_BUCKETS, MOST_BUCKETS);
        let mut digests: Vec<u128> = vec![0; buckets];
        for (name, version) in held {
            let of_bucket = &mut digests[bucket(name, buckets)];
            *of_bucket = of_bucket.wrapping_add(entry(name, version));
        }
        Self(digests)
    }

    /// As a client sends them.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|digest| digest.to_be_bytes()).collect()
    }

    /// From what a client sent; `None` if the number of digests is none that a client has.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (digests, rest) = bytes.as_chunks::<BYTES>();
        let count = digests.len();
        let valid = rest.is_empty() && count.is_power_of_two() && count <= MOST_BUCKETS;
        valid.then(|| Self(digests.iter().map(|d| u128::from_be_bytes(*d)).collect()))
    }

    /// The number of buckets.
    pub(super) fn buckets(&self) -> usize {
        self.0.len()
    }

    /// Buckets that differ from `own`, which has as many buckets or a multiple of that.
    pub(super) fn differing(&self, own: &[u128]) -> Vec<u32> {
        let own = |bucket: usize| {
            let folded = own.iter().skip(bucket).step_by(self.0.len());
            folded.fold(0, |sum: u128, digest| sum.wrapping_add(*digest))
        };
        let buckets = (0_u32..).zip(&self.0);
        let differing = buckets.filter(|(bucket, digest)| own(*bucket as usize) != **digest);
        differing.map(|(bucket, _)| bucket).collect()
    }
}

/// The bucket of a name, of a power of two of them: FNV-1a, since only the spread matters.
pub(super) fn bucket(name: &str, buckets: usize) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV depend on the low bits of the input only.
    (hash ^ (hash >> 32)) as usize & (buckets - 1)
}

/// What a resource adds to the digest of its bucket.
pub(super) fn entry(name: &str, version: &str) -> u128 {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([0]);
    hash.update(version);
    let hash = hash.finalize();
    let [first, _] = hash.as_chunks::<BYTES>().0 else {
        return 0;
    };
    u128::from_be_bytes(*first)
}

/// A version, as clients see it.
pub(super) fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(held: &[(String, String)]) -> HeldDigests {
        HeldDigests::of(
            held.iter()
                .map(|(name, version)| (name.as_str(), version.as_str())),
        )
    }

    fn many() -> Vec<(String, String)> {
        (0..10_000)
            .map(|n| (format!("pod-{n}"), "1".to_owned()))
            .collect()
    }

    /// Against the digests of a collection, which has the most buckets.
    fn against(held: &[(String, String)], own: &[(String, String)]) -> Vec<u32> {
        let mut all = vec![0_u128; MOST_BUCKETS];
        for (name, version) in own {
            let digest = &mut all[bucket(name, MOST_BUCKETS)];
            *digest = digest.wrapping_add(entry(name, version));
        }
        let sent = of(held).encode();
        HeldDigests::decode(&sent).unwrap().differing(&all)
    }

    #[test]
    fn equal_content_has_no_differing_bucket() {
        assert!(against(&many(), &many()).is_empty());
        assert!(against(&[], &[]).is_empty());
    }

    #[test]
    fn another_version_and_a_missing_name_differ_in_their_bucket_only() {
        let held = many();
        let mut own = many();
        own[17].1 = "2".to_owned();
        own.remove(42);
        let buckets = of(&held).buckets();
        let mut expected = [&held[17].0, &held[42].0].map(|name| bucket(name, buckets) as u32);
        expected.sort_unstable();
        assert_eq!(against(&held, &own), expected);
    }

    #[test]
    fn wrong_number_of_digests_is_refused() {
        for bytes in [0, 15, 17, 48, 16 * MOST_BUCKETS * 2] {
            assert_eq!(HeldDigests::decode(&vec![0; bytes]), None, "{bytes}");
        }
    }
}
