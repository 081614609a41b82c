//! Sessions over QUIC: the pairs that the suite runs on, and what only they promise.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::congestion::Bbr;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt};
use tidegate_engine::snapshot::{Congestion, Tunnel};
use tidegate_engine::tunnel::quic::control::Frame;
use tidegate_engine::tunnel::quic::{Config, UNREAD, codes, start};
use tidegate_engine::tunnel::{End, Ending, Session, Transport, never_accepted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::suite::{bytes, echo, until};
use relay::Relay;

#[path = "relay.rs"]
mod relay;
#[path = "../support/quic.rs"]
mod support;

/// Both ends take streams.
pub(crate) const TAKES: Config = Config { takes_streams: true, datagrams: true, asks: false, unread: UNREAD };
/// The same, and the other's silence is of interest.
const ASKS: Config = Config { takes_streams: true, datagrams: true, asks: true, unread: UNREAD };
/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The first words on the first stream, in both directions.
const HELLO: &[u8] = b"hello";

/// The ends of a new connection: the client's and the server's. `by`: where the client finds the server.
async fn connected(tunnel: &Tunnel, by: impl FnOnce(SocketAddr) -> SocketAddr) -> (Connection, Connection) {
    let (certificate, believes) = support::certificate();
    let gateway = support::server(&support::policy(certificate, None), tunnel);
    let address = by(gateway.local_addr().expect("address"));
    let accepting = async { gateway.accept().await.expect("an Initial").await };
    let (agent, gateway) = tokio::join!(support::dial(&believes, support::PROTOCOL, tunnel, address), accepting);
    (agent.expect("a handshake"), gateway.expect("a handshake"))
}

/// The first stream of a new connection, after words in both directions: the client's end and the server's.
async fn greeted(client: &Connection, server: &Connection) -> [(SendStream, RecvStream); 2] {
    let mut said = [0; HELLO.len()];
    let (mut send, mut recv) = client.open_bi().await.expect("open");
    send.write_all(HELLO).await.expect("write");
    let (mut answer, mut asked) = server.accept_bi().await.expect("accept");
    asked.read_exact(&mut said).await.expect("read");
    answer.write_all(HELLO).await.expect("write");
    recv.read_exact(&mut said).await.expect("read");
    [(send, recv), (answer, asked)]
}

/// Sessions on a connection between two sockets: the agent's and the gateway's.
pub(crate) async fn pair() -> (Session, Session) {
    let (client, server) = connected(&support::tunnel(30.0, 10.0), |address| address).await;
    over(client, server).await
}

async fn over(client: Connection, server: Connection) -> (Session, Session) {
    let [agent, gateway] = greeted(&client, &server).await;
    (session(client, Some(agent), ASKS), session(server, Some(gateway), TAKES))
}

/// The same where streams are all that there is.
pub(crate) async fn plain_pair() -> (Session, Session) {
    let (client, server) = connected(&support::tunnel(30.0, 10.0), |address| address).await;
    (session(client, None, TAKES), session(server, None, TAKES))
}

fn session(connection: Connection, control: Option<(SendStream, RecvStream)>, config: Config) -> Session {
    let (session, driver) = start(connection, control, config);
    tokio::spawn(driver);
    session
}

/// Sessions whose packets pass a relay.
pub(crate) async fn relayed(ping_interval: f64, ping_timeout: f64) -> (Session, Session, Relay) {
    let mut relay = None;
    let tunnel = support::tunnel(ping_interval, ping_timeout);
    let by = |address| relay.insert(Relay::to(address)).address();
    let (client, server) = connected(&tunnel, by).await;
    let (agent, gateway) = over(client, server).await;
    (agent, gateway, relay.expect("it was asked for"))
}

/// A gateway's session, and the bare hands of its peer with the first stream.
pub(crate) async fn bare(config: Config) -> (Session, Connection, (SendStream, RecvStream)) {
    let (client, server) = connected(&support::tunnel(30.0, 10.0), |address| address).await;
    let [agent, gateway] = greeted(&client, &server).await;
    (session(server, Some(gateway), config), client, agent)
}

/// Waits for the end of a session whose peer has broken the rule, and whether the peer is told.
async fn broken(session: &Session, peer: &Connection, rule: &'static str) {
    let end = timeout(LONG, session.ended()).await.expect("in time");
    assert_eq!(end, End::Protocol(rule.into()));
    match peer.closed().await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!((close.error_code, &close.reason[..]), (codes::PROTOCOL, rule.as_bytes()));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn eighty_streams_that_nobody_reads_hold_up_nobody() {
    let (agent, gateway) = pair().await;
    let mut kept = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..80 {
        let mut stuck = gateway.open_when_answered().await.expect("open");
        kept.push(agent.accept().await.expect("accept"));
        writers.push(tokio::spawn(async move { stuck.write_all(&vec![7; 4 << 20]).await }));
    }
    // The bytes that the connection may bring are used up; then the neighbours come.
    until("streams are blocked", || gateway.stats().bytes_out > 30 << 20).await;
    echo(agent.clone());
    let sent = bytes(1, 300_000);
    for _ in 0..20 {
        let neighbour = async {
            let (mut read, mut write) = tokio::io::split(gateway.open_when_answered().await.expect("open"));
            let writer = async {
                write.write_all(&sent).await.expect("write");
                write.shutdown().await.expect("shutdown");
            };
            let mut got = Vec::new();
            tokio::join!(writer, async { read.read_to_end(&mut got).await.expect("read") });
            assert!(got == sent);
        };
        timeout(LONG, neighbour).await.expect("in time");
    }
    let overruns = agent.stats().overruns;
    assert!((16..=80).contains(&overruns), "{overruns} streams were cut");
    let mut cut = 0;
    for mut stream in kept {
        let read = stream.read(&mut [0; 8]).await;
        cut += usize::from(read.is_err_and(|error| error.kind() == ErrorKind::ConnectionAborted));
    }
    assert_eq!(cut as u64, overruns);
    for writer in writers {
        writer.await.expect("task").expect_err("every one of them ended before its time");
    }
    assert!(gateway.end_reason().is_none());
}

#[tokio::test]
async fn a_flood_of_streams_ends_the_session() {
    let config = Config { takes_streams: false, datagrams: false, asks: false, unread: UNREAD };
    let (session, peer, _first) = bare(config).await;
    let mut opened = 0u32;
    while let Ok((mut send, mut recv)) = peer.open_bi().await {
        opened += 1;
        assert!(opened <= 100_000);
        // Refused, or the end of all.
        let _ = send.reset(VarInt::from_u32(0));
        let _ = recv.stop(VarInt::from_u32(0));
    }
    broken(&session, &peer, "a flood of new streams").await;
    assert_eq!((session.streams(), session.memory()), (0, 0));
}

#[tokio::test]
async fn streams_that_are_stuffed_and_reset_take_no_memory_and_harm_nobody() {
    let (session, peer, _first) = bare(TAKES).await;
    echo(session.clone());
    for _ in 0..2000 {
        let (mut send, mut recv) = peer.open_bi().await.expect("open");
        send.write_all(&[0; 16 * 1024]).await.expect("write");
        // Half of them while the other side takes them.
        if send.id().index() % 2 == 0 {
            recv.read_exact(&mut [7]).await.expect("taken");
        }
        send.reset(VarInt::from_u32(5)).expect("reset");
        let _ = recv.stop(VarInt::from_u32(5));
    }
    until("nothing is left of them", || session.streams() + session.memory() == 0).await;
    let (mut send, mut recv) = peer.open_bi().await.expect("open");
    send.write_all(b"\0still here").await.expect("write");
    let mut heard = [0; 11];
    timeout(LONG, recv.read_exact(&mut heard)).await.expect("in time").expect("read");
    assert_eq!(&heard, b"\0still here");
    assert!(session.is_open());
}

#[tokio::test]
async fn what_no_session_says_on_its_first_stream_ends_it() {
    let mut flood = Vec::new();
    (0..1000).for_each(|number| Frame::Ask(number).encode(&mut flood));
    for (said, rule) in [
        (&flood[..], "a flood of control frames"),
        (&[9, 0x44, 1], "a control frame that is too long"),
        (&[2, 0], "a control frame that is too short"),
    ] {
        let (session, peer, (mut send, _recv)) = bare(TAKES).await;
        let _ = send.write_all(said).await;
        broken(&session, &peer, rule).await;
    }
    let (session, peer, (mut send, _recv)) = bare(TAKES).await;
    send.finish().expect("finish");
    broken(&session, &peer, "the first stream has ended").await;
}

#[tokio::test]
async fn what_is_unknown_on_the_first_stream_is_skipped() {
    let (session, _peer, (mut send, mut recv)) = bare(TAKES).await;
    let mut said = vec![0x47, 8, 3, 1, 2, 3];
    Frame::Ask(5).encode(&mut said);
    send.write_all(&said).await.expect("write");
    let mut answer = Vec::new();
    Frame::Answer { number: 5, opened: 0 }.encode(&mut answer);
    let mut got = vec![0; answer.len()];
    recv.read_exact(&mut got).await.expect("read");
    assert_eq!(got, answer);
    assert!(session.is_open());
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind_is_refused_and_no_other() {
    let (session, peer, _first) = bare(TAKES).await;
    let (mut send, mut recv) = peer.open_bi().await.expect("open");
    send.write_all(&[9]).await.expect("write");
    let refused = recv.read(&mut [0]).await.expect_err("refused");
    assert_eq!(refused, ReadError::Reset(VarInt::from_u32(1)));
    let (mut send, mut recv) = peer.open_bi().await.expect("open");
    send.write_all(&[0]).await.expect("write");
    let mut taken = [7];
    recv.read_exact(&mut taken).await.expect("taken");
    assert_eq!(taken, [0]);
    assert_eq!((session.stats().refused, session.stats().accepted), (1, 1));
}

#[tokio::test]
async fn an_unknown_answer_to_a_stream_ends_the_session() {
    let (session, peer, _first) = bare(TAKES).await;
    let mut stream = session.open().expect("open");
    let (mut send, _recv) = peer.accept_bi().await.expect("accept");
    send.write_all(&[7]).await.expect("write");
    assert_eq!(stream.read(&mut [0]).await.expect_err("broken").kind(), ErrorKind::ConnectionReset);
    broken(&session, &peer, "a stream was taken with an unknown word").await;
}

#[tokio::test]
async fn a_stream_that_the_peer_stops_instead_of_taking_it_has_ended() {
    let (session, peer, _first) = bare(TAKES).await;
    for (code, delivered) in [(77, true), (0, true), (1, false)] {
        let (mut asking, mut reading) = (session.open().expect("open"), session.open().expect("open"));
        let mut kept = Vec::new();
        for _ in 0..2 {
            let (send, mut recv) = peer.accept_bi().await.expect("accept");
            recv.stop(VarInt::from_u32(code)).expect("stop");
            kept.push(send);
        }
        let asked = poll_fn(|cx| asking.poll_taken(cx));
        let error = timeout(LONG, asked).await.expect("in time").expect_err("stopped");
        assert_eq!((error.kind(), never_accepted(&error)), (ErrorKind::ConnectionReset, !delivered), "{code}");
        let error = timeout(LONG, reading.read(&mut [0])).await.expect("in time").expect_err("stopped");
        assert_eq!((error.kind(), never_accepted(&error)), (ErrorKind::ConnectionReset, !delivered), "{code}");
        assert_eq!(reading.write(b"x").await.expect_err("stopped").kind(), ErrorKind::ConnectionReset);
    }
    assert!(session.is_open());
    until("nothing is left", || session.streams() + session.memory() == 0).await;
}

#[tokio::test]
async fn a_peer_that_reads_no_more_may_answer_all_the_same() {
    let (session, peer, _first) = bare(TAKES).await;
    let mut stream = session.open().expect("open");
    let (mut send, mut recv) = peer.accept_bi().await.expect("accept");
    // Of what it says, this may arrive first.
    recv.stop(VarInt::from_u32(0)).expect("stop");
    send.write_all(b"\0no").await.expect("write");
    let mut heard = [0; 2];
    timeout(LONG, stream.read_exact(&mut heard)).await.expect("in time").expect("read");
    let refused = async { while stream.write(b"x").await.is_ok() {} };
    timeout(LONG, refused).await.expect("writing is over");
    send.write_all(b" more").await.expect("write");
    send.finish().expect("finish");
    let mut rest = Vec::new();
    timeout(LONG, stream.read_to_end(&mut rest)).await.expect("in time").expect("read");
    assert_eq!((&heard, &rest[..]), (b"no", &b" more"[..]));
}

#[tokio::test]
async fn a_peer_that_is_not_heard_is_silent_until_it_is_again() {
    let (agent, gateway, relay) = relayed(30.0, 30.0).await;
    echo(agent.clone());
    let mut stream = gateway.open().expect("open");
    stream.write_all(b"ping").await.expect("write");
    stream.read_exact(&mut [0; 4]).await.expect("read");
    assert!(!gateway.is_silent() && !agent.is_silent());
    relay.cut(true);
    stream.write_all(b"ping").await.expect("write");
    // The gateway has something to send, the agent asks because it wants to know.
    timeout(LONG, async { tokio::join!(gateway.silence(true), agent.silence(true)) }).await.expect("in time");
    assert!(gateway.is_silent() && gateway.is_open());
    relay.cut(false);
    timeout(LONG, async { tokio::join!(gateway.silence(false), agent.silence(false)) }).await.expect("in time");
    stream.read_exact(&mut [0; 4]).await.expect("nothing is lost");
}

#[tokio::test]
async fn an_idle_agent_that_asks_finds_out_by_itself() {
    let (agent, gateway, relay) = relayed(0.2, 30.0).await;
    relay.cut(true);
    timeout(LONG, agent.silence(true)).await.expect("in time");
    relay.cut(false);
    timeout(LONG, agent.silence(false)).await.expect("in time");
    // Nobody is told about an idle session who did not ask.
    assert!(!gateway.is_silent());
}

#[tokio::test]
async fn a_peer_that_is_gone_is_given_up() {
    let (agent, gateway, relay) = relayed(0.3, 0.3).await;
    let mut stream = gateway.open().expect("open");
    relay.cut(true);
    let ended = async { tokio::join!(agent.ended(), gateway.ended(), gateway.silence(true)) };
    let (agent, gateway, ()) = timeout(LONG, ended).await.expect("in time");
    assert_eq!((agent, gateway), (End::PingTimeout, End::PingTimeout));
    assert_eq!(stream.read(&mut [0]).await.expect_err("ended").kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_session_goes_on_when_its_peer_comes_from_another_address() {
    let (agent, gateway, relay) = relayed(30.0, 10.0).await;
    echo(agent.clone());
    let mut stream = gateway.open().expect("open");
    let before = gateway.remote().expect("an address");
    relay.rebind();
    let moved = async {
        while gateway.remote() == Some(before) {
            // The agent has to say something from there; what the gateway says goes to the old address.
            agent.settle().await;
        }
        stream.write_all(b"still").await.expect("write");
        stream.read_exact(&mut [0; 5]).await.expect("read");
    };
    timeout(LONG, moved).await.expect("in time");
}

#[tokio::test]
async fn a_driver_that_is_dropped_ends_its_session() {
    let (client, server) = connected(&support::tunnel(30.0, 10.0), |address| address).await;
    let [agent, gateway] = greeted(&client, &server).await;
    let agent = session(client, Some(agent), TAKES);
    let (gateway, driver) = start(server, Some(gateway), TAKES);
    drop(driver);
    assert_eq!(gateway.ended().await, End::Reset);
    let end = timeout(LONG, agent.ended()).await.expect("in time");
    assert_eq!(end, End::Closed { by_peer: true, code: None, reason: "reset".to_owned() });
}

#[tokio::test]
async fn what_was_finished_arrives_although_the_session_is_ended_at_once() {
    for how in [Ending::Close, Ending::GoAway2] {
        let (agent, gateway) = pair().await;
        let (mut here, mut left) = (gateway.open().expect("open"), gateway.open().expect("open"));
        let (mut there, unfinished) = (agent.accept().await.expect("accept"), agent.accept().await.expect("accept"));
        let said = bytes(9, 1 << 18);
        there.write_all(&said).await.expect("write");
        there.shutdown().await.expect("shutdown");
        agent.end(how);
        assert!(agent.end_reason().is_some() && agent.accept().await.is_none());
        assert_eq!(there.read(&mut [0]).await.expect_err("ended").kind(), ErrorKind::ConnectionAborted);
        let mut heard = Vec::new();
        timeout(LONG, here.read_to_end(&mut heard)).await.expect("in time").expect("read");
        assert!(heard == said);
        let end = timeout(LONG, gateway.ended()).await.expect("in time");
        assert!(matches!(end, End::Closed { by_peer: true, .. } | End::GoAway(2)), "{end}");
        left.read(&mut [0]).await.expect_err("it was not finished");
        drop(unfinished);
    }
}

#[tokio::test]
async fn what_a_session_has_done_is_counted() {
    let (agent, gateway) = pair().await;
    echo(agent.clone());
    let mut stream = gateway.open().expect("open");
    stream.write_all(&[7; 5000]).await.expect("write");
    stream.read_exact(&mut [0; 5000]).await.expect("read");
    let (here, there) = (gateway.stats(), agent.stats());
    assert_eq!((here.opened, there.accepted, gateway.streams()), (1, 1, 1));
    assert!(here.bytes_in > 5000 && here.bytes_out > 5000 && here.rtt.is_some() && here.mtu >= 1200);
    assert_eq!((gateway.transport(), gateway.transport().word()), (Transport::Quic, "quic"));
    let (plain, _) = plain_pair().await;
    assert_eq!(plain.transport().word(), "quic-tunnel");
}

#[tokio::test]
async fn either_congestion_control_carries_what_is_said() {
    let cubic = support::tunnel(30.0, 10.0);
    let bbr = Tunnel { congestion: Congestion::Bbr, ..cubic.clone() };
    for (tunnel, is_bbr) in [(cubic, false), (bbr, true)] {
        let (client, server) = connected(&tunnel, |address| address).await;
        for end in [&client, &server] {
            assert_eq!(end.congestion_state().into_any().is::<Bbr>(), is_bbr);
        }
        let (agent, gateway) = over(client, server).await;
        echo(agent.clone());
        let (mut read, mut write) = tokio::io::split(gateway.open().expect("open"));
        let said = bytes(3, 1 << 20);
        let mut heard = vec![0; said.len()];
        let (wrote, got) = tokio::join!(write.write_all(&said), read.read_exact(&mut heard));
        wrote.and(got.map(drop)).expect("carried");
        assert!(heard == said);
    }
}
