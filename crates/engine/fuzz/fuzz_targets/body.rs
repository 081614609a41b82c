//! Bodies: nothing panics, no cut changes what is found, and what is found can be encoded and found again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::http1::body::{Decoder, Encoder, What};
use tidegate_engine::http1::framing::Framing;
use tidegate_engine::http1::head::HeadLimits;
use tidegate_engine::http1::refusal::HeadError;
use tidegate_engine::io::Buffer;
use tidegate_engine::message::Fields;

const LIMITS: HeadLimits = HeadLimits { bytes: 128, fields: 4 };
/// Room for the spaces that we write behind colons.
const ROOMY: HeadLimits = HeadLimits { bytes: 256, fields: 4 };

type Decoded = (Vec<u8>, Fields, usize);

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let framing = match kind & 3 {
        0 | 1 => Framing::Chunked,
        2 => Framing::Length(u64::from(kind >> 2)),
        _ => Framing::UntilClose,
    };
    let whole = decode(framing, bytes, usize::MAX, &LIMITS);
    let pieces = decode(framing, bytes, usize::from(kind >> 2).max(1), &LIMITS);
    assert_eq!(whole.is_err(), pieces.is_err());
    let Ok(whole) = whole else { return };
    assert_eq!(Ok(&whole), pieces.as_ref());
    let (data, trailers, _) = &whole;
    let mut encoder = Encoder::new(framing);
    let mut out = Buffer::new();
    for part in data.chunks(7) {
        assert_eq!(encoder.data(part, &mut out), Ok(()));
    }
    assert_eq!(encoder.end(Some(trailers), &mut out), Ok(()));
    assert_eq!(decode(framing, out.chunk(), 3, &ROOMY), Ok((data.clone(), trailers.clone(), out.len())));
});

/// Data, trailers and how far the body reaches, when at most `piece` bytes more are shown at once.
fn decode(framing: Framing, bytes: &[u8], piece: usize, limits: &HeadLimits) -> Result<Decoded, HeadError> {
    let mut decoder = Decoder::new(framing, limits);
    let (mut data, mut trailers, mut at, mut end) = (Vec::new(), Fields::new(), 0, 0);
    loop {
        let step = decoder.decode(&bytes[at..end])?;
        at += step.skip;
        match step.what {
            What::Data(n) => {
                data.extend_from_slice(&bytes[at..at + n]);
                decoder.took(n);
                at += n;
            }
            What::Trailers(fields) => trailers = fields,
            What::More if end == bytes.len() => {
                decoder.finish()?;
                return Ok((data, trailers, at));
            }
            What::More => end = end.saturating_add(piece).min(bytes.len()),
            What::End => return Ok((data, trailers, at)),
        }
    }
}
