//! The behaviours themselves.

#![allow(clippy::disallowed_methods, reason = "an echo in a test may be slow")]

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::io::BoxedIo;
use tidegate_engine::tunnel::{End, Ending, OpenError, Session, never_accepted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::{Carrier, pair};

/// A stream's two ends: the gateway opened it.
async fn streams(agent: &Session, gateway: &Session) -> (BoxedIo, BoxedIo) {
    let opened = gateway.open().expect("open");
    let accepted = agent.accept().await.expect("accept");
    (opened, accepted)
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let done = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), done).await.unwrap_or_else(|_| panic!("still waiting until {what}"));
}

pub(crate) fn echo(session: Session) {
    tokio::spawn(async move {
        while let Some(stream) = session.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.shutdown().await;
                }
            });
        }
    });
}

pub(crate) fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 * 2 + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

pub(crate) async fn a_stream_carries_bytes_both_ways(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let (mut here, mut there) = streams(&agent, &gateway).await;
    here.write_all(b"question").await.expect("write");
    let mut got = [0; 8];
    there.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"question");
    there.write_all(b"answer").await.expect("write");
    here.read_exact(&mut got[..6]).await.expect("read");
    assert_eq!(&got[..6], b"answer");
    assert_eq!((agent.streams(), gateway.streams()), (1, 1));

    // The agent may open one, too.
    let mut opened = agent.open().expect("open");
    opened.write_all(b"hello").await.expect("write");
    gateway.accept().await.expect("accept").read_exact(&mut got[..5]).await.expect("read");
    assert_eq!(&got[..5], b"hello");
}

pub(crate) async fn the_side_that_accepts_may_speak_first(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let (mut here, mut there) = streams(&agent, &gateway).await;
    there.write_all(b"220 ready").await.expect("write");
    let mut got = [0; 9];
    here.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"220 ready");
}

pub(crate) async fn a_direction_ends_alone(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let (mut here, mut there) = streams(&agent, &gateway).await;
    let sent = bytes(1, 300_000);
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.expect("read");
        there.write_all(b"still here").await.expect("write");
        there.shutdown().await.expect("shutdown");
        got
    });
    here.write_all(&sent).await.expect("write");
    here.shutdown().await.expect("shutdown");
    assert_eq!(here.write(b"x").await.expect_err("written after shutdown").kind(), ErrorKind::BrokenPipe);
    let mut got = Vec::new();
    here.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"still here");
    assert!(reader.await.expect("reader") == sent);
    until("the stream is gone", || agent.streams() + gateway.streams() == 0).await;
    assert_eq!(gateway.stats().resets_out + agent.stats().resets_out, 0);
}

pub(crate) async fn a_dropped_stream_is_a_reset_on_the_other_side(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    for agent_drops in [true, false] {
        let (here, there) = streams(&agent, &gateway).await;
        let (dropped, mut left) = if agent_drops { (there, here) } else { (here, there) };
        drop(dropped);
        let error = left.read(&mut [0]).await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(!never_accepted(&error));
        let error = left.write(b"x").await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    // One direction ended, then dropped: what was sent arrives, its end too, and writing back fails.
    let (mut here, mut there) = streams(&agent, &gateway).await;
    here.write_all(b"last words").await.expect("write");
    here.shutdown().await.expect("shutdown");
    drop(here);
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"last words");
    let refused = async {
        loop {
            match there.write(b"x").await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(20), refused).await.expect("in time").kind(), ErrorKind::ConnectionReset);
    drop(there);
    until("the stream is gone", || agent.streams() + gateway.streams() == 0).await;
}

pub(crate) async fn a_stream_refused_is_known_to_be_undelivered(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    // Nobody takes the agent's streams: the first 256 wait, the next is refused.
    let mut waiting = Vec::new();
    for _ in 0..256 {
        waiting.push(gateway.open().expect("open"));
    }
    assert_eq!(gateway.open().err(), Some(OpenError::Unanswered));
    for stream in &mut waiting {
        poll_fn(|cx| stream.poll_taken(cx)).await.expect("taken");
    }
    let mut refused = gateway.open_when_answered().await.expect("the peer has answered the others");
    refused.write_all(b"nobody reads this").await.expect("write");
    let error = refused.read(&mut [0]).await.expect_err("refused");
    assert!(never_accepted(&error), "{error}");
    assert_eq!((agent.stats().refused, agent.streams()), (1, 256));
}

