//! Any bytes as the first message on the first stream of a tunnel, and as its answer: no panic, nothing is let in that
//! is no upgrade, and what was told can be told on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::http1::head::{HeadLimits, parse_request, parse_response};
use tidegate_engine::message::{Known, RequestHead, ResponseHead, Version};
use tidegate_engine::tunnel::hello::{Features, Offers, Told, Upgrade, Welcome};
use tidegate_engine::tunnel::hello::{accept_tunnel, not_quic, quic_upgrade, told};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 32 };

fuzz_target!(|input: &[u8]| {
    asked(input);
    answered(input);
});

fn asked(bytes: &[u8]) {
    let mut head = RequestHead::new();
    let Ok(Some(_)) = parse_request(bytes, &mut 0, &mut head, &LIMITS) else { return };
    for offers in [Offers::No, Offers::SamePort] {
        if let Some(reason) = not_quic(&head.fields, &offers) {
            let shown = reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            assert!(shown && (1..=200).contains(&reason.len()));
        }
    }
    let features = Features::of(&head.fields);
    assert!(head.fields.find("x-tidegate-features").is_some() || features == Features::default());
    if quic_upgrade(&head).is_ok() {
        assert_eq!((head.method(), head.version), (&b"GET"[..], Version::Http11));
        assert!(head.fields.all(Known::Upgrade).next().is_some());
    }
}

fn answered(bytes: &[u8]) {
    let Some(first) = read(bytes) else { return };
    // What cannot stand in a field cannot have come in one.
    let (node, url) = (first.node.clone(), first.url.clone());
    let welcome = Welcome { node: &node, version: "1", url: Some(&url), quic: &first.quic };
    let Some(again) = read(&accept_tunnel(None, &welcome)) else { unreachable!("our own answer is one") };
    for (told, first) in [(&again.node, &node), (&again.url, &url)] {
        // What is no UTF-8 grows when it is read; the longest are cut.
        assert!(first.len() > 1024 || told.trim() == first.trim());
    }
    if !matches!(&first.quic, Offers::At(at) if at.trim().is_empty()) {
        assert_eq!(again.quic, first.quic);
    }
}

fn read(bytes: &[u8]) -> Option<Told> {
    let mut head = ResponseHead::new();
    parse_response(bytes, &mut 0, &mut head, &HeadLimits { bytes: 16 * 1024, ..LIMITS }).ok()??;
    told(&head, &Upgrade::Session).ok()
}
