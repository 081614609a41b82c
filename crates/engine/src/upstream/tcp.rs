//! An address, as an upstream: dialled anew for each connection, with TLS where it speaks that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::ejection::Condition;
use super::hash::hash;
use super::info::{StreamInfo, next_id};
use crate::dial;
use crate::error::{Code, Error, Result};
use crate::io::BoxedIo;
use crate::snapshot::Timeouts;
use crate::snapshot::upstream::Protocol;
use crate::sniff;
use crate::tls::client::Connector;

/// Nobody in particular.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What the configuration says of an address.
#[derive(Clone)]
pub struct Spec {
    /// An IP address, without brackets, or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where it speaks TLS.
    pub tls: Option<Connector>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Its share of requests beside the others'.
    pub weight: u32,
    /// Absolute, to connect.
    pub connect_timeout: Duration,
    /// Absolute, for the TLS handshake.
    pub handshake_timeout: Duration,
    /// The version of the PROXY header that opens each connection.
    pub proxy_protocol: Option<u8>,
}

/// A host and port that speak TCP or TLS.
pub struct Address {
    /// Unique in this process.
    pub id: u64,
    /// What the configuration says of it.
    pub spec: Spec,
    /// The one address that is dialled; none: whatever the name stands for when it is dialled.
    pub ip: Option<IpAddr>,
    /// What it would be called in a Host field: its own host, and its port where that is not the usual one.
    pub authority: String,
    /// The same for the same address in every process: where it stands among others when requests stick to one.
    pub seed: u64,
    /// Whether it may be picked.
    pub condition: Condition,
    /// Requests and streams that run on it.
    pub in_flight: AtomicUsize,
    /// Requests and streams that were tried on it.
    pub requests: AtomicU64,
    /// Those of them that failed.
    pub failures: AtomicU64,
    gone: AtomicBool,
}

impl Spec {
    /// Deadlines as the snapshot has them, everything else as given.
    pub fn new(host: &str, port: u16, tls: Option<Connector>, protocol: Protocol, timeouts: &Timeouts) -> Self {
        Spec {
            host: host.to_owned(),
            port,
            tls: tls.map(|connector| connector.speaking(protocol)),
            protocol,
            weight: 1,
            connect_timeout: timeouts.connect,
            handshake_timeout: timeouts.handshake,
            proxy_protocol: None,
        }
    }

    /// Host and port, an IPv6 address in brackets.
    pub fn whole(&self) -> String {
        bracketed(&self.host, self.port)
    }
}

impl Address {
    /// An address of which nothing is known yet. `ip` is one that its name was found to stand for.
    pub fn new(spec: Spec, ip: Option<IpAddr>) -> Self {
        let usual = if spec.tls.is_some() { ":443" } else { ":80" };
        let whole = spec.whole();
        let authority = whole.strip_suffix(usual).unwrap_or(&whole).to_owned();
        let dialled = ip.map_or(whole, |ip| bracketed(&ip.to_string(), spec.port));
        Address {
            id: next_id(),
            ip: ip.or_else(|| spec.host.parse().ok()),
            authority,
            seed: hash(dialled.as_bytes()),
            spec,
            condition: Condition::default(),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// Connects, for somebody or for ourselves. An error says what did not answer and is always undelivered.
    pub async fn open(&self, info: Option<&StreamInfo>) -> Result<BoxedIo> {
        let Spec { host, port, tls, connect_timeout, handshake_timeout, .. } = &self.spec;
        let mut io = match self.ip {
            Some(ip) => dial::connect(&ip.to_string(), *port, *connect_timeout).await?,
            None => dial::connect(host, *port, *connect_timeout).await?,
        };
        if let Some(version) = self.spec.proxy_protocol {
            let to = info.and_then(|info| info.local).or(io.peer_addr().ok()).unwrap_or(UNKNOWN);
            let header = sniff::proxy::write(version, info.map_or(UNKNOWN, |info| info.client), to);
            let sent = io.write_all(&header).await;
            sent.map_err(|error| unreachable(format!("{self} takes no PROXY header: {error}")))?;
        }
        let Some(connector) = tls else { return Ok(Box::new(io)) };
        let handshake = connector.connect(Box::new(io), host);
        match tokio::time::timeout(*handshake_timeout, handshake).await {
            Ok(Ok(io)) => Ok(io),
            Ok(Err(error)) => Err(unreachable(format!("TLS with {self} failed: {error}"))),
            Err(_) => Err(unreachable(format!("no TLS handshake with {self} within {handshake_timeout:?}"))),
        }
    }

    /// Its name does not stand for it any more: what runs goes on, nothing is kept for it.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// False from [`Address::leave`] on.
    pub fn is_open(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => f.write_str(&bracketed(&ip.to_string(), self.spec.port)),
            None => f.write_str(&self.spec.whole()),
        }
    }
}

fn bracketed(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn unreachable(detail: String) -> Error {
    Error::undelivered(Code::UpstreamUnreachable, detail)
}
