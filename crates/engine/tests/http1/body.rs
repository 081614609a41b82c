//! Bodies on their way in and out (cases 4 and 10 of what a gate must withstand).

use tidegate_engine::http1::body::{Decoder, Encoder, What};
use tidegate_engine::http1::framing::Framing;
use tidegate_engine::http1::refusal::HeadError::{self, Malformed, TooLarge};
use tidegate_engine::io::Buffer;
use tidegate_engine::message::Fields;

use crate::{LIMITS, lines, written};

/// Data, trailers and what was left over.
pub(crate) type Decoded = (Vec<u8>, Vec<String>, Vec<u8>);

/// The body at the start of `input`, where all of it is there.
pub(crate) fn decode(framing: Framing, mut input: &[u8]) -> Result<Decoded, HeadError> {
    let mut decoder = Decoder::new(framing, &LIMITS);
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    loop {
        let step = decoder.decode(input)?;
        input = &input[step.skip..];
        match step.what {
            What::Data(n) => {
                data.extend_from_slice(&input[..n]);
                decoder.took(n);
                input = &input[n..];
            }
            What::Trailers(fields) => trailers = lines(&fields),
            What::More => {
                decoder.finish()?;
                return Ok((data, trailers, input.to_vec()));
            }
            What::End => {
                assert!(decoder.is_done());
                return Ok((data, trailers, input.to_vec()));
            }
        }
    }
}

fn chunked(input: &str) -> Result<String, HeadError> {
    decode(Framing::Chunked, input.as_bytes()).map(|(data, ..)| String::from_utf8_lossy(&data).into_owned())
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    let (data, trailers, rest) =
        decode(Framing::Chunked, b"5\r\nhello\r\n00A;x=\"y\"\r\n, the end.\r\n0\r\nX-Sum: 1\r\n\r\nGET /")
            .expect("good chunks");
    assert_eq!((&data[..], &rest[..]), (&b"hello, the end."[..], &b"GET /"[..]));
    assert_eq!(trailers, ["X-Sum: 1"]);
    assert_eq!(chunked("1 \t;a\r\nx\r\n0\r\n\r\n"), Ok("x".into()));
}

#[test]
fn case_4_chunks_in_any_other_form_are_refused() {
    for bytes in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\nx\r\n",
        "0x1\r\nx\r\n",
        " 1\r\nx\r\n",
        ";a\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\rx",
        "1 1\r\n",
        "1\r\nxy\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx\rz",
        "1\r\nx0\r\n\r\n",
        "1;a\nb\r\nx\r\n",
        "1;a\0\r\n",
        "0\r\n\n",
        "0\r\nA: b\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "10000000000000000\r\n",
        "00000000000000001\r\nx\r\n",
    ] {
        assert!(matches!(chunked(bytes), Err(Malformed(_))), "{bytes:?}: {:?}", chunked(bytes));
    }
    // The largest size there is overflows nothing.
    assert_eq!(chunked("ffffffffffffffff\r\nabc"), Err(Malformed("the body ended early")));
}

#[test]
fn case_4_extensions_and_trailers_are_bounded() {
    let megabyte = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(1 << 20));
    assert!(matches!(chunked(&megabyte), Err(TooLarge(_))));
    let many_small = format!("{}0\r\n\r\n", "1;0123456789\r\nx\r\n".repeat(10_000));
    assert!(matches!(chunked(&many_small), Err(TooLarge(_))));
    let padded = format!("1{}\r\nx\r\n0\r\n\r\n", " ".repeat(1 << 20));
    assert!(matches!(chunked(&padded), Err(TooLarge(_))));
    assert!(matches!(chunked(&format!("0\r\nA: {}", "x".repeat(LIMITS.bytes))), Err(TooLarge(_))));
    assert!(matches!(chunked(&format!("0\r\n{}\r\n", "a:\r\n".repeat(LIMITS.fields + 1))), Err(TooLarge(_))));
}

#[test]
fn case_37_trailers_cannot_say_what_belongs_into_a_head() {
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Connection",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "X-Tidegate-Error",
        "x_tidegate_endpoint",
        "X-Piko-Endpoint",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "Forwarded",
        "TE",
        "Trailer",
        "Expect",
        "Range",
        "Cache-Control",
        "Upgrade",
        "Proxy-Authorization",
        "X-Real-IP",
    ] {
        let bytes = format!("0\r\n{name}: x\r\nX-Checksum: y\r\n\r\n");
        let (_, trailers, _) = decode(Framing::Chunked, bytes.as_bytes()).expect(name);
        assert_eq!(trailers, ["X-Checksum: y"], "{name}");
    }
}

#[test]
fn case_10_a_body_that_ends_early_is_no_body() {
    for (framing, bytes) in [
        (Framing::Length(5), "four"),
        (Framing::Length(5), ""),
        (Framing::Chunked, ""),
        (Framing::Chunked, "5\r\nfour"),
        (Framing::Chunked, "5\r\nhello\r\n"),
        (Framing::Chunked, "5\r\nhello\r\n0\r\n"),
        (Framing::Chunked, "0\r\nA: b\r\n"),
    ] {
        assert_eq!(decode(framing, bytes.as_bytes()), Err(Malformed("the body ended early")), "{framing:?} {bytes:?}");
    }
    assert_eq!(decode(Framing::UntilClose, b"any").map(|(data, ..)| data), Ok(b"any".to_vec()));
    assert_eq!(
        decode(Framing::Length(2), b"anyway").map(|(data, _, rest)| (data, rest)),
        Ok((b"an".to_vec(), b"yway".to_vec()))
    );
}

#[test]
fn case_10_what_goes_out_is_what_was_promised() {
    let mut out = Buffer::new();
    let mut encoder = Encoder::new(Framing::Length(3));
    assert_eq!(encoder.data(b"ab", &mut out), Ok(()));
    assert!(encoder.end(None, &mut out).is_err());
    assert!(encoder.data(b"cd", &mut out).is_err());
    assert_eq!(encoder.data(b"c", &mut out), Ok(()));
    assert!(encoder.is_done());
    assert_eq!(encoder.end(None, &mut out), Ok(()));
    assert!(encoder.data(b"d", &mut out).is_err());
    assert_eq!(out.chunk(), b"abc");
    assert!(Encoder::new(Framing::None).data(b"d", &mut out).is_err());
}

#[test]
fn nothing_follows_the_last_chunk() {
    let mut trailers = Fields::new();
    trailers.push(b"X-Sum", b"1");
    let bytes = written(|out| {
        let mut encoder = Encoder::new(Framing::Chunked);
        for part in [&b"hello"[..], b"", &[b'x'; 31]] {
            assert_eq!(encoder.data(part, out), Ok(()));
        }
        assert!(!encoder.is_done());
        assert_eq!(encoder.end(Some(&trailers), out), Ok(()));
        assert!(encoder.is_done());
        assert_eq!(encoder.end(None, out), Ok(()));
        assert!(encoder.data(b"x", out).is_err());
    });
    assert_eq!(bytes, [b"5\r\nhello\r\n1f\r\n", &[b'x'; 31][..], b"\r\n0\r\nX-Sum: 1\r\n\r\n"].concat());
}
