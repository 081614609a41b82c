//! Flows of datagrams: over QUIC they are carried, everywhere else they are refused.

use std::time::Duration;

use tidegate_engine::tunnel::quic::Config;
use tidegate_engine::tunnel::quic::demux::datagram;
use tidegate_engine::tunnel::{Flow, FlowError, OpenError, Sent, Session, never_accepted};
use tokio::time::timeout;

use crate::quic::{LONG, TAKES, bare};
use crate::suite::until;
use crate::{Carrier, pair};

/// The ends of a new flow: of whoever opened it, and of whoever took it.
async fn flow(opens: &Session, takes: &Session) -> (Flow, Flow) {
    let mut here = opens.open_flow().expect("open");
    let there = timeout(LONG, takes.accept_flow()).await.expect("in time").expect("a flow");
    here.taken().await.expect("taken");
    (here, there)
}

async fn next(flow: &mut Flow) -> Option<Vec<u8>> {
    timeout(LONG, flow.recv()).await.expect("in time").map(|payload| payload.to_vec())
}

#[tokio::test]
async fn datagrams_go_both_ways_whole_and_empty_ones_too() {
    let (agent, gateway) = pair(Carrier::Quic).await;
    let (mut here, mut there) = flow(&gateway, &agent).await;
    let (mut other, mut other_there) = flow(&gateway, &agent).await;
    for payload in [&b"question"[..], b"", &[7; 1000]] {
        assert_eq!(here.send(payload), Ok(Sent::Sent));
        assert_eq!(next(&mut there).await.as_deref(), Some(payload));
        there.send(payload).expect("send");
        assert_eq!(next(&mut here).await.as_deref(), Some(payload));
    }
    other.send(b"mine").expect("send");
    assert_eq!(next(&mut other_there).await.as_deref(), Some(&b"mine"[..]));
    other_there.send(b"yours").expect("send");
    assert_eq!(next(&mut other).await.as_deref(), Some(&b"yours"[..]));
    assert_eq!((gateway.stats().datagrams_out, agent.stats().datagrams_in), (4, 4));
    assert_eq!((gateway.stats().datagrams_dropped, agent.stats().datagrams_dropped), (0, 0));
}

#[tokio::test]
async fn what_is_no_quic_carries_none() {
    for carrier in [Carrier::Memory, Carrier::MemoryWebSocket, Carrier::Tcp, Carrier::TcpWebSocket, Carrier::QuicTunnel]
    {
        let (agent, gateway) = pair(carrier).await;
        assert_eq!(gateway.open_flow().err(), Some(OpenError::NoDatagrams));
        assert_eq!(gateway.open_flow_when_answered().await.err(), Some(OpenError::NoDatagrams));
        drop(agent);
    }
}

#[tokio::test]
async fn who_takes_none_refuses_the_flow_before_anything_is_lost() {
    let (session, peer, _first) = bare(Config { datagrams: false, ..TAKES }).await;
    let (mut send, mut recv) = peer.open_bi().await.expect("open");
    send.write_all(&[1]).await.expect("write");
    assert!(matches!(recv.read(&mut [0; 1]).await, Err(quinn::ReadError::Reset(code)) if code.into_inner() == 1));
    until("it is counted", || session.stats().refused == 1).await;
    let (session, peer, _first) = bare(TAKES).await;
    let mut flow = session.open_flow().expect("open");
    let (mut refuses, _recv) = peer.accept_bi().await.expect("a stream");
    refuses.reset(1u32.into()).expect("reset");
    assert!(never_accepted(&flow.taken().await.expect_err("refused")));
}

#[tokio::test]
async fn either_end_ends_a_flow_and_the_other_learns_it() {
    let (agent, gateway) = pair(Carrier::Quic).await;
    let (mut here, mut there) = flow(&gateway, &agent).await;
    here.send(b"last").expect("send");
    assert_eq!(next(&mut there).await.as_deref(), Some(&b"last"[..]));
    here.end();
    assert_eq!(next(&mut there).await, None);
    drop(there);
    assert_eq!(next(&mut here).await, None);
    drop(here);
    let (mut here, there) = flow(&agent, &gateway).await;
    drop(there);
    assert_eq!(next(&mut here).await, None);
    drop(here);
    until("nothing is left", || agent.streams() == 0 && gateway.streams() == 0).await;
    let (mut here, _there) = flow(&gateway, &agent).await;
    agent.end(tidegate_engine::tunnel::Ending::Close);
    assert_eq!(next(&mut here).await, None);
    assert_eq!(here.send(b"too late"), Err(FlowError::Ended));
    assert!(agent.accept_flow().await.is_none());
}

