//! Floods of handshakes that go nowhere, sources that are made up, and bytes that are none of QUIC's.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionError, Endpoint, EndpointConfig, Runtime, TokioRuntime, UdpPoller};
use serde_json::json;

use crate::dialled::{Authority, Brings, ask, counted, endpoint, gate, hello, runtime};
use crate::gate::{configuration, until};

/// A socket that says everything and hears nothing: whoever is behind it has made its address up.
struct Deaf {
    inner: Arc<dyn AsyncUdpSocket>,
    said: AtomicU64,
    /// What was sent to it all the same.
    sent: AtomicU64,
}

impl Deaf {
    fn new() -> Arc<Deaf> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Whatever comes is to be counted.
        socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
        let inner = TokioRuntime.wrap_udp_socket(socket).unwrap();
        Arc::new(Deaf { inner, said: AtomicU64::new(0), sent: AtomicU64::new(0) })
    }
}

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.said.fetch_add(transmit.contents.len() as u64, Ordering::Relaxed);
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        while let Poll::Ready(n) = self.inner.poll_recv(cx, bufs, metas)? {
            let bytes: usize = metas[..n].iter().map(|meta| meta.len).sum();
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl fmt::Debug for Deaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deaf")
    }
}

fn handshakes(outcome: &str) -> String {
    format!("tidegate_quic_handshakes_total{{listener=\"agents\",outcome=\"{outcome}\"}}")
}

#[test]
fn a_thousand_handshakes_that_go_nowhere_keep_nobody_out_and_cost_three_times_their_bytes_at_most() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    let (address, runtime) = (gate.address("agents"), runtime());
    runtime.block_on(async {
        let deaf = Deaf::new();
        let flood =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, deaf.clone(), Arc::new(TokioRuntime))
                .unwrap();
        let config = Brings::nothing(&authority).config();
        let many: Vec<_> =
            (0..1500).map(|_| flood.connect_with(config.clone(), address, "localhost").unwrap()).collect();
        until("they have come", || {
            let page = gate.role.metrics();
            let all = page.lines().filter(|line| line.starts_with("tidegate_quic_handshakes_total"));
            all.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() >= 1000.0
        });

        let began = Instant::now();
        let connection = Brings::nothing(&authority).dial(&endpoint(), address).await.unwrap();
        assert!(ask(&connection, &hello("web", "")).await.0.starts_with("HTTP/1.1 101 "));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

        // Few of those who have not proved where they are hold a place; the others were asked to.
        let places = gate.role.status()["listeners"][1]["connections"].as_u64().unwrap();
        assert!(places <= 70, "{places}");
        assert!(counted(&gate, &handshakes("retried")) >= 900.0);
        let (said, sent) = (deaf.said.load(Ordering::Relaxed), deaf.sent.load(Ordering::Relaxed));
        assert!(sent <= 3 * said, "{sent} for {said}");
        drop(many);
    });
}

#[test]
fn bytes_that_are_none_of_quics_are_answered_with_less_and_harm_nobody() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    let address = gate.address("agents");
    runtime().block_on(async {
        let connection = Brings::nothing(&authority).dial(&endpoint(), address).await.unwrap();
        let (head, _send, _recv) = ask(&connection, &hello("web", "")).await;
        assert!(head.starts_with("HTTP/1.1 101 "));

        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let (mut said, mut sent, mut seed) = (0, 0, 1u64);
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut answer = [0; 65_536];
        for round in 0..20_000 {
            let length = match round % 3 {
                0 => next() as usize % 40,
                1 => next() as usize % 1500,
                _ => 1200,
            };
            let mut bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            // An Initial of version 1, with ids of any length, and what follows it made up.
            if round % 4 == 0 && bytes.len() > 6 {
                bytes[0] = 0xc0 | (bytes[0] & 0x0f);
                bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
                bytes[5] %= 24;
            }
            if stranger.send_to(&bytes, address).is_ok() {
                said += bytes.len();
            }
            while let Ok(n) = stranger.recv(&mut answer) {
                sent += n;
            }
            if round % 500 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(sent <= 3 * said, "{sent} for {said}");
        assert_eq!(connection.close_reason(), None);
        let another = Brings::nothing(&authority).dial(&endpoint(), address).await.unwrap();
        let (head, _send, _recv) = ask(&another, &hello("other", "")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        until("both are there", || gate.endpoints().len() == 2);
    });
}

#[test]
fn whoever_was_not_let_in_has_one_stream_and_the_room_of_a_request() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"GET /piko/v1/upstream/web HTTP/1.1\r\n").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), connection.open_bi()).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(300), connection.open_uni()).await.is_err());

        // Of a request that does not end no more is taken than a head may have.
        let mut taken = 0;
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(500), send.write(&[b'x'; 4096])).await {
            taken += n;
            assert!(taken < 1_000_000, "{taken}");
        }
        assert!(taken < 300_000, "{taken}");
        let answer = recv.read_to_end(4096).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn where_all_places_are_taken_the_next_one_is_refused_until_one_that_says_nothing_has_made_room() {
    let authority = Authority::new();
    let mut limits = configuration(json!([]), json!({}))["limits"].clone();
    limits["connections"] = json!(16);
    let gate = gate(&authority, json!({}), json!({"limits": limits}));
    let address = gate.address("agents");
    runtime().block_on(async {
        let dial = async || Brings::nothing(&authority).dial(&endpoint(), address).await;
        let mut silent = Vec::new();
        while silent.len() < 16 {
            silent.push(dial().await.unwrap());
        }
        // All of them have just come. Whoever is refused is told at once.
        let mut refused = 0;
        let connection = loop {
            match dial().await {
                Ok(connection) => break connection,
                Err(ConnectionError::ConnectionClosed(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(refused < 100);
        };
        let (head, _send, _recv) = ask(&connection, &hello("web", "")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(counted(&gate, &handshakes("retried")) >= 8.0);
        // One that says nothing has ended for it; the agent itself stays however long it is idle.
        until("one has ended", || silent.iter().any(|one| one.close_reason().is_some()));
        for _ in 0..8 {
            drop(dial().await);
        }
        assert!(connection.close_reason().is_none());
    });
}
