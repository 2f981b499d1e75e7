use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - width..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(2, data)].concat()
}

fn names(names: &[&str]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> = names
        .iter()
        .map(|name| [vec![HOST_NAME], vector(2, name.as_bytes())].concat())
        .collect();
    extension(SERVER_NAME, &vector(2, &entries.concat()))
}

/// A ClientHello with these extensions, without records.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 1, 0x13, 2]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ];
    [vec![CLIENT_HELLO], vector(3, &body.concat())].concat()
}

fn record_of(fragment: &[u8]) -> Vec<u8> {
    [vec![HANDSHAKE, 3, 1], vector(2, fragment)].concat()
}

/// With a key share of the size that ML-KEM has, before and after the name.
fn large(name: &str) -> Vec<u8> {
    let share = extension(51, &[5; 1216]);
    record_of(&message(&[
        share.clone(),
        names(&[name]),
        extension(43, &[2, 3, 4]),
        share,
    ]))
}

fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    HelloReader::default().read(bytes)
}

fn server_name(bytes: &[u8]) -> Option<Box<str>> {
    read(bytes).unwrap().unwrap().server_name
}

#[test]
fn the_server_name_is_found_and_lowered() {
    assert_eq!(
        server_name(&large("A.Example.com")).as_deref(),
        Some("a.example.com")
    );
    assert_eq!(
        server_name(&record_of(&message(&[extension(43, &[2, 3, 4])]))),
        None
    );
    // TLS 1.0 has no extensions.
    let mut old = message(&[]);
    old.truncate(old.len() - 2);
    let length = (old.len() - HANDSHAKE_HEADER) as u8;
    old[3] = length;
    assert_eq!(server_name(&record_of(&old)), None);
    // What follows the message is none of our business.
    let followed = [large("a.example.com"), vec![0xff; 100]].concat();
    assert_eq!(server_name(&followed).as_deref(), Some("a.example.com"));
}

#[test]
fn what_is_not_tls_is_told_at_once() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x",
        &[0x80, 0x2e, 1, 3, 1],
        &[HANDSHAKE, 2],
        // Another message than a ClientHello.
        &[HANDSHAKE, 3, 1, 0, 4, 2],
    ] {
        assert_eq!(read(bytes), Err(HelloError::NotTls), "{bytes:?}");
    }
    assert_eq!(read(b""), Ok(None));
}

#[test]
fn malformed_handshakes_are_refused() {
    let long = "a".repeat(254);
    for extensions in [
        vec![names(&["a.example.com", "b.example.com"])],
        vec![names(&["a.example.com"]), names(&["a.example.com"])],
        vec![names(&["a/b"])],
        vec![names(&[""])],
        vec![names(&[&long])],
        vec![names(&[])],
        vec![extension(SERVER_NAME, &[])],
        vec![vec![0, 0, 0, 9, 1]],
    ] {
        let result = read(&record_of(&message(&extensions)));
        assert!(matches!(result, Err(HelloError::Malformed(_))), "{result:?}");
    }
    assert!(matches!(
        read(&[HANDSHAKE, 3, 1, 0, 0]),
        Err(HelloError::Malformed("an empty record"))
    ));
    assert!(matches!(
        read(&[HANDSHAKE, 3, 1, 0x40, 1]),
        Err(HelloError::Malformed("a record that is too long"))
    ));
}

/// A client that promises too much, or never ends, is not listened to for longer than the bound.
#[test]
fn nothing_is_kept_beyond_the_bound() {
    let promised = [CLIENT_HELLO, 0, 0x40, 0];
    assert_eq!(read(&record_of(&promised)), Err(HelloError::TooLong));
    // Records of one byte each: the headers count.
    let fitting = message(&[names(&["a.example.com"]), extension(51, &[0; 4 << 10])]);
    let split: Vec<u8> = fitting.iter().flat_map(|byte| record_of(&[*byte])).collect();
    let mut reader = HelloReader::default();
    let mut end = 0;
    let error = loop {
        end += 1;
        match reader.read(&split[..end]) {
            Ok(None) => {}
            Ok(Some(hello)) => panic!("{hello:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!((error, end), (HelloError::TooLong, MAX_CLIENT_HELLO));
    assert!(reader.message.len() < MAX_CLIENT_HELLO);
}

/// Whatever the pieces, in records and in segments, the result is that of the whole.
#[test]
fn pieces_do_not_matter() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let message = &large("split.example.com")[RECORD_HEADER..];
        let most = rng.random_range(1..2000);
        let (mut records, mut rest) = (Vec::new(), message);
        while !rest.is_empty() {
            // Not so small that the headers are too many.
            let length = rng.random_range(1..=most).max(2).min(rest.len());
            records.extend(record_of(&rest[..length]));
            rest = &rest[length..];
        }
        let whole = read(&records);
        assert_eq!(
            whole.clone().unwrap().unwrap().server_name.as_deref(),
            Some("split.example.com")
        );
        let mut reader = HelloReader::default();
        let mut end = 0;
        let pieces = loop {
            end = (end + rng.random_range(1..=most)).min(records.len());
            match reader.read(&records[..end]) {
                Ok(None) => assert!(end < records.len()),
                other => break other,
            }
        };
        assert_eq!(pieces, whole);
    }
}

/// Random changes of a good message: no panic, the bound holds, and what is read is the same in pieces of one byte.
#[test]
fn changed_messages_are_read_alike_in_whole_and_byte_by_byte() {
    let mut rng = StdRng::seed_from_u64(2);
    let good = large("a.example.com");
    for _ in 0..500 {
        let mut bytes = good.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = match rng.random_bool(0.5) {
                true => rng.random_range(0..100),
                false => rng.random_range(0..bytes.len()),
            };
            bytes[at] = rng.random();
        }
        bytes.truncate(rng.random_range(0..=bytes.len()));
        let whole = read(&bytes);
        let mut reader = HelloReader::default();
        let pieces = (0..=bytes.len()).map(|end| reader.read(&bytes[..end]));
        let first = pieces.into_iter().find(|read| !matches!(read, Ok(None)));
        assert_eq!(first.unwrap_or(Ok(None)), whole);
    }
}
