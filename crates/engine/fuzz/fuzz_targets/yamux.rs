//! Any bytes of a peer, cut anywhere, with streams of our own on the session: no panic, bounded memory, and the same
//! verdict wherever the bytes are cut.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tidegate_engine::tunnel::mux::Mux;
use tidegate_engine::tunnel::{End, Role};

fn feed(bytes: &[u8], cut: usize) -> Option<End> {
    let now = Instant::now();
    let mut mux = Mux::new(Role::Server, 0);
    let ours = mux.open().ok()?;
    let _ = mux.write(ours, &[7; 1000]);
    mux.transmit(now);
    for part in bytes.chunks(cut) {
        if let Err(end) = mux.receive(part, now) {
            mux.end(end.clone(), Some(1));
            mux.transmit(now);
            return Some(end);
        }
        assert!(mux.memory() <= 1 << 20);
    }
    while let Some(id) = mux.accept() {
        let _ = mux.read(id, &mut [0; 100]);
        let _ = mux.write(id, b"answer");
        let _ = mux.finish(id);
        mux.drop_stream(id, false);
    }
    let _ = mux.read(ours, &mut [0; 100]);
    mux.drop_stream(ours, false);
    while mux.has_work() {
        mux.transmit(now);
    }
    assert_eq!((mux.streams(), mux.stats().unread), (0, 0));
    None
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    assert_eq!(feed(bytes, usize::from(*cut) + 1), feed(bytes, usize::MAX));
});