pub(crate) async fn a_stream_is_known_to_be_taken(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let mut stream = gateway.open().expect("open");
    poll_fn(|cx| stream.poll_taken(cx)).await.expect("taken");
    agent.go_away();
    let mut refused = gateway.open().expect("the GoAway has not come yet");
    let outcome = poll_fn(|cx| refused.poll_taken(cx)).await;
    assert!(outcome.is_err_and(|error| never_accepted(&error)));
}

pub(crate) async fn five_hundred_streams_at_once(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    echo(agent.clone());
    let mut tasks = Vec::new();
    for number in 0..500 {
        let gateway = gateway.clone();
        tasks.push(tokio::spawn(async move {
            let stream = gateway.open_when_answered().await.expect("open");
            let sent = bytes(number, 1000 + number * 100);
            let (mut read, mut write) = tokio::io::split(stream);
            let (wrote, got) = tokio::join!(
                async {
                    write.write_all(&sent).await?;
                    write.shutdown().await
                },
                async {
                    let mut got = Vec::new();
                    read.read_to_end(&mut got).await.map(|_| got)
                }
            );
            wrote.expect("write");
            assert!(got.expect("read") == sent);
        }));
    }
    for task in tasks {
        task.await.expect("task");
    }
    until("all streams are gone", || agent.streams() + gateway.streams() == 0).await;
}

pub(crate) async fn a_stuck_stream_holds_up_nobody(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let (mut stuck, kept) = streams(&agent, &gateway).await;
    // Its reader never reads: writing stops after what window and outbox hold.
    let mut stuffed = 0;
    while let Ok(n) = timeout(Duration::from_millis(200), stuck.write(&[7; 65536])).await {
        stuffed += n.expect("write");
        assert!(stuffed <= 2 * carrier.window());
    }
    assert!(stuffed >= carrier.window());

    echo(agent.clone());
    for number in 0..20 {
        let mut stream = gateway.open().expect("open");
        let sent = bytes(number, 50_000);
        stream.write_all(&sent).await.expect("write");
        stream.shutdown().await.expect("shutdown");
        let mut got = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await.expect("in time").expect("read");
        assert!(got == sent);
    }
    drop(kept);
}

pub(crate) async fn bulk_arrives_whole_both_ways(carrier: Carrier) {
    const PARTS: usize = 64 * 1024 * 1024 / 65536;
    let (agent, gateway) = pair(carrier).await;
    let (here, there) = streams(&agent, &gateway).await;
    let blocks: Arc<Vec<Vec<u8>>> = Arc::new((0..17).map(|seed| bytes(seed, 65536)).collect());
    let side = |stream: BoxedIo, seed: usize, other: usize| {
        let blocks = blocks.clone();
        async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let writer = async {
                for part in 0..PARTS {
                    write.write_all(&blocks[(seed + part) % 17]).await.expect("write");
                }
                write.shutdown().await.expect("shutdown");
            };
            let reader = async {
                let mut got = vec![0; 65536];
                for part in 0..PARTS {
                    read.read_exact(&mut got).await.expect("read");
                    assert!(got == blocks[(other + part) % 17], "part {part} differs");
                }
                assert_eq!(read.read(&mut got).await.expect("end"), 0);
            };
            tokio::join!(writer, reader);
        }
    };
    tokio::join!(side(here, 1, 9), side(there, 9, 1));
    until("the stream is gone", || agent.streams() + gateway.streams() == 0).await;
    assert_eq!((agent.stats().unread, agent.memory(), gateway.memory()), (0, 0, 0));
}

pub(crate) async fn going_away_lets_streams_finish(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let (mut here, mut there) = streams(&agent, &gateway).await;
    agent.go_away();
    assert!(agent.is_open(), "a GoAway is about the streams of whoever receives it");
    gateway.gone_away().await;
    assert!(!gateway.is_open() && gateway.end_reason().is_none());
    assert_eq!(gateway.open().err(), Some(OpenError::GoneAway));
    here.write_all(b"more").await.expect("write");
    let mut got = [0; 4];
    there.read_exact(&mut got).await.expect("read");
    there.write_all(&got).await.expect("write");
    there.shutdown().await.expect("shutdown");
    here.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    here.read_to_end(&mut rest).await.expect("read");
    assert_eq!(rest, b"more");
    until("the stream is gone", || gateway.streams() == 0).await;
}

