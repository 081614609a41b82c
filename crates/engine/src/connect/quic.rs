//! By UDP: a connection of QUIC of its own for each tunnel, on a port of its own, and the request on its first stream.
//!
//! HTTP proxies carry no UDP, so none is used.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Gateway, REASON, Refused, Tunnel, Wanted};
use crate::dial;
use crate::http1::head::{HeadLimits, parse_response};
use crate::message::ResponseHead;
use crate::snapshot::Transport;
use crate::tunnel::endpoint;
use crate::tunnel::endpoint::path::{discovery, largest};
use crate::tunnel::hello::{self, Told, Upgrade};
use crate::tunnel::quic::{Config, UNREAD, codes, start, transport};

/// How long an address is tried before the next one is tried beside it (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// The same on this machine, which says nothing where nobody listens.
const STAGGER_HERE: Duration = Duration::from_millis(10);

/// How long an attempt may take where there is another way.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last word of a session may take to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A head of an answer, at most.
const ANSWER: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 128 };

/// Flows of one tunnel that may be open at once: of many sources each has one.
const FLOWS: VarInt = VarInt::from_u32(8192);

/// The codes of QUIC that say why there is no connection (RFC 9000 §20.1, RFC 9001 §4.8).
const REFUSED: u64 = 0x2;
const NO_PROTOCOL: u64 = 0x178;

impl Gateway {
    /// Opens a tunnel of QUIC.
    pub(super) async fn open_quic(&self, made_of: Transport, wanted: &Wanted<'_>) -> Result<Tunnel, Refused> {
        let tls = self.quic.as_ref().map_err(|why| self.broken(why))?;
        let name = tls.name(&self.host).map_err(|why| self.broken(why))?;

        let most = if wanted.asks { PATIENCE } else { Duration::MAX };
        let by = Instant::now() + wanted.timeouts.handshake.min(most);
        let (host, port) = self.quic_place(wanted.quic_at);
        let addresses = match timeout(wanted.timeouts.connect.min(most), dial::resolve(host, port)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
            _ => return Err(self.broken(format!("cannot resolve {host}"))),
        };
        let silent = || self.broken(self.no_answer(wanted.quic_at));
        let mut transport = transport(wanted.tunnel, wanted.asks);
        // All of one host, and by the same way as a rule.
        let largest = addresses.iter().map(|to| largest(*to)).min().unwrap_or_default();
        transport.mtu_discovery_config(Some(discovery(largest)));
        if wanted.request.datagram {
            transport.max_concurrent_bidi_streams(FLOWS);
        }
        let mut config = ClientConfig::new(tls.crypto.clone());
        config.transport_config(Arc::new(transport));
        let endpoint = endpoint::dialling(wanted.worker, wanted.drain).map_err(|error| self.broken(error))?;
        let connection = match first_of(&endpoint, &config, addresses, &name, by).await {
            Ok(connection) => connection,
            Err(Failure::Lost(ConnectionError::TimedOut)) => return Err(silent()),
            Err(why) => return Err(self.broken(words(made_of, &why))),
        };
        let greeted = async {
            match made_of {
                // There is no greeting: the server opens streams.
                Transport::QuicTunnel => Ok((None, Told::default())),
                _ => self.greet(&connection, wanted).await.map(|(send, recv, told)| (Some((send, recv)), told)),
            }
        };
        match timeout_at(by, greeted).await {
            Ok(Ok((_, told))) if wanted.request.datagram && !told.features.datagram => {
                connection.close(codes::CLOSED, b"");
                Err(self.broken("this gateway carries no datagrams (a newer version does)"))
            }
            Ok(Ok((control, told))) => {
                let config = Config {
                    takes_streams: wanted.serves,
                    datagrams: wanted.request.datagram,
                    asks: wanted.asks,
                    unread: UNREAD,
                };
                let (session, driver) = start(connection, control, config);
                let driver = async move {
                    driver.await;
                    let _ = timeout(LAST_WORD, endpoint.wait_idle()).await;
                };
                Ok(Tunnel { session, driver: Box::pin(driver), told })
            }
            Ok(Err(refused)) => {
                connection.close(codes::CLOSED, b"");
                Err(refused)
            }
            Err(_) => Err(silent()),
        }
    }

