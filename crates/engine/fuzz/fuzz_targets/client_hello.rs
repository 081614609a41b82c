//! The first bytes of a TLS connection: nothing panics, and neither the cut nor what follows changes the verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::sniff::name;
use tidegate_engine::sniff::tls::{MAX_HELLO, Sniffed, Sniffer};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = Sniffer::default().sniff(bytes);
    let (mut sniffer, mut pieces) = (Sniffer::default(), Sniffed::More);
    for end in (0..bytes.len()).step_by(usize::from(*cut) + 1).chain([bytes.len()]) {
        pieces = sniffer.sniff(&bytes[..end]);
        if pieces != Sniffed::More {
            break;
        }
    }
    assert_eq!(pieces, whole);
    match whole {
        Sniffed::More => assert!(bytes.len() < MAX_HELLO),
        Sniffed::Hello(hello) => {
            if let Some(found) = &hello.server_name {
                assert_eq!(name::normal(found.as_bytes()).as_deref(), Some(&**found));
                assert!(!name::is_ip(found.as_bytes()));
            }
        }
        Sniffed::PlainHttp | Sniffed::Refuse(_) => {}
    }
});
