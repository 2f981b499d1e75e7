use super::*;

fn edit(spec: PathEditSpec, prefix: &str) -> PathEdit {
    let prefix = crate::matching::prefix(prefix).unwrap();
    PathEdit::compile(&spec, Some(&prefix)).unwrap()
}

fn prefix_edit(matched: &str, replacement: &str) -> PathEdit {
    edit(PathEditSpec::Prefix(replacement.to_owned()), matched)
}

// The table at `HTTPPathModifier.replacePrefixMatch`.
#[test]
fn replace_prefix_match() {
    for (path, matched, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        // Beyond the table.
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/", "/", "/", "/"),
        ("/foo/foo", "/foo", "/a/b", "/a/b/foo"),
        ("*", "/", "/xyz", "*"),
    ] {
        let edit = prefix_edit(matched, replacement);
        assert_eq!(edit.apply(path, None), expected, "{path} {matched} {replacement}");
        let with_query = format!("{expected}?a=/foo&b");
        assert_eq!(
            edit.apply(path, Some("a=/foo&b")),
            with_query,
            "{path} {matched} {replacement}"
        );
    }
}

#[test]
fn replace_full_path() {
    let edit = edit(PathEditSpec::Full("/one/".to_owned()), "/");
    assert_eq!(edit.apply("/full/one/two", None), "/one/");
    assert_eq!(edit.apply("/full/one/two", Some("")), "/one/?");
    assert_eq!(edit.apply("/", Some("a=b?c")), "/one/?a=b?c");
}

#[test]
fn paths_are_checked() {
    for path in [
        "one",
        "",
        "//evil.example",
        "/a?b",
        "/a#b",
        "/a b",
        "/a\r\nx",
        "/ä",
    ] {
        let full = PathEdit::compile(&PathEditSpec::Full(path.to_owned()), None);
        assert!(full.is_err(), "{path}");
        let prefix = PathEdit::compile(&PathEditSpec::Prefix(path.to_owned()), Some("/foo"));
        assert_eq!(prefix.is_err(), !path.is_empty(), "{path}");
    }
    assert!(PathEdit::compile(&PathEditSpec::Prefix("/a".to_owned()), None).is_err());
}

#[test]
fn hostnames_are_checked() {
    let rewrite = |name: &str| {
        let spec = RewriteSpec {
            hostname: Some(name.to_owned()),
            path: None,
        };
        Rewrite::compile(&spec, None).map(|rewrite| rewrite.host().cloned())
    };
    assert_eq!(rewrite("one.example.org").unwrap().unwrap(), "one.example.org");
    for name in [
        "",
        "*.example.org",
        "a..b",
        "-a",
        "Example.org",
        "a:80",
        "a\r\nb",
        &"a".repeat(254),
    ] {
        assert!(rewrite(name).is_err(), "{name}");
    }
}
