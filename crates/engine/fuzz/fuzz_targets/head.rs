//! Heads: nothing panics, no cut changes the verdict, and what is accepted can be written and read again.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use tidegate_engine::forwarded::Visitor;
use tidegate_engine::headers::{Forwarding, Hop, Return, to_downstream, to_upstream};
use tidegate_engine::http1::framing::{Framing, request_framing, response_framing};
use tidegate_engine::http1::head::{HeadLimits, parse_request, parse_response, write_request, write_response};
use tidegate_engine::io::Buffer;
use tidegate_engine::message::{RequestHead, ResponseHead, Version};
use tidegate_engine::route::endpoint_of;
use tidegate_engine::snapshot::HostHeader;

const LIMITS: HeadLimits = HeadLimits { bytes: 512, fields: 16 };
/// Room for what we add.
const ROOMY: HeadLimits = HeadLimits { bytes: 4096, fields: 32 };

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut).min(bytes.len());
    request(bytes, cut);
    response(bytes, cut);
});

fn request(bytes: &[u8], cut: usize) {
    let mut head = RequestHead::new();
    let whole = parse_request(bytes, &mut 0, &mut head, &LIMITS);
    let (mut pieces, mut scanned) = (RequestHead::new(), 0);
    let mut cut_up = parse_request(&bytes[..cut], &mut scanned, &mut pieces, &LIMITS);
    if cut_up == Ok(None) {
        cut_up = parse_request(bytes, &mut scanned, &mut pieces, &LIMITS);
    }
    assert_eq!(whole.is_err(), cut_up.is_err());
    let Ok(Some(n)) = whole else { return };
    assert_eq!((cut_up, &pieces), (Ok(Some(n)), &head));
    let (Ok(framing), _) = (request_framing(&head), endpoint_of(&head).is_ok()) else { return };
    let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    let visitor = Visitor::of(&head.fields, peer, "http", &["127.0.0.0/8".parse().expect("a network")]);
    let forwarding = Forwarding::Rebuild(&visitor);
    to_upstream(&mut head, &Hop { forwarding, host: &HostHeader::Keep, authority: "a.b", framing });
    let mut out = Buffer::new();
    write_request(&head, &mut out);
    let mut again = RequestHead::new();
    assert_eq!(parse_request(out.chunk(), &mut 0, &mut again, &ROOMY), Ok(Some(out.len())));
    assert_eq!((again.method(), again.target(), &again.fields), (head.method(), head.target(), &head.fields));
    assert_eq!(request_framing(&again), Ok(framing));
}

fn response(bytes: &[u8], cut: usize) {
    let mut head = ResponseHead::new();
    let whole = parse_response(bytes, &mut 0, &mut head, &LIMITS);
    let (mut pieces, mut scanned) = (ResponseHead::new(), 0);
    let mut cut_up = parse_response(&bytes[..cut], &mut scanned, &mut pieces, &LIMITS);
    if cut_up == Ok(None) {
        cut_up = parse_response(bytes, &mut scanned, &mut pieces, &LIMITS);
    }
    assert_eq!(whole.is_err(), cut_up.is_err());
    let Ok(Some(n)) = whole else { return };
    assert_eq!((cut_up, &pieces), (Ok(Some(n)), &head));
    let Ok(framing) = response_framing(&head, b"GET") else { return };
    let framing = framing.towards(Version::Http11);
    to_downstream(&mut head, &Return { version: Version::Http11, keep_alive: false, framing });
    let mut out = Buffer::new();
    write_response(&head, &mut out);
    let mut again = ResponseHead::new();
    assert_eq!(parse_response(out.chunk(), &mut 0, &mut again, &ROOMY), Ok(Some(out.len())));
    assert_eq!((again.status, &again.fields), (head.status, &head.fields));
    assert_eq!(response_framing(&again, b"GET"), Ok(framing));
    assert_ne!(framing, Framing::UntilClose);
}