    /// Asks on the first stream.
    async fn greet(
        &self,
        connection: &Connection,
        wanted: &Wanted<'_>,
    ) -> Result<(SendStream, RecvStream, Told), Refused> {
        let lost = |error: ConnectionError| match error {
            ConnectionError::TimedOut => self.broken(self.no_answer(wanted.quic_at)),
            error => self.broken(words(Transport::Quic, &Failure::Lost(error))),
        };
        let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
        let request = self.request(&wanted.request, Upgrade::Session);
        // Why the gateway has ended the connection says more than that a stream of it has ended.
        let failed = |why: &dyn Display| match connection.close_reason() {
            Some(error) => lost(error),
            None => self.broken(why),
        };
        send.write_all(&request).await.map_err(|error| failed(&error))?;
        let (mut read, mut scanned, mut head) = (Vec::new(), 0, ResponseHead::new());
        loop {
            // Byte by byte: what follows the answer belongs to the session.
            let mut byte = [0];
            match recv.read(&mut byte).await {
                Ok(Some(_)) => read.extend_from_slice(&byte),
                Ok(None) => return Err(failed(&"closed before it answered")),
                Err(error) => return Err(failed(&error)),
            }
            if byte[0] != b'\n' {
                continue;
            }
            match parse_response(&read, &mut scanned, &mut head, &ANSWER) {
                Ok(Some(_)) if head.is_informational() && head.status != 101 => {
                    read.clear();
                    scanned = 0;
                }
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(error) => return Err(self.broken(format!("it speaks no HTTP: {}", error.detail()))),
            }
        }
        match hello::told(&head, &Upgrade::Session) {
            Ok(told) => Ok((send, recv, told)),
            Err(why) => {
                let _ = send.finish();
                // A body that does not come is not waited for.
                let body = timeout(LAST_WORD, recv.read_to_end(REASON)).await;
                Err(self.refused(&why, head.status, &body.ok().and_then(Result::ok).unwrap_or_default()))
            }
        }
    }
}

fn words(made_of: Transport, failure: &Failure) -> String {
    let code = match failure {
        Failure::Never(why) => return why.clone(),
        Failure::Lost(ConnectionError::ConnectionClosed(close)) => u64::from(close.error_code),
        Failure::Lost(ConnectionError::TransportError(error)) => u64::from(error.code),
        Failure::Lost(error) => return error.to_string(),
    };
    match (code, failure) {
        (REFUSED, _) => "it takes no connections over QUIC now".to_owned(),
        (NO_PROTOCOL, _) if made_of == Transport::QuicTunnel => {
            "it does not speak as quic-reverse-http-tunnel does".to_owned()
        }
        (NO_PROTOCOL, _) => "it does not speak tidegate/1 over QUIC".to_owned(),
        (0x100..0x200, Failure::Lost(ConnectionError::TransportError(error))) => {
            format!("TLS over QUIC failed: {}", error.reason)
        }
        (0x100..0x200, Failure::Lost(ConnectionError::ConnectionClosed(close))) => {
            let said = String::from_utf8_lossy(&close.reason);
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            format!("TLS over QUIC was refused: {said}")
        }
        (_, Failure::Lost(error)) => error.to_string(),
        (_, Failure::Never(why)) => why.clone(),
    }
}

/// Why there is no connection.
enum Failure {
    /// None was begun.
    Never(String),
    /// It failed.
    Lost(ConnectionError),
}

/// The first connection that comes about by then; else why there is none, as whoever answered last says it.
async fn first_of(
    endpoint: &Endpoint,
    config: &ClientConfig,
    addresses: Vec<SocketAddr>,
    name: &str,
    by: Instant,
) -> Result<Connection, Failure> {
    let mut failure = Failure::Never("no address".to_owned());
    let failed = |error: Failure| match (&failure, &error) {
        // That one address is silent says less than what another one has answered.
        (Failure::Lost(_), Failure::Never(_) | Failure::Lost(ConnectionError::TimedOut)) => {}
        _ => failure = error,
    };
    let pause = |address: SocketAddr| if address.ip().is_loopback() { STAGGER_HERE } else { STAGGER };
    let attempt = |address| {
        // Another family than the socket's, for one.
        let begun = endpoint.connect_with(config.clone(), address, name).map_err(|why| Failure::Never(why.to_string()));
        async move { begun?.await.map_err(Failure::Lost) }
    };
    match timeout_at(by, dial::race(addresses, pause, attempt, failed)).await {
        Ok(Some(connection)) => Ok(connection),
        Err(_) if matches!(failure, Failure::Never(_)) => Err(Failure::Lost(ConnectionError::TimedOut)),
        Ok(None) | Err(_) => Err(failure),
    }
}
