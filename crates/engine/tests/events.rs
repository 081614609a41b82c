//! Events, in a process of their own: what `tracing` remembers of them is the whole process's.

use std::sync::mpsc;

use tidegate_engine::event::{Events, subscribe};
use tracing::info;

#[test]
fn a_thread_that_says_nothing_takes_no_event_from_the_one_that_does() {
    let events = Events::new().expect("an eventfd");
    let ((ready, is_ready), (go, may_go)) = (mpsc::sync_channel(1), mpsc::sync_channel::<()>(1));
    let worker = std::thread::spawn({
        let events = events.clone();
        move || {
            let _subscribed = subscribe(&events);
            for _ in 0..2 {
                info!(target: "tidegate_engine::test", "connected");
                ready.send(()).expect("somebody waits");
                may_go.recv().expect("somebody says so");
            }
        }
    });
    is_ready.recv().expect("a worker");
    events.set_level(3);
    go.send(()).expect("a worker");
    is_ready.recv().expect("a worker");
    go.send(()).expect("a worker");
    worker.join().expect("no panic");
    assert_eq!(events.take().len(), 2);
}
