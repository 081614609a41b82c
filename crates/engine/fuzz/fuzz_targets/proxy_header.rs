//! PROXY headers: nothing panics, no cut changes the verdict, and a client that was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::sniff::proxy::{Begins, MAX_V2, begins, parse, write};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = parse(bytes);
    let part = parse(&bytes[..usize::from(*cut).min(bytes.len())]);
    assert!(part == Ok(None) || part == whole);
    if begins(bytes) == Begins::No {
        assert!(whole.is_err());
    }
    match whole {
        Err(_) => {}
        Ok(None) => assert!(bytes.len() < MAX_V2 + 16),
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len());
            let Some(client) = header.client.filter(|client| !client.ip().is_unspecified()) else { return };
            for version in [1, 2] {
                let again = parse(&write(version, client, client)).unwrap().unwrap().client.unwrap();
                assert_eq!((again.ip().to_canonical(), again.port()), (client.ip().to_canonical(), client.port()));
            }
        }
    }
});
