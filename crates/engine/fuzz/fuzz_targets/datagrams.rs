//! Any datagrams of a peer, among streams that come and go: nothing panics, every flow gets its own in order, and what
//! waits is bounded.
#![no_main]

use std::task::Waker;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tidegate_engine::tunnel::quic::demux::{Demux, EARLY_BYTES, PATIENCE, Taken, WAITING_BYTES, datagram};

/// Flows that the steps may name.
const FLOWS: u64 = 8;

fuzz_target!(|input: &[u8]| {
    let Some((side, mut rest)) = input.split_first() else { return };
    let client = side & 1 == 1;
    let mut demux = Demux::new(client);
    let mut now = Instant::now();
    while let Some((step, left)) = rest.split_first() {
        let id = 4 * u64::from(step >> 3 & 7) + u64::from(client);
        rest = left;
        match step & 7 {
            0 => demux.comes(id),
            1 => demux.begin(id, now),
            2 => demux.end(id),
            3 => drop(demux.next(id, Waker::noop())),
            4 => now += PATIENCE / 2,
            5 => {
                let length = usize::from(rest.first().copied().unwrap_or_default()) * 16;
                demux.missed(id);
                let taken = demux.take(&datagram(id, &vec![*step; length]), now);
                assert_eq!(demux.missed(id) > 0, taken == Taken::Displacing);
            }
            _ => {
                let (bytes, left) = rest.split_at(rest.len().min(usize::from(step >> 3)));
                rest = left;
                demux.take(bytes, now);
            }
        }
        assert!(demux.held() <= EARLY_BYTES + FLOWS as usize * WAITING_BYTES);
    }
    // Whatever has come before: a stream that comes is a flow, with what is sent on it.
    let last = 4 * FLOWS + u64::from(client);
    demux.comes(last);
    demux.begin(last, now + Duration::from_secs(60));
    assert_eq!(demux.take(&datagram(last, b"last"), now), Taken::Queued);
    assert_eq!(demux.next(last, Waker::noop()).as_deref(), Some(&b"last"[..]));
});
