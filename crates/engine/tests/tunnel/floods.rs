//! Peers that break the rules or drown the other side: the session ends, says why, and holds no memory for them.

use std::time::Duration;

use tidegate_engine::io::Buffer;
use tidegate_engine::tunnel::frame::{ACK, Header, Kind, SYN};
use tidegate_engine::tunnel::{Config, End, Framing, Role, Session, memory, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// The most that a session may hold for a peer that floods it without sending data.
const LITTLE: usize = 256 * 1024;

/// A gateway's session, and the bare hands of its peer.
fn bare(framing: Framing) -> (Session, ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) {
    let (peer, gateway) = tokio::io::duplex(64 * 1024);
    let (session, driver) = start(Box::new(gateway), Buffer::new(), memory::config(Role::Server, framing));
    tokio::spawn(driver);
    let (read, write) = tokio::io::split(peer);
    (session, read, write)
}

fn frame(kind: Kind, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header { kind, flags, stream, length }.encode().to_vec()
}

/// Sends `bytes` to a session until it has ended, and says why it has.
async fn end_after(bytes: Vec<u8>) -> End {
    let (session, mut read, mut write) = bare(Framing::Raw);
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        let _ = read.read_to_end(&mut got).await;
        got
    });
    // The session may be gone before all is sent.
    let _ = write.write_all(&bytes).await;
    let end = session.ended().await;
    assert!(session.memory() <= LITTLE, "{} bytes held", session.memory());
    drop(write);
    let got = reading.await.expect("reading");
    if matches!(end, End::Protocol(_)) {
        assert!(got.ends_with(&frame(Kind::GoAway, 0, 0, 1)), "the peer was not told");
    }
    end
}

fn protocol(reason: &'static str) -> End {
    End::Protocol(reason.into())
}

#[tokio::test]
async fn a_flood_of_streams_ends_the_session() {
    let syns: Vec<u8> = (0..100_000).flat_map(|n| frame(Kind::WindowUpdate, SYN, n * 2 + 1, 0)).collect();
    assert_eq!(end_after(syns).await, protocol("a flood of new streams"));
}

#[tokio::test]
async fn a_slow_flood_of_streams_ends_the_session_too() {
    let (session, mut read, mut write) = bare(Framing::Raw);
    tokio::spawn(async move { while read.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    let mut opened = 0;
    while session.end_reason().is_none() {
        let syns: Vec<u8> = (opened..opened + 50).flat_map(|n| frame(Kind::WindowUpdate, SYN, n * 2 + 1, 0)).collect();
        opened += 50;
        let _ = write.write_all(&syns).await;
        tokio::task::yield_now().await;
        assert!(session.streams() <= 256 && session.memory() <= LITTLE);
        assert!(opened <= 100_000);
    }
    assert_eq!(session.end_reason(), Some(protocol("a flood of new streams")));
}

#[tokio::test]
async fn frames_that_no_yamux_sends_end_the_session() {
    let open = frame(Kind::WindowUpdate, SYN, 1, 0);
    let mut version = open.clone();
    version[0] = 7;
    let beyond = [open.clone(), frame(Kind::Data, 0, 1, 256 * 1024 + 1)].concat();
    let giant = [open.clone(), frame(Kind::Data, 0, 1, u32::MAX)].concat();
    let window = [open, frame(Kind::WindowUpdate, 0, 1, u32::MAX)].concat();
    let eager = [frame(Kind::Data, SYN, 1, 300_000), vec![0; 300_000]].concat();
    assert_eq!(end_after(version).await, protocol("wrong yamux version"));
    assert_eq!(end_after(frame(Kind::Data, 0, 99, 1)).await, protocol("a frame for a stream never opened"));
    assert_eq!(end_after(beyond).await, protocol("data beyond the window"));
    assert_eq!(end_after(giant).await, protocol("data beyond the window"));
    assert_eq!(end_after(window).await, protocol("a window beyond 4 GiB"));
    assert_eq!(end_after(eager).await, protocol("data beyond the window"));
    assert_eq!(end_after(frame(Kind::GoAway, 0, 0, 2)).await, End::GoAway(2));
}

#[tokio::test]
async fn what_no_websocket_sends_ends_the_session_with_a_close_frame() {
    for bytes in [&[0x82u8, 1, 0][..], &[0x81, 0x80, 0, 0, 0, 0], &[0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]]
    {
        let (session, mut read, mut write) = bare(Framing::WebSocketServer);
        write.write_all(bytes).await.expect("write");
        assert!(matches!(session.ended().await, End::Protocol(_)));
        let mut close = [0; 4];
        read.read_exact(&mut close).await.expect("read");
        assert_eq!(close, [0x88, 2, 3, 0xEA]);
    }
}

#[tokio::test(start_paused = true)]
async fn pings_of_a_peer_that_does_not_read_cost_nothing_and_end() {
    for framing in [Framing::Raw, Framing::WebSocketServer] {
        let (session, read, mut write) = bare(framing);
        let ping = match framing {
            Framing::Raw => frame(Kind::Ping, SYN, 0, 7),
            _ => vec![0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4],
        };
        let pings = ping.repeat(1000);
        while session.end_reason().is_none() {
            if write.write_all(&pings).await.is_err() {
                break;
            }
            assert!(session.memory() <= LITTLE);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(session.ended().await, End::Stalled);
        drop(read);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_given_up() {
    let (session, mut read, _write) = bare(Framing::Raw);
    let begun = tokio::time::Instant::now();
    assert_eq!(session.ended().await, End::PingTimeout);
    assert_eq!(begun.elapsed().as_secs(), 40);
    let mut ping = [0; 12];
    read.read_exact(&mut ping).await.expect("read");
    assert_eq!(ping.to_vec(), frame(Kind::Ping, SYN, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_kept() {
    let (session, mut read, mut write) = bare(Framing::Raw);
    for number in 0..10 {
        let mut ping = [0; 12];
        read.read_exact(&mut ping).await.expect("read");
        assert_eq!(ping.to_vec(), frame(Kind::Ping, SYN, 0, number));
        write.write_all(&frame(Kind::Ping, ACK, 0, number)).await.expect("write");
    }
    assert!(session.is_open() && session.stats().rtt.is_some());
}

#[tokio::test]
async fn unread_bytes_are_bounded_and_the_fattest_stream_pays() {
    let (session, mut read, mut write) = bare(Framing::Raw);
    tokio::spawn(async move { while read.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    let body = vec![0; 256 * 1024];
    for number in 0..400u32 {
        write.write_all(&frame(Kind::Data, SYN, number * 2 + 1, body.len() as u32)).await.expect("write");
        write.write_all(&body).await.expect("write");
        assert!(session.stats().unread <= 65 * 1024 * 1024);
    }
    while session.stats().overruns + session.stats().refused < 400 - 256 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(session.end_reason().is_none());
}

#[tokio::test]
async fn a_driver_that_is_dropped_ends_its_session() {
    let (peer, gateway) = tokio::io::duplex(1000);
    let config = Config { ping_interval: Duration::from_secs(1), ..memory::config(Role::Server, Framing::Raw) };
    let (session, driver) = start(Box::new(gateway), Buffer::new(), config);
    let mut stream = session.open().expect("open");
    drop(driver);
    assert_eq!(session.ended().await, End::Reset);
    assert!(session.accept().await.is_none());
    // Its SYN never left: another session may be tried.
    let error = stream.read(&mut [0]).await.expect_err("ended");
    assert!(tidegate_engine::tunnel::never_accepted(&error));
    drop(peer);
}
