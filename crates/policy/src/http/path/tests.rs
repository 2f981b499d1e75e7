use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

#[test]
fn one_way_of_writing_a_path_is_left() {
    let cases = [
        ("", "/"),
        ("/", "/"),
        ("*", "*"),
        ("/orders", "/orders"),
        ("/orders/", "/orders/"),
        ("/Orders", "/Orders"),
        ("//", "/"),
        ("//orders", "/orders"),
        ("/orders//7", "/orders/7"),
        ("/orders///", "/orders/"),
        ("/./orders", "/orders"),
        ("/orders/.", "/orders/"),
        ("/orders/./7", "/orders/7"),
        ("/orders/..", "/"),
        ("/orders/../", "/"),
        ("/orders/../admin", "/admin"),
        ("/a/b/../../c", "/c"),
        // Slashes are merged first.
        ("/a//../b", "/b"),
        ("/%2e/orders", "/orders"),
        ("/orders/%2e%2e/admin", "/admin"),
        ("/orders/.%2E/admin", "/admin"),
        ("/orders/%2E%2e", "/"),
        ("/%6frders", "/orders"),
        ("/%61%41%7a%30%2d%5f%7e", "/aAz0-_~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a%40b@c", "/a%40b@c"),
        ("/100%25", "/100%25"),
        // Decoded once: what is left stands for itself.
        ("/%252e%252e/admin", "/%252e%252e/admin"),
        ("/%25%32%65", "/%252e"),
        // Names that only look like dot segments.
        ("/...", "/..."),
        ("/.hidden", "/.hidden"),
        ("/a..b/..c/d..", "/a..b/..c/d.."),
        ("/a:b!$&'()*+,=", "/a:b!$&'()*+,="),
        ("/grüße", "/grüße"),
    ];
    for (path, normal) in cases {
        assert_eq!(normalize_path(path).as_deref(), Ok(normal), "{path}");
    }
}

#[test]
fn what_applications_disagree_on_is_refused() {
    use PathRefusal::*;
    let cases = [
        ("orders", NotAbsolute),
        ("**", NotAbsolute),
        ("http://a/b", NotAbsolute),
        ("%2forders", NotAbsolute),
        ("/%", Encoding),
        ("/%4", Encoding),
        ("/%4/1", Encoding),
        ("/%zz", Encoding),
        ("/%%41", Encoding),
        ("/%+1", Encoding),
        ("/%é", Encoding),
        // Not UTF-8; the first is a long way to write a dot.
        ("/%c0%ae%c0%ae/admin", Encoding),
        ("/%ff", Encoding),
        ("/%00", Character),
        ("/a%0d%0ab", Character),
        ("/%1f", Character),
        ("/%7f", Character),
        ("/a\u{0}", Character),
        ("/a\tb", Character),
        ("/a b", Character),
        ("/a\u{7f}", Character),
        ("/a?b", Character),
        ("/a#b", Character),
        ("/a\\b", Backslash),
        ("/..\\admin", Backslash),
        ("/a%5cb", Backslash),
        ("/a%5Cb", Backslash),
        ("/a%2fb", EncodedSlash),
        ("/a%2Fb", EncodedSlash),
        ("/..%2fadmin", EncodedSlash),
        ("/a;b=c", Semicolon),
        ("/orders/..;/admin", Semicolon),
        ("/admin;", Semicolon),
        ("/admin%3b", Semicolon),
        ("/..", AboveRoot),
        ("/../admin", AboveRoot),
        ("/a/../..", AboveRoot),
        ("/%2e%2e/admin", AboveRoot),
        ("//../admin", AboveRoot),
    ];
    for (path, refusal) in cases {
        assert_eq!(normalize_path(path), Err(refusal), "{path:?}");
    }
}

/// What the property tests build paths of: everything that means something, and something of the rest.
const PIECES: &[&str] = &[
    "/", "//", ".", "..", "/./", "/../", "%2e", "%2E", "%2f", "%5c", "%25", "%32", "%65", "%41", "%c3%a9",
    "%C3", "%A9", "%00", "%", "%7", ";", "\\", "?", "#", "a", "B", "orders", "~", "@", "*", " ", "é", "%3b",
    "%20", "%7e",
];

fn any_path(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..8);
    let pieces = (0..length).filter_map(|_| PIECES.choose(rng).copied());
    let path: String = pieces.collect();
    // Most begin as paths do, so that more than the first check is tested.
    if rng.random_bool(0.9) {
        format!("/{path}")
    } else {
        path
    }
}

#[test]
fn the_normal_form_is_its_own_normal_form() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut normal = 0;
    for _ in 0..200_000 {
        let path = any_path(&mut rng);
        let Ok(once) = normalize_path(&path) else {
            continue;
        };
        normal += 1;
        assert_eq!(normalize_path(&once).as_ref(), Ok(&once), "{path:?}");
        let segments = || once.split('/').skip(1);
        assert!(
            once == "*" || (once.starts_with('/') && !segments().any(|s| matches!(s, "." | ".."))),
            "{path:?} became {once:?}"
        );
        assert!(!once.contains("//"), "{path:?} became {once:?}");
        let decoded = decode(once.as_bytes());
        assert!(std::str::from_utf8(&decoded).is_ok(), "{path:?} became {once:?}");
    }
    assert!(normal > 20_000, "only {normal} of the paths were legal");
}

/// Another way of writing a path: characters encoded, segments that lead nowhere, slashes doubled.
fn disguise(path: &str, rng: &mut StdRng) -> String {
    let mut out = String::new();
    for character in path.chars() {
        match character {
            '/' => out.push_str(
                ["/", "//", "/./", "/x/../", "/%2e/", "/x/%2E./"]
                    .choose(rng)
                    .unwrap(),
            ),
            c if rng.random_bool(0.3) => out.push_str(&format!("%{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[test]
fn every_disguise_of_a_path_is_seen_through() {
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..20_000 {
        let count = rng.random_range(1..4);
        let segments = (0..count).filter_map(|_| ["orders", "7", "Admin", "a-b_c.d~", ".x"].choose(&mut rng));
        let path: String = segments.map(|segment| format!("/{segment}")).collect();
        let disguised = disguise(&path, &mut rng);
        assert_eq!(
            normalize_path(&disguised).as_deref(),
            Ok(path.as_str()),
            "{disguised}"
        );
    }
}

#[test]
fn nothing_is_copied_where_nothing_is_to_be_done() {
    for path in ["/", "/orders/7", "/a.b/c-d", "*"] {
        assert!(matches!(normalize_path(path), Ok(Cow::Borrowed(same)) if same == path));
    }
}
