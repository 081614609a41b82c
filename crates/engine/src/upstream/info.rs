//! What an upstream is told about the stream that it opens, and what tells upstreams apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a stream is opened for.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// The owner of the endpoint; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// The endpoint; empty where a route leads to an address.
    pub endpoint: Arc<str>,
    /// What the stream will carry.
    pub kind: StreamKind,
    /// Who asked for it.
    pub client: SocketAddr,
    /// Where that connection came in, where it is known.
    pub local: Option<SocketAddr>,
    /// The request's id.
    pub request_id: u64,
    /// Nodes that it has passed; a node opens a hop only at 0.
    pub hops: u8,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// HTTP/1.1 requests, one after the other.
    Http1,
    /// Many requests of HTTP/2 at once.
    Http2,
    /// Raw bytes.
    Tcp,
    /// Datagrams, each whole or not at all.
    Datagram,
}

/// The next id of an upstream, unique in this process.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
