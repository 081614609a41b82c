//! What an upstream is told about the stream that it opens.

use std::net::SocketAddr;
use std::sync::Arc;

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
}
