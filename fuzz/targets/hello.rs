//! The ClientHello of a TLS client, of which a waypoint reads the server name: the result does not depend on the pieces
//! in which the bytes come; a server name is one that came, in lower case; the bound holds.
//!
//! Input: the size of the pieces, and what the client sends.
#![no_main]

use ambit_l7::{ClientHello, HelloError, HelloReader, MAX_CLIENT_HELLO};
use libfuzzer_sys::fuzz_target;

fn read(said: &[u8], piece: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = HelloReader::default();
    let mut end = 0;
    loop {
        end = said.len().min(end + piece);
        match reader.read(&said[..end]) {
            Ok(None) if end < said.len() => {}
            result => return result,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, said)) = data.split_first() else {
        return;
    };
    let whole = read(said, usize::MAX);
    assert_eq!(read(said, usize::from(piece) + 1), whole);
    match whole {
        Ok(None) => assert!(said.len() < MAX_CLIENT_HELLO),
        Ok(Some(hello)) => {
            let name = hello.server_name.unwrap_or_default();
            assert!(name.len() <= 253 && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
        }
        Err(_) => {}
    }
});
