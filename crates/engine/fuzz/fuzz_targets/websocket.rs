//! Any bytes of a peer in either role, cut anywhere: no panic, and the same payload and verdict wherever they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::tunnel::websocket::{Decoder, Event, Side};

type Outcome = (Vec<u8>, Vec<Event>, Option<&'static str>);

fn decode(side: Side, bytes: &[u8], cut: usize) -> Outcome {
    let mut decoder = Decoder::new(side);
    let (mut payload, mut others) = (Vec::new(), Vec::new());
    for part in bytes.chunks(cut) {
        let mut part = part.to_vec();
        let mut rest = &mut part[..];
        while !rest.is_empty() {
            match decoder.next(rest) {
                Ok((used, event)) => {
                    match event {
                        Some(Event::Data(range)) => payload.extend_from_slice(&rest[range]),
                        other => others.extend(other),
                    }
                    rest = &mut rest[used..];
                }
                Err(reason) => return (payload, others, Some(reason)),
            }
        }
    }
    (payload, others, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    for side in [Side::Client, Side::Server] {
        assert_eq!(decode(side, bytes, usize::from(*cut) + 1), decode(side, bytes, usize::MAX));
    }
});
