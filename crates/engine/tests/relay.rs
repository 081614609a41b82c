//! Raw bytes between two TCP connections: copied where they are few, spliced where they are many, the same to both
//! ends.

use std::time::Duration;

use tidegate_engine::io::Buffer;
use tidegate_engine::proxy::relay::{Ended, Leg, Passed, relay};
use tidegate_engine::timer::Timer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};

const IDLE: Duration = Duration::from_secs(10);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// A relay that runs, and its two ends.
async fn relayed(idle: Duration) -> (TcpStream, TcpStream, JoinHandle<(Passed, Ended)>) {
    let ((one, first), (other, second)) = (pair().await, pair().await);
    let leg = |io| Leg { io: Box::new(io), read: Buffer::new() };
    let (mut first, mut second) = (leg(first), leg(second));
    let running = tokio::task::spawn_local(async move {
        let mut all = Passed::default();
        let count = |passed: Passed| {
            all.forth += passed.forth;
            all.back += passed.back;
        };
        let ended = relay(&mut first, &mut second, idle, &mut Timer::new(), count).await;
        (all, ended)
    });
    (one, other, running)
}

/// Bytes that differ from place to place, `seed` by `seed`.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) ^ (at >> 11) ^ seed) as u8).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

/// Writes all of it and ends; reads until the other side has ended.
async fn exchange(io: TcpStream, says: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = io.into_split();
    let writing = async move {
        write.write_all(&says).await.expect("written");
        write.shutdown().await.expect("ended");
    };
    let mut heard = Vec::new();
    let reading = read.read_to_end(&mut heard);
    let ((), n) = tokio::join!(writing, reading);
    assert_eq!(n.expect("read"), heard.len());
    heard
}

#[test]
fn bulk_arrives_as_it_was_sent_in_both_directions_at_once() {
    run(async {
        let (there, back) = (pattern(24 << 20, 3), pattern((17 << 20) + 5, 5));
        let (one, other, running) = relayed(IDLE).await;
        let (at_one, at_other) = tokio::join!(exchange(one, there.clone()), exchange(other, back.clone()));
        assert!(at_one == back && at_other == there);
        let (passed, ended) = running.await.expect("no panic");
        assert!(matches!(ended, Ended::Clean), "{ended:?}");
        assert_eq!((passed.forth, passed.back), (there.len() as u64, back.len() as u64));
    });
}

#[test]
fn pieces_of_every_size_keep_their_order_when_bulk_comes_and_goes() {
    run(async {
        let (one, other, running) = relayed(IDLE).await;
        let mut says = Vec::new();
        let mut pieces = Vec::new();
        for round in 0..12usize {
            let piece = pattern(if round % 2 == 0 { 100 + round } else { (2 << 20) + round }, round);
            says.extend_from_slice(&piece);
            pieces.push(piece);
        }
        let (mut write, mut heard) = (one, Vec::new());
        let writing = async move {
            for piece in pieces {
                write.write_all(&piece).await.expect("written");
                tokio::task::yield_now().await;
            }
            write.shutdown().await.expect("ended");
            write
        };
        let mut other = other;
        let reading = async {
            other.read_to_end(&mut heard).await.expect("read");
            other.shutdown().await.expect("ended");
        };
        let (_write, ()) = tokio::join!(writing, reading);
        assert!(heard == says);
        assert!(matches!(running.await.expect("no panic").1, Ended::Clean));
    });
}

#[test]
fn a_break_in_the_middle_of_bulk_breaks_the_other_side() {
    run(async {
        let (mut one, mut other, running) = relayed(IDLE).await;
        let writing = tokio::task::spawn_local(async move {
            one.write_all(&pattern(8 << 20, 1)).await.expect("written");
            socket2::SockRef::from(&one).set_linger(Some(Duration::ZERO)).expect("lingering");
        });
        let mut heard = Vec::new();
        assert!(other.read_to_end(&mut heard).await.is_err());
        writing.await.expect("no panic");
        let (_, ended) = running.await.expect("no panic");
        assert!(matches!(ended, Ended::First(_)), "{ended:?}");
    });
}

#[test]
fn a_reader_that_is_stuck_in_the_middle_of_bulk_ends_the_relay_when_it_is_idle() {
    run(async {
        let (mut one, _other, running) = relayed(Duration::from_millis(300)).await;
        let writing = tokio::task::spawn_local(async move { one.write_all(&pattern(64 << 20, 1)).await });
        let (passed, ended) = running.await.expect("no panic");
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        assert!(passed.forth > 0);
        assert!(writing.await.expect("no panic").is_err());
    });
}