#[tokio::test]
async fn the_largest_payload_is_told_and_nothing_larger_leaves() {
    let (agent, gateway) = pair(Carrier::Quic).await;
    let (here, mut there) = flow(&gateway, &agent).await;
    // It grows while the path is explored, so it is asked anew until it holds still for a datagram.
    let sent = loop {
        let most = here.max();
        assert!(most >= 1100, "{most}");
        assert!(matches!(here.send(&vec![1; 9000]), Err(FlowError::TooBig { most }) if most >= 1100));
        match here.send(&vec![1; most + 1]) {
            Err(FlowError::TooBig { most: told }) if told == most => {}
            _ => continue,
        }
        here.send(&vec![1; most]).expect("it fits");
        break most;
    };
    assert_eq!(next(&mut there).await.map(|payload| payload.len()), Some(sent));
}

#[tokio::test]
async fn a_datagram_that_overtakes_its_stream_is_not_lost() {
    let (session, peer, _first) = bare(TAKES).await;
    let (mut send, _recv) = peer.open_bi().await.expect("open");
    let id = send.id().into();
    peer.send_datagram(datagram(id, b"early")).expect("send");
    until("it is there", || session.stats().datagrams_in == 1).await;
    send.write_all(&[1]).await.expect("write");
    let mut flow = timeout(LONG, session.accept_flow()).await.expect("in time").expect("a flow");
    assert_eq!(next(&mut flow).await.as_deref(), Some(&b"early"[..]));
}

#[tokio::test]
async fn datagrams_of_nobody_are_counted_and_harm_nobody() {
    let (session, peer, _first) = bare(TAKES).await;
    let (mut send, mut recv) = peer.open_bi().await.expect("open");
    send.write_all(&[1]).await.expect("write");
    let mut flow = session.accept_flow().await.expect("a flow");
    recv.read_exact(&mut [0; 1]).await.expect("taken");
    for bytes in [&[][..], &[0xFF], &[0x40], &[0], &[3, 1], &[0xC0, 0, 0, 0, 0, 0, 0, 1]] {
        peer.send_datagram(bytes.to_vec().into()).expect("send");
    }
    until("they are counted", || session.stats().datagrams_dropped == 6).await;
    // Of thousands for streams that never come no more than a few are held.
    for number in 0..3000u64 {
        peer.send_datagram(datagram(400 + 4 * number, &[7; 1000])).expect("send");
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    until("they have come", || session.stats().datagrams_dropped > 50).await;
    assert!(session.memory() < 128 * 1024, "{}", session.memory());
    // Words on a flow's stream are thrown away.
    send.write_all(&vec![9; 1 << 18]).await.expect("write");
    peer.send_datagram(datagram(send.id().into(), b"mine")).expect("send");
    assert_eq!(next(&mut flow).await.as_deref(), Some(&b"mine"[..]));
    assert_eq!(session.end_reason(), None);
}

#[tokio::test]
async fn five_hundred_flows_at_once_are_kept_apart() {
    let (agent, gateway) = pair(Carrier::Quic).await;
    tokio::spawn(async move {
        while let Some(mut flow) = agent.accept_flow().await {
            tokio::spawn(async move {
                while let Some(payload) = flow.recv().await {
                    flow.send(&payload).expect("send");
                }
            });
        }
    });
    let mut flows = tokio::task::JoinSet::new();
    for number in 0..500u32 {
        let mut flow = gateway.open_flow_when_answered().await.expect("open");
        flows.spawn(async move {
            // One may be lost: the kernel's buffers are what they are.
            loop {
                flow.send(&number.to_be_bytes()).expect("send");
                if let Ok(answer) = timeout(Duration::from_millis(500), flow.recv()).await {
                    return assert_eq!(answer.as_deref(), Some(&number.to_be_bytes()[..]));
                }
            }
        });
    }
    flows.join_all().await;
}
