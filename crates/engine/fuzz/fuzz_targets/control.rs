//! Any bytes on the first stream of a session over QUIC, cut anywhere: no panic, and the same frames and verdict
//! wherever they are cut.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tidegate_engine::tunnel::quic::control::{Decoder, Frame};

fn decode(bytes: &[u8], cut: usize) -> (Vec<Frame>, Option<&'static str>) {
    let now = Instant::now();
    let mut decoder = Decoder::new(now);
    let mut frames = Vec::new();
    for part in bytes.chunks(cut) {
        decoder.push(part);
        loop {
            match decoder.next(now) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(reason) => return (frames, Some(reason)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, usize::from(*cut) + 1), whole);
    // What we understood is what we would have said.
    let mut said = Vec::new();
    whole.0.iter().for_each(|frame| frame.encode(&mut said));
    assert_eq!(decode(&said, 1), (whole.0, None));
});
