//! Any upstream, whatever it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::info::{StreamInfo, StreamKind};
use super::session::AgentSession;
use super::tcp::Address;
use crate::error::{Code, Error, Result};
use crate::io::BoxedIo;
use crate::snapshot::upstream::Protocol;
use crate::tunnel::Flow;
use crate::tunnel::hello::Features;

/// One upstream.
#[derive(Clone)]
pub enum Upstream {
    /// A session that an agent opened.
    Session(Arc<AgentSession>),
    /// An address that we dial.
    Address(Arc<Address>),
}

impl Upstream {
    /// What tells it apart from every other upstream of this process.
    pub fn id(&self) -> u64 {
        match self {
            Upstream::Session(session) => session.id,
            Upstream::Address(address) => address.id,
        }
    }

    /// Opens a stream. An error here is always undelivered.
    pub async fn open(&self, info: &StreamInfo) -> Result<BoxedIo> {
        match self {
            Upstream::Session(session) => session.open(info).await,
            Upstream::Address(address) => address.open(Some(info)).await,
        }
    }

    /// Opens a flow of datagrams. An error here is always undelivered.
    pub async fn open_flow(&self) -> Result<Flow> {
        match self {
            Upstream::Session(session) => session.open_flow().await,
            Upstream::Address(_) => Err(Error::undelivered(Code::UpstreamUnreachable, "an address takes no datagrams")),
        }
    }

    /// Requests and streams that run on it now, of all workers.
    pub fn in_flight(&self) -> &AtomicUsize {
        match self {
            Upstream::Session(session) => &session.in_flight,
            Upstream::Address(address) => &address.in_flight,
        }
    }

    /// False when a new stream is certain to fail.
    pub fn is_open(&self) -> bool {
        match self {
            Upstream::Session(session) => session.tunnel.is_open(),
            Upstream::Address(address) => address.is_open(),
        }
    }

    /// The worker whose thread serves it, where that is one.
    pub fn worker(&self) -> Option<usize> {
        match self {
            Upstream::Session(session) => Some(session.worker),
            Upstream::Address(_) => None,
        }
    }

    /// What it negotiated; an address negotiates nothing.
    pub fn features(&self) -> Features {
        match self {
            Upstream::Session(session) => session.features,
            Upstream::Address(_) => Features { retry: false, reuse: true, ..Features::default() },
        }
    }

    /// What requests to it are sent in.
    pub fn http(&self) -> StreamKind {
        let two = match self {
            Upstream::Session(session) => session.features.h2,
            Upstream::Address(address) => address.spec.protocol == Protocol::Http2,
        };
        if two { StreamKind::Http2 } else { StreamKind::Http1 }
    }

    /// True where what is opened is encrypted by us.
    pub fn is_tls(&self) -> bool {
        match self {
            Upstream::Session(_) => false,
            Upstream::Address(address) => address.spec.tls.is_some(),
        }
    }

    /// True where a connection serves one downstream alone: it began with that one's address.
    pub fn is_personal(&self) -> bool {
        matches!(self, Upstream::Address(address) if address.spec.proxy_protocol.is_some())
    }

    /// Begins a request on it, which counts until the guard is dropped.
    pub fn begin(self) -> Busy {
        self.in_flight().fetch_add(1, Ordering::Relaxed);
        if let Upstream::Address(address) = &self {
            address.requests.fetch_add(1, Ordering::Relaxed);
        }
        Busy(self)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Session(session) => write!(f, "session {}", session.id),
            Upstream::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A request that runs on an upstream.
pub struct Busy(Upstream);

impl Busy {
    /// The upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight().fetch_sub(1, Ordering::Relaxed);
    }
}
