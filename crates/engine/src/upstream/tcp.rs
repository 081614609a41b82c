//! An address, as an upstream: dialled anew for each connection, with TLS where it speaks that.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::dial;
use crate::error::{Code, Error, Result};
use crate::io::BoxedIo;
use crate::snapshot::upstream::Protocol;
use crate::tls::client::Connector;

/// A host and port that speak TCP or TLS.
pub struct Address {
    /// Unique in this process.
    pub id: u64,
    /// An IP address or a name; every address behind a name is tried.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where it speaks TLS.
    pub tls: Option<Connector>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Absolute, to connect.
    pub connect_timeout: Duration,
    /// Absolute, for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Requests and streams that run on it.
    pub in_flight: AtomicUsize,
}

impl Address {
    /// Connects. An error says what did not answer and is always undelivered.
    pub async fn open(&self) -> Result<BoxedIo> {
        let io = dial::connect(&self.host, self.port, self.connect_timeout).await?;
        let Some(connector) = &self.tls else { return Ok(Box::new(io)) };
        let handshake = connector.connect(Box::new(io), &self.host);
        match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(io)) => Ok(io),
            Ok(Err(error)) => Err(unreachable(format!("TLS with {self} failed: {error}"))),
            Err(_) => Err(unreachable(format!("no TLS handshake with {self} within {:?}", self.handshake_timeout))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn unreachable(detail: String) -> Error {
    Error::undelivered(Code::UpstreamUnreachable, detail)
}
