//! ClientHellos: of rustls, and made by hand as no library would.

use proptest::prelude::*;
use tidegate_engine::sniff::tls::{Alert, ClientHello, MAX_HELLO, Sniffed, Sniffer};

use super::{Made, hello_of_rustls, names, record};

/// The verdict on bytes that came at once.
fn sniff(bytes: &[u8]) -> Sniffed {
    Sniffer::default().sniff(bytes)
}

/// The verdict on bytes that came in segments which end at `cuts`.
fn sniff_cut(bytes: &[u8], cuts: &[usize]) -> Sniffed {
    let mut sniffer = Sniffer::default();
    for end in cuts.iter().copied().chain([bytes.len()]) {
        match sniffer.sniff(&bytes[..end]) {
            Sniffed::More => {}
            verdict => return verdict,
        }
    }
    Sniffed::More
}

/// A message in records which end at `cuts`.
fn records(message: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut start, mut bytes) = (0, Vec::new());
    for end in cuts.iter().copied().chain([message.len()]) {
        bytes.extend(record(&message[start..end]));
        start = end;
    }
    bytes
}

fn name_of(made: &Made) -> Result<Option<String>, Alert> {
    match sniff(&made.bytes()) {
        Sniffed::Hello(hello) => Ok(hello.server_name),
        Sniffed::Refuse(alert) => Err(alert),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hello_of_a_real_client_is_read() {
    let bytes = hello_of_rustls("Shop.Example.com", &["h2", "http/1.1"]);
    let expected = ClientHello { server_name: Some("shop.example.com".into()) };
    assert_eq!(sniff(&bytes), Sniffed::Hello(expected.clone()));
    let followed = [&bytes[..], b"\x17\x03\x03\0\x01early"].concat();
    assert_eq!(sniff(&followed), Sniffed::Hello(expected));
}

#[test]
fn case_29_a_hello_is_the_same_wherever_segments_and_records_end() {
    let bytes = hello_of_rustls("shop.example.com", &["h2"]);
    let (whole, message) = (sniff(&bytes), &bytes[5..]);
    assert!(matches!(whole, Sniffed::Hello(_)));
    for end in 0..bytes.len() {
        assert_eq!(sniff(&bytes[..end]), Sniffed::More, "the first {end} bytes");
        assert_eq!(sniff_cut(&bytes, &[end]), whole, "two segments, cut at {end}");
    }
    for end in 1..message.len() {
        let two = records(message, &[end]);
        assert_eq!(sniff(&two), whole, "two records, cut at {end}");
        assert_eq!(sniff_cut(&two, &[end + 3]), whole, "two records and two segments, cut at {end}");
    }
    let every: Vec<usize> = (1..message.len()).collect();
    let smallest = records(message, &every);
    assert_eq!(sniff(&smallest), whole, "records of one byte");
    let every: Vec<usize> = (0..smallest.len()).collect();
    assert_eq!(sniff_cut(&smallest, &every), whole, "records and segments of one byte");
}

#[test]
fn case_30_every_odd_name_has_its_answer() {
    let long_name = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    for (name, expected) in [
        ("shop.example.com", Ok(Some("shop.example.com"))),
        ("SHOP.example.COM.", Ok(Some("shop.example.com"))),
        ("xn--bcher-kva.example", Ok(Some("xn--bcher-kva.example"))),
        ("localhost", Ok(Some("localhost"))),
        (&long_name, Ok(Some(&*long_name))),
        (&format!("{long_name}d"), Err(Alert::UnrecognizedName)),
        ("127.0.0.1", Ok(None)),
        ("::1", Ok(None)),
        ("", Err(Alert::DecodeError)),
        (".", Err(Alert::UnrecognizedName)),
        ("a..b", Err(Alert::UnrecognizedName)),
        ("*.example.com", Err(Alert::UnrecognizedName)),
        ("shop.example.com\0.evil", Err(Alert::UnrecognizedName)),
        ("b\u{fc}cher.example", Err(Alert::UnrecognizedName)),
        ("shop.example.com:443", Err(Alert::UnrecognizedName)),
    ] {
        assert_eq!(name_of(&Made::named(name.as_bytes())), expected.map(|name| name.map(str::to_owned)), "{name:?}");
    }
    let with = |content: &[u8]| name_of(&Made::new().and(0, content));
    assert_eq!(name_of(&Made::new()), Ok(None));
    assert_eq!(with(&names(&[(0, b"a.b"), (0, b"c.d")])), Err(Alert::IllegalParameter));
    assert_eq!(with(&names(&[(0, b"a.b"), (0, b"a.b")])), Err(Alert::IllegalParameter));
    assert_eq!(with(&names(&[(7, b"other"), (0, b"a.b")])), Ok(Some("a.b".into())));
    assert_eq!(with(&names(&[(7, b"other")])), Ok(None));
    assert_eq!(with(&names(&[])), Err(Alert::DecodeError));
    assert_eq!(with(b""), Err(Alert::DecodeError));
    assert_eq!(with(&[&names(&[(0, b"a.b")])[..], b"x"].concat()), Err(Alert::DecodeError));
    let twice = Made::named(b"a.b").and(0, &names(&[(0, b"c.d")]));
    assert_eq!(name_of(&twice), Err(Alert::IllegalParameter));
    assert_eq!(name_of(&Made::new().and(99, b"").and(99, b"")), Err(Alert::IllegalParameter));
}

#[test]
fn case_30_a_hello_inside_a_hello_is_known_by_its_outer_name() {
    let encrypted = Made::named(b"public.example").and(0xfe0d, &[0; 200]);
    assert_eq!(name_of(&encrypted), Ok(Some("public.example".into())));
}

#[test]
fn case_30_what_is_no_hello_gets_an_alert_that_says_why() {
    let message = Made::named(b"a.b").message();
    let mut server_hello = message.clone();
    server_hello[0] = 2;
    let (mut old, mut other_major) = (Made::named(b"a.b").bytes(), Made::named(b"a.b").bytes());
    old[9] = 2;
    other_major[1] = 2;
    let beyond = [&[22, 3, 1, 0x40, 1][..], &message].concat();
    for (bytes, alert, what) in [
        (b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10".to_vec(), Alert::ProtocolVersion, "SSLv2"),
        (old, Alert::ProtocolVersion, "version 2 in the hello"),
        (other_major, Alert::ProtocolVersion, "version 2 in the record"),
        (b"\x15\x03\x01\0\x02\x02\x28".to_vec(), Alert::UnexpectedMessage, "an alert"),
        (b"\x17\x03\x01\0\x01x".to_vec(), Alert::UnexpectedMessage, "application data"),
        (b"\0\0\0\0".to_vec(), Alert::UnexpectedMessage, "zeros"),
        (record(b""), Alert::UnexpectedMessage, "an empty record"),
        (record(&server_hello), Alert::UnexpectedMessage, "another message"),
        (
            [record(&message[..9]), b"\x17\x03\x03\0\x01x".to_vec()].concat(),
            Alert::UnexpectedMessage,
            "a stranger between",
        ),
        (beyond, Alert::RecordOverflow, "a record beyond 16 KiB"),
        (record(b"\x01\0\0\0"), Alert::DecodeError, "an empty hello"),
        (record(b"\x01\x01\0\0"), Alert::DecodeError, "a hello of 64 KiB"),
        (record(b"\x01\xff\xff\xff"), Alert::DecodeError, "a hello of 16 MiB"),
        (Made { session: vec![1; 33], ..Made::new() }.bytes(), Alert::DecodeError, "a long session id"),
    ] {
        assert_eq!(sniff(&bytes), Sniffed::Refuse(alert), "{what}");
    }
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
}

#[test]
fn case_30_plain_http_is_told_apart_by_its_first_byte() {
    for text in ["G", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "options"] {
        assert_eq!(sniff(text.as_bytes()), Sniffed::PlainHttp, "{text}");
    }
}

#[test]
fn a_hello_of_up_to_64_kib_is_read_and_a_longer_one_refused() {
    let padded = |bytes: usize| Made::named(b"a.b").and(21, &vec![0; bytes]).message();
    let chunks = |message: &[u8]| message.chunks(1 << 14).flat_map(record).collect::<Vec<u8>>();
    let overhead = padded(0).len() + 4 * 5;
    let fits = chunks(&padded(MAX_HELLO - overhead));
    assert_eq!(fits.len(), MAX_HELLO);
    assert!(matches!(sniff(&fits), Sniffed::Hello(_)));
    let beyond = chunks(&padded(MAX_HELLO - overhead + 1));
    assert_eq!(sniff(&beyond), Sniffed::Refuse(Alert::DecodeError));
    // A small hello in records so many that their headers alone are too much.
    let tiny: Vec<u8> = padded(12_000).chunks(1).flat_map(record).collect();
    assert_eq!(sniff(&tiny), Sniffed::Refuse(Alert::DecodeError));
    assert_eq!(sniff_cut(&tiny, &(0..tiny.len()).collect::<Vec<_>>()), Sniffed::Refuse(Alert::DecodeError));
}

/// Cuts of something so long, in order, each once and none at its ends.
fn cuts(length: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(1..length, 0..8).prop_map(|cuts| cuts.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_verdict_does_not_depend_on_cuts(
        (damage, at, value) in (any::<bool>(), 0usize..400, any::<u8>()),
        (in_records, in_segments) in (cuts(100), cuts(180)),
    ) {
        let mut bytes = records(&Made::named(b"shop.example.com").message(), &in_records);
        if damage && at < bytes.len() {
            bytes[at] = value;
        }
        let in_segments: Vec<usize> = in_segments.into_iter().filter(|end| *end < bytes.len()).collect();
        prop_assert_eq!(sniff(&bytes), sniff_cut(&bytes, &in_segments));
    }

    #[test]
    fn nothing_panics_and_no_longer_input_changes_a_verdict(bytes: Vec<u8>, cut: prop::sample::Index) {
        let bytes = [&b"\x16\x03\x01"[..], &bytes].concat();
        let whole = sniff(&bytes);
        let part = sniff(&bytes[..cut.index(bytes.len())]);
        prop_assert!(part == Sniffed::More || part == whole);
    }
}
