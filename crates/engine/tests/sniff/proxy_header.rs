//! PROXY headers: what is believed, what is refused, and that what we write is read again.

use std::net::SocketAddr;

use proptest::prelude::*;
use tidegate_engine::sniff::proxy::{Begins, MAX_V1, MAX_V2, SIGNATURE_V2, begins, parse, write};

fn client(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let header = parse(bytes)?.expect("a whole header");
    assert_eq!(header.length, bytes.len());
    Ok(header.client.map(|client| client.to_string()))
}

fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    [&SIGNATURE_V2[..], &[command, family], &length, content].concat()
}

const V4: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xbb];

#[test]
fn version_1_is_read_as_written_and_in_no_other_spelling() {
    for (line, expected) in [
        ("PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n", Some("203.0.113.7:12345")),
        ("PROXY TCP6 2001:db8::7 ::1 12345 443\r\n", Some("[2001:db8::7]:12345")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    ] {
        assert_eq!(client(line.as_bytes()), Ok(expected.map(str::to_owned)), "{line}");
    }
    for line in [
        "PROXY TCP4 203.0.113.7 10.0.0.1 12345 443 x\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 12345\r\n",
        "PROXY TCP4  203.0.113.7 10.0.0.1 12345 443\r\n",
        "PROXY TCP4 203.0.113.07 10.0.0.1 12345 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 012345 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 +1 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 1 65536\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 203.0.113.7 10.0.0.1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY tcp4 203.0.113.7 10.0.0.1 1 2\r\n",
        "PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\n\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 12345 \u{661}\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn version_2_is_read_with_its_additional_fields_skipped() {
    assert_eq!(client(&v2(0x21, 0x11, V4)), Ok(Some("203.0.113.7:12345".into())));
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x30, 0x39, 1, 0xbb]].concat();
    assert_eq!(client(&v2(0x21, 0x21, &v6)), Ok(Some("[2001:db8::7]:12345".into())));
    let with_fields = [V4, &[3, 0, 4, 1, 2, 3, 4], &[0xea, 0, 1, 9]].concat();
    assert_eq!(client(&v2(0x21, 0x11, &with_fields)), Ok(Some("203.0.113.7:12345".into())));
    // LOCAL: a health check of the proxy itself; the addresses are not to be used.
    assert_eq!(client(&v2(0x20, 0x00, b"")), Ok(None));
    assert_eq!(client(&v2(0x20, 0x11, V4)), Ok(None));
    assert_eq!(client(&v2(0x21, 0x00, b"anything")), Ok(None));
    assert_eq!(client(&v2(0x21, 0x31, &[0; 216])), Ok(None));
    assert_eq!(client(&v2(0x21, 0x12, V4)), Ok(None));
    for bad in [
        v2(0x11, 0x11, V4),
        v2(0x22, 0x11, V4),
        v2(0x21, 0x41, V4),
        v2(0x21, 0x13, V4),
        v2(0x21, 0x11, &V4[..11]),
        v2(0x21, 0x21, V4),
        v2(0x21, 0x11, &vec![0; MAX_V2 + 1]),
    ] {
        assert!(parse(&bad).is_err());
    }
}

#[test]
fn a_header_is_the_same_wherever_it_was_cut_and_what_follows_is_left() {
    for whole in [b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n".to_vec(), v2(0x21, 0x11, V4)] {
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None), "the first {end} bytes");
        }
        let followed = [&whole[..], b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(parse(&followed), parse(&whole));
    }
}

#[test]
fn a_header_of_version_1_ends_within_107_bytes() {
    let padded = |bytes: usize| format!("{:x<1$}\r\n", "PROXY UNKNOWN ", bytes - 2);
    assert_eq!(client(padded(MAX_V1).as_bytes()), Ok(None));
    assert!(parse(padded(MAX_V1 + 1).as_bytes()).is_err());
    assert!(parse(&padded(MAX_V1 + 1).as_bytes()[..MAX_V1]).is_err());
}

#[test]
fn what_is_no_header_is_known_as_soon_as_it_differs() {
    assert_eq!(begins(b""), Begins::More);
    assert_eq!(begins(b"PRO"), Begins::More);
    assert_eq!(begins(b"PRI"), Begins::No);
    assert_eq!(begins(b"\r\n\r\n\0\r\nQUIT"), Begins::More);
    assert_eq!(begins(SIGNATURE_V2), Begins::Yes);
    assert_eq!(begins(b"\r\n\r\nGET"), Begins::No);
    assert!(parse(b"\x16\x03\x01").is_err());
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let known = |address: &SocketAddr| !address.ip().is_unspecified();
    any::<SocketAddr>().prop_filter("a known address", known)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_we_write_is_read_again(version in 1u8..=2, from in address(), to in address()) {
        let bytes = write(version, from, to);
        let header = parse(&bytes).expect("good").expect("whole");
        prop_assert_eq!(header.length, bytes.len());
        let read = header.client.expect("a client");
        prop_assert_eq!(read.ip().to_canonical(), from.ip().to_canonical());
        prop_assert_eq!(read.port(), from.port());
    }

    #[test]
    fn nothing_panics_and_no_longer_input_changes_a_verdict(
        version in 0usize..3, bytes: Vec<u8>, cut: prop::sample::Index,
    ) {
        let start: [&[u8]; 3] = [b"", b"PROXY TCP4 ", SIGNATURE_V2];
        let bytes = [start[version], &bytes, b"x"].concat();
        let whole = parse(&bytes);
        let part = parse(&bytes[..cut.index(bytes.len())]);
        prop_assert!(part == Ok(None) || part == whole);
    }
}

#[test]
fn a_client_that_nobody_knows_is_said_to_be_ourselves() {
    let (nobody, to) = ("0.0.0.0:0".parse().expect("an address"), "10.0.0.1:80".parse().expect("an address"));
    for version in [1, 2] {
        assert_eq!(client(&write(version, nobody, to)), Ok(None));
    }
}
