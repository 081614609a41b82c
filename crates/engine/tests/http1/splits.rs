//! No cut changes what is said: heads and bodies in pieces are what they are whole; encoding and decoding are inverse.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tidegate_engine::http1::body::{Decoder, Encoder, What};
use tidegate_engine::http1::framing::Framing;
use tidegate_engine::http1::head::{HeadLimits, parse_request, parse_response};
use tidegate_engine::http1::refusal::HeadError;
use tidegate_engine::message::{Fields, RequestHead, ResponseHead};

use crate::body::{Decoded, decode};
use crate::{lines, pairs, written};

const TIGHT: HeadLimits = HeadLimits { bytes: 160, fields: 5 };

/// Text that is nearly HTTP, right often enough.
pub(crate) fn nearly(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![9 => select(pieces).prop_map(|piece| piece.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..4)],
        0..12,
    )
    .prop_map(|pieces| pieces.concat())
}

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a.b\r\n",
    "POST http://a.b/x?y HTTP/1.1\r\nHost: a.b\r\n",
    "GET / HTTP/1.0\r\n",
    "\r\n",
    "\r\n",
    "\r",
    "\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "A:",
    " b",
    "\r\n c\r\n",
    "\0",
    "Connection: close, x\r\n",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 404\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "\r\n",
    "\r\n",
    "\r",
    "\n",
    "Content-Length: 3\r\n",
    "A:",
    " b",
    "\0",
];

const CHUNKS: &[&str] = &[
    "3\r\nabc\r\n",
    "1;x=y\r\nz\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "\r\n",
    "\r",
    "\n",
    "A: b\r\n",
    "Host: a\r\n",
    "5\r\n",
    "hello",
    "ffff",
    " ",
    ";",
];

/// How far the next piece reaches.
fn next(cuts: &[usize], round: usize, from: usize, length: usize) -> usize {
    (from + cuts.get(round % cuts.len().max(1)).copied().unwrap_or(1)).min(length)
}

fn in_pieces<T>(
    bytes: &[u8],
    cuts: &[usize],
    mut parse: impl FnMut(&[u8], &mut usize) -> Result<Option<T>, HeadError>,
) -> Result<Option<T>, HeadError> {
    let (mut scanned, mut end) = (0, 0);
    for round in 0.. {
        end = next(cuts, round, end, bytes.len());
        if let Some(outcome) = parse(&bytes[..end], &mut scanned)? {
            return Ok(Some(outcome));
        }
        if end == bytes.len() {
            return Ok(None);
        }
    }
    Ok(None)
}

fn verdict<T>(outcome: Result<T, HeadError>) -> Result<T, bool> {
    outcome.map_err(|error| matches!(error, HeadError::TooLarge(_)))
}

fn body_in_pieces(framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<Decoded, HeadError> {
    let mut decoder = Decoder::new(framing, &crate::LIMITS);
    let (mut data, mut trailers, mut at, mut end, mut round) = (Vec::new(), Vec::new(), 0, 0, 0);
    loop {
        let step = decoder.decode(&bytes[at..end])?;
        at += step.skip;
        round += 1;
        match step.what {
            What::Data(n) => {
                let n = (cuts.get(round % cuts.len().max(1)).copied().unwrap_or(1)).min(n);
                data.extend_from_slice(&bytes[at..at + n]);
                decoder.took(n);
                at += n;
            }
            What::Trailers(fields) => trailers = lines(&fields),
            What::More if end == bytes.len() => {
                decoder.finish()?;
                return Ok((data, trailers, bytes[at..].to_vec()));
            }
            What::More => end = next(cuts, round, end, bytes.len()),
            What::End => return Ok((data, trailers, bytes[at..].to_vec())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_the_same_however_it_was_cut(bytes in nearly(REQUESTS), cuts in vec(1usize..9, 1..6)) {
        let parse = |input: &[u8], scanned: &mut usize| {
            let mut head = RequestHead::new();
            Ok(parse_request(input, scanned, &mut head, &TIGHT)?.map(|n| (n, head)))
        };
        prop_assert_eq!(verdict(in_pieces(&bytes, &cuts, parse)), verdict(parse(&bytes, &mut 0)));
    }

    #[test]
    fn a_response_is_the_same_however_it_was_cut(bytes in nearly(RESPONSES), cuts in vec(1usize..9, 1..6)) {
        let parse = |input: &[u8], scanned: &mut usize| {
            let mut head = ResponseHead::new();
            Ok(parse_response(input, scanned, &mut head, &TIGHT)?.map(|n| (n, head)))
        };
        prop_assert_eq!(verdict(in_pieces(&bytes, &cuts, parse)), verdict(parse(&bytes, &mut 0)));
    }

    #[test]
    fn a_body_is_the_same_however_it_was_cut(
        bytes in nearly(CHUNKS), cuts in vec(1usize..9, 1..6), length in 0u64..20,
    ) {
        for framing in [Framing::Chunked, Framing::Length(length), Framing::None] {
            prop_assert_eq!(verdict(body_in_pieces(framing, &bytes, &cuts)), verdict(decode(framing, &bytes)));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same(
        parts in vec(vec(any::<u8>(), 0..300), 0..8), cuts in vec(1usize..99, 1..6), sum in "[a-z]{0,9}",
    ) {
        let body = parts.concat();
        let mut fields = Fields::new();
        fields.push(b"X-Sum", sum.as_bytes());
        for framing in [Framing::Chunked, Framing::Length(body.len() as u64), Framing::UntilClose] {
            let mut encoder = Encoder::new(framing);
            let bytes = written(|out| {
                for part in &parts {
                    assert_eq!(encoder.data(part, out), Ok(()));
                }
                assert_eq!(encoder.end(Some(&fields), out), Ok(()));
            });
            let (data, trailers, rest) = body_in_pieces(framing, &bytes, &cuts).expect("what we wrote ourselves");
            prop_assert_eq!(&data, &body);
            prop_assert!(rest.is_empty());
            prop_assert_eq!(trailers, if framing == Framing::Chunked { lines(&fields) } else { Vec::new() });
        }
    }

    #[test]
    fn a_request_that_is_written_is_parsed_to_the_same(bytes in nearly(REQUESTS)) {
        let mut head = RequestHead::new();
        if let Ok(Some(_)) = parse_request(&bytes, &mut 0, &mut head, &crate::LIMITS) {
            let again = written(|out| tidegate_engine::http1::head::write_request(&head, out));
            let mut other = RequestHead::new();
            // A request of HTTP/1.0 may lack the Host that one of ours needs; `headers::to_upstream` adds it.
            if head.fields.count(tidegate_engine::message::Known::Host) == 1 {
                prop_assert_eq!(parse_request(&again, &mut 0, &mut other, &crate::LIMITS), Ok(Some(again.len())));
                prop_assert_eq!(pairs(&other.fields), pairs(&head.fields));
                prop_assert_eq!((other.method(), other.target()), (head.method(), head.target()));
            }
        }
    }
}