pub(crate) async fn after_settling_nothing_of_before_is_on_its_way(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let opening = tokio::spawn({
        let gateway = gateway.clone();
        async move {
            let mut opened = Vec::new();
            loop {
                match gateway.open() {
                    Ok(stream) => opened.push(stream),
                    Err(OpenError::GoneAway) => return opened,
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
        }
    });
    agent.accept().await.expect("accept");
    agent.go_away();
    timeout(Duration::from_secs(20), agent.settle()).await.expect("in time");
    let came = agent.stats().accepted + agent.stats().refused;
    assert_eq!(came, opening.await.expect("opening").len() as u64);
    assert!(agent.stats().refused < 256 && agent.end_reason().is_none());
}

pub(crate) async fn the_last_words_are_whole_when_the_session_ends_right_after(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    let said = bytes(5, 1 << 20);
    for _ in 0..3 {
        let (mut here, mut there) = streams(&agent, &gateway).await;
        let speaking = tokio::spawn({
            let (said, agent) = (said.clone(), agent.clone());
            async move {
                there.write_all(&said).await.expect("write");
                there.shutdown().await.expect("shutdown");
                drop(there);
                agent
            }
        });
        let mut heard = Vec::new();
        here.read_to_end(&mut heard).await.expect("read");
        assert!(heard == said);
        speaking.await.expect("speaking");
    }
    let (mut here, mut there) = streams(&agent, &gateway).await;
    let leaving = tokio::spawn(async move {
        there.write_all(&said).await.expect("write");
        there.shutdown().await.expect("shutdown");
        drop(there);
        agent.go_away();
        agent.settle().await;
        until("no stream is open", || agent.streams() == 0).await;
        agent.end(Ending::Close);
        said
    });
    let mut heard = Vec::new();
    here.read_to_end(&mut heard).await.expect("read");
    assert!(heard == leaving.await.expect("leaving"));
}

pub(crate) async fn the_end_of_a_session_reaches_everybody(carrier: Carrier) {
    for how in [Ending::Close, Ending::GoAway2, Ending::Reset] {
        let (agent, gateway) = pair(carrier).await;
        let (mut here, mut there) = streams(&agent, &gateway).await;
        let accepting = tokio::spawn({
            let agent = agent.clone();
            async move { agent.accept().await.is_none() }
        });
        let reading = tokio::spawn(async move { there.read(&mut [0]).await.expect_err("ended").kind() });
        gateway.end(how);
        assert!(matches!(gateway.ended().await, End::Closed { by_peer: false, .. } | End::Reset));
        let seen = agent.ended().await;
        match how {
            Ending::Close => assert!(matches!(seen, End::Closed { by_peer: true, .. }), "{seen}"),
            Ending::GoAway2 => assert_eq!(seen, End::GoAway(2)),
            // A pipe in memory knows no reset.
            Ending::Reset => assert!(matches!(seen, End::Reset | End::Closed { by_peer: true, .. }), "{seen}"),
        }
        assert!(accepting.await.expect("accepting"));
        assert_eq!(reading.await.expect("reading"), ErrorKind::ConnectionAborted);
        assert_eq!(here.write(b"x").await.expect_err("ended").kind(), ErrorKind::ConnectionAborted);
        assert_eq!(gateway.open().err(), Some(OpenError::Ended));
    }
}

pub(crate) async fn a_kept_stream_leaves_nothing_behind(carrier: Carrier) {
    let (agent, gateway) = pair(carrier).await;
    echo(agent.clone());
    let mut stream = gateway.open().expect("open");
    let mut got = [0; 100];
    for number in 0..1000 {
        let sent = bytes(number, 100);
        stream.write_all(&sent).await.expect("write");
        stream.read_exact(&mut got).await.expect("read");
        assert!(got[..] == sent);
    }
    drop(stream);
    until("the stream is gone", || agent.streams() + gateway.streams() == 0).await;
    until("its memory is, too", || agent.memory() + gateway.memory() == 0).await;
}
