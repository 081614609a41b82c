//! What a tunnel session promises, over every carrier: a pipe in memory, WebSocket messages in a pipe, TCP, and QUIC.

#[path = "tunnel/balance.rs"]
mod balance;
#[path = "tunnel/floods.rs"]
mod floods;
#[path = "tunnel/flows.rs"]
mod flows;
#[path = "tunnel/quic.rs"]
mod quic;
#[path = "tunnel/suite.rs"]
mod suite;

use tidegate_engine::io::BoxedIo;
use tidegate_engine::tunnel::{Session, memory};
use tokio::net::{TcpListener, TcpStream};

/// What a session runs over.
#[derive(Clone, Copy)]
enum Carrier {
    Memory,
    MemoryWebSocket,
    Tcp,
    TcpWebSocket,
    Quic,
    /// As quic-reverse-http-tunnel uses it.
    QuicTunnel,
}

impl Carrier {
    /// What a stream may bring before it is read; the most that waits beside it to be sent is as much.
    fn window(self) -> usize {
        match self {
            // The first byte is not the stream's.
            Carrier::Quic | Carrier::QuicTunnel => 512 * 1024 - 1,
            _ => 256 * 1024,
        }
    }
}

/// A session's two ends: the agent's and the gateway's.
async fn pair(carrier: Carrier) -> (Session, Session) {
    match carrier {
        Carrier::Memory => memory::pair(),
        Carrier::MemoryWebSocket => {
            let (agent, gateway) = tokio::io::duplex(64 * 1024);
            memory::over(Box::new(agent), Box::new(gateway), true)
        }
        Carrier::Tcp | Carrier::TcpWebSocket => {
            let (agent, gateway) = tcp_pair().await;
            memory::over(agent, gateway, matches!(carrier, Carrier::TcpWebSocket))
        }
        Carrier::Quic => quic::pair().await,
        Carrier::QuicTunnel => quic::plain_pair().await,
    }
}

async fn tcp_pair() -> (BoxedIo, BoxedIo) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (agent, gateway) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (agent, gateway) = (agent.expect("connect"), gateway.expect("accept").0);
    agent.set_nodelay(true).expect("nodelay");
    gateway.set_nodelay(true).expect("nodelay");
    (Box::new(agent), Box::new(gateway))
}

macro_rules! over_every_carrier {
    ($($behaviour:ident),+ $(,)?) => {
        over_every_carrier! { memory_raw Memory: $($behaviour),+ }
        over_every_carrier! { memory_websocket MemoryWebSocket: $($behaviour),+ }
        over_every_carrier! { tcp_raw Tcp: $($behaviour),+ }
        over_every_carrier! { tcp_websocket TcpWebSocket: $($behaviour),+ }
        over_every_carrier! { quic_session Quic: $($behaviour),+ }
    };
    ($name:ident $carrier:ident: $($behaviour:ident),+) => {
        mod $name {
            $(#[tokio::test] async fn $behaviour() { crate::suite::$behaviour(crate::Carrier::$carrier).await })+
        }
    };
}

over_every_carrier!(
    a_stream_carries_bytes_both_ways,
    the_side_that_accepts_may_speak_first,
    a_direction_ends_alone,
    a_dropped_stream_is_a_reset_on_the_other_side,
    a_stream_refused_is_known_to_be_undelivered,
    a_stream_is_known_to_be_taken,
    five_hundred_streams_at_once,
    a_stuck_stream_holds_up_nobody,
    bulk_arrives_whole_both_ways,
    going_away_lets_streams_finish,
    after_settling_nothing_of_before_is_on_its_way,
    the_last_words_are_whole_when_the_session_ends_right_after,
    the_end_of_a_session_reaches_everybody,
    a_kept_stream_leaves_nothing_behind,
);

// Without words of ours a stream is there for the peer from its first byte on, and nobody says that it was taken.
over_every_carrier! { quic_tunnel QuicTunnel: five_hundred_streams_at_once, a_kept_stream_leaves_nothing_behind }

/// Streams are used on other threads than the one that drives their session.
mod quic_on_several_threads {
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn five_hundred_streams_at_once() {
        crate::suite::five_hundred_streams_at_once(crate::Carrier::Quic).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn bulk_arrives_whole_both_ways() {
        crate::suite::bulk_arrives_whole_both_ways(crate::Carrier::Quic).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_dropped_stream_is_a_reset_on_the_other_side() {
        crate::suite::a_dropped_stream_is_a_reset_on_the_other_side(crate::Carrier::Quic).await;
    }
}
