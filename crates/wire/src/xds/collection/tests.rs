use super::*;

const ALL: PartLimit = PartLimit {
    resources: usize::MAX,
    bytes: usize::MAX,
    end: u64::MAX,
};

fn resources(from: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    from.iter()
        .map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec()))
        .collect()
}

fn all(collection: &Collection, cursor: u64) -> (Vec<String>, Vec<String>, u64) {
    let changes = collection.changes(cursor, 0, |_, _| true, ALL).unwrap();
    assert!(changes.complete);
    let updated = changes.updated.iter().map(|r| r.name.to_string()).collect();
    (
        updated,
        changes.removed.iter().map(ToString::to_string).collect(),
        changes.cursor,
    )
}

#[test]
fn a_reader_sees_each_name_once_at_its_latest_change() {
    let collection = Collection::new();
    collection.replace(resources(&[("a", "1"), ("b", "1"), ("c", "1")]));
    let (updated, removed, cursor) = all(&collection, 0);
    assert_eq!((updated.len(), removed.len()), (3, 0));

    collection.update([
        ("a".into(), Some(b"2".to_vec())),
        ("a".into(), Some(b"3".to_vec())),
        ("b".into(), None),
    ]);
    let (updated, removed, next) = all(&collection, cursor);
    assert_eq!((updated, removed), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(collection.get("a").unwrap().0.bytes, "3");
    assert_eq!(all(&collection, next), (vec![], vec![], next));

    collection.update([("b".into(), Some(b"1".to_vec()))]);
    let (updated, removed, _) = all(&collection, cursor);
    assert_eq!((updated, removed), (vec!["a".to_owned(), "b".to_owned()], vec![]));
}

#[test]
fn equal_content_is_no_change_and_versions_follow_content() {
    let (one, other) = (Collection::new(), Collection::new());
    one.replace(resources(&[("a", "1"), ("b", "2")]));
    other.replace(resources(&[("b", "2"), ("a", "0")]));
    other.replace(resources(&[("a", "1"), ("b", "2")]));
    let stored = |of: &Collection| of.get("a").unwrap().0;
    assert_eq!(stored(&one), stored(&other));
    let mut changed = one.subscribe();
    changed.mark_unchanged();
    one.replace(resources(&[("b", "2"), ("a", "1")]));
    one.update([("absent".into(), None)]);
    assert!(!changed.has_changed().unwrap());
    one.replace(resources(&[("b", "2")]));
    assert!(changed.has_changed().unwrap());
}

#[test]
fn becoming_ready_while_empty_is_notified() {
    let collection = Collection::new();
    let changed = collection.subscribe();
    assert!(!collection.is_ready());
    collection.replace([]);
    assert!(collection.is_ready() && changed.has_changed().unwrap());
}

#[test]
fn parts_join_to_the_whole_even_when_things_change_between_them() {
    let collection = Collection::new();
    collection.replace((0..10).map(|i| (format!("r{i}"), vec![0; 10])));
    let start = collection.latest();
    let limit = PartLimit { resources: 4, ..ALL };
    let first = collection.changes(0, start, |_, _| true, limit).unwrap();
    assert_eq!((first.updated.len(), first.complete), (4, false));
    let sent = first.updated[0].name.to_string();
    collection.update([(sent.clone(), None), ("r9".into(), Some(vec![1]))]);

    let mut names: HashSet<_> = first.updated.iter().map(|r| r.name.clone()).collect();
    let mut cursor = first.cursor;
    loop {
        let part = collection.changes(cursor, start, |_, _| true, limit).unwrap();
        names.extend(part.updated.iter().map(|r| r.name.clone()));
        part.removed.iter().for_each(|name| assert!(names.remove(name)));
        cursor = part.cursor;
        if part.complete {
            break;
        }
    }
    assert_eq!(names.len(), 9);
    assert!(!names.contains(sent.as_str()));

    let by_bytes = collection
        .changes(0, start, |_, _| true, PartLimit { bytes: 20, ..ALL })
        .unwrap();
    assert_eq!(by_bytes.updated.len(), 2);
}

#[test]
fn a_part_goes_no_further_than_asked() {
    let collection = Collection::new();
    collection.replace(resources(&[("a", "1"), ("b", "1")]));
    let end = collection.latest();
    collection.update([
        ("b".into(), Some(b"2".to_vec())),
        ("c".into(), Some(b"1".to_vec())),
    ]);
    let limit = PartLimit { end, ..ALL };
    let part = collection.changes(0, 0, |_, _| true, limit).unwrap();
    assert_eq!((part.updated.len(), part.cursor, part.complete), (1, end, false));
    let again = collection.changes(end, 0, |_, _| true, limit).unwrap();
    assert_eq!(
        (again.updated.len(), again.cursor, again.complete),
        (0, end, false)
    );
    assert_eq!(all(&collection, end).0, ["b", "c"]);
}

#[test]
fn a_reader_too_far_behind_is_told_to_start_anew() {
    let collection = Collection::new();
    collection.replace([]);
    let old = collection.latest();
    let name = |i| format!("r{i}");
    for i in 0..=REMEMBERED_REMOVALS {
        collection.update([(name(i), Some(vec![])), (name(i), None)]);
    }
    assert_eq!(collection.changes(old, old, |_, _| true, ALL), Err(FellBehind));
    let fresh = collection
        .changes(0, collection.latest(), |_, _| true, ALL)
        .unwrap();
    assert_eq!(
        (fresh.updated.len(), fresh.removed.len(), fresh.complete),
        (0, 0, true)
    );
}

/// Replicas of two builds serve the same clients: the numbers are part of the protocol.
#[test]
fn versions_are_the_same_in_every_build() {
    let collection = Collection::new();
    collection.replace(resources(&[("a", "x"), ("b", "")]));
    let version = |name: &str| collection.get(name).unwrap().0.version;
    assert_eq!(version("a"), 0x2d71_1642_b726_b044);
    assert_eq!(version("b"), 0xe3b0_c442_98fc_1c14);
}
