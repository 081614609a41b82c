//! The whole configuration of one role, as Python hands it down.
//!
//! It arrives complete: every default stands in `config/model.py`, none here, and every name is resolved. Unknown
//! fields are ignored, so that a newer Python can speak to an older engine. Checking what people write is Python's;
//! what is refused here is a mistake between the two.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

mod agent;
pub mod auth;
mod listener;
pub mod route;
pub mod upstream;

pub use agent::{Agent, AllowEntry, ConnectRules, HostHeader, Offer, OfferKind, Target};
pub use auth::{Auth, Neighbours};
pub use listener::{
    Certificate, ClientCertificate, ConnectTo, DynamicEndpoints, Listener, ListenerKind, ServerTls, TlsVersion,
};
pub use route::{Destination, Route};
pub use upstream::Upstream;

/// What one engine is to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Snapshot {
    /// Accepts downstreams and agents.
    Gateway(Gateway),
    /// Offers local services as endpoints.
    Agent(Agent),
    /// Reaches endpoints from local ports.
    Forward(Forward),
}

/// A gateway, whole.
#[derive(Clone, Debug, Deserialize)]
pub struct Gateway {
    /// The program's version, told to agents.
    pub version: String,
    /// This node's name, told to agents.
    pub node: String,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Leave out the probe that finds another process on our ports.
    pub takeover: bool,
    /// Where we accept.
    pub listeners: Vec<Listener>,
    /// Addresses that routes and listeners lead to, by name.
    pub upstreams: Vec<Upstream>,
    /// Where requests and TLS connections lead.
    pub routes: Vec<Route>,
    /// Which of several matching routes counts.
    pub routing: Routing,
    /// The status of a request that no route matches: 404, or what a predecessor sent.
    pub no_route_status: u16,
    /// Sources whose `X-Forwarded-...` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Pages that take the place of our own answers' bodies.
    pub error_pages: ErrorPages,
    /// `https://{endpoint}.gate.example.com`; none where the operator gave none.
    pub public_url: Option<String>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Sizes and numbers.
    pub limits: Limits,
    /// Tunnels' keep-alive.
    pub tunnel: Tunnel,
    /// One line a request, or none.
    pub access_log: AccessLog,
    /// What tokens have to look like, by the ids that policies name.
    #[serde(default)]
    pub verifier_sets: Vec<auth::VerifierSet>,
    /// The tenants there are, and what all tokens of one together may have where that is bounded. None: whatever a
    /// credential says is one.
    #[serde(default)]
    pub tenants: Option<BTreeMap<String, Option<auth::Allowed>>>,
}

/// What a tunnel is made of.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP: yamux over one byte stream, which is a WebSocket everywhere but in tests.
    WebSocket,
    /// UDP: streams of QUIC.
    Quic,
    /// The same, as quic-reverse-http-tunnel uses them; of an agent only.
    #[serde(rename = "quic-tunnel")]
    QuicTunnel,
}

impl Transport {
    /// Its name in the configuration, in logs, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Quic => "quic",
            Transport::QuicTunnel => "quic-tunnel",
        }
    }
}

/// What carries a tunnel, whatever is spoken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By UDP.
    Quic,
    /// By TCP.
    WebSocket,
}

impl Way {
    /// Its name in logs, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Way::Quic => Transport::Quic.word(),
            Way::WebSocket => Transport::WebSocket.word(),
        }
    }
}

/// What an agent's tunnels are made of.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TransportChoice {
    /// QUIC where it works, else WebSocket.
    Auto,
    /// WebSocket alone.
    WebSocket,
    /// QUIC alone.
    Quic,
    /// QUIC as quic-reverse-http-tunnel speaks it.
    #[serde(rename = "quic-tunnel")]
    QuicTunnel,
}

/// Which of several matching routes counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The most specific one.
    Specific,
    /// The first of the list.
    First,
}

/// Bodies of our own answers; `{status}`, `{reason}`, `{code}`, `{message}`, `{detail}` and `{request_id}` are filled
/// in, escaped for the language of the page.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct ErrorPages {
    /// For browsers; none: the built-in page.
    pub html: Option<String>,
    /// For programs; none: the built-in object.
    pub json: Option<String>,
}

/// An endpoint as the configuration names it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct EndpointRef {
    /// The owner; empty where there are no tenants.
    #[serde(default)]
    pub tenant: String,
    /// The name.
    pub endpoint: String,
}

impl EndpointRef {
    /// The owner: `usual` where it does not say.
    pub fn owner<'a>(&'a self, usual: &'a str) -> &'a str {
        if self.tenant.is_empty() { usual } else { &self.tenant }
    }
}

/// Deadlines, in seconds in the snapshot. None bounds a whole message.
#[derive(Clone, Debug, Deserialize)]
pub struct Timeouts {
    /// Absolute: to connect to an address, or to a gateway.
    #[serde(deserialize_with = "seconds")]
    pub connect: Duration,
    /// Absolute: TLS and WebSocket handshakes.
    #[serde(deserialize_with = "seconds")]
    pub handshake: Duration,
    /// Absolute: from a request head's first byte to its last.
    #[serde(deserialize_with = "seconds")]
    pub head: Duration,
    /// From the end of the request to the head of the response.
    #[serde(deserialize_with = "seconds")]
    pub response: Duration,
    /// While a message or a stream moves no byte in either direction.
    #[serde(deserialize_with = "seconds")]
    pub idle: Duration,
    /// A downstream connection between two requests.
    #[serde(deserialize_with = "seconds")]
    pub keep_alive: Duration,
    /// A kept connection or stream to an upstream.
    #[serde(deserialize_with = "seconds")]
    pub upstream_keep_alive: Duration,
}

/// Sizes and numbers.
#[derive(Clone, Debug, Deserialize)]
pub struct Limits {
    /// Bytes of a head; beyond it 431.
    pub head_bytes: usize,
    /// Fields of a head; beyond it 431.
    pub head_fields: usize,
    /// Connections of visitors, and as many of agents, that a gateway has at once; beyond it idle ones
    /// end, else new ones are refused.
    pub connections: usize,
    /// Kept idle connections or streams for an upstream, each worker.
    pub idle_upstreams: usize,
    /// Share of requests that may be tried again, in percent of those of the last seconds.
    pub retry_percent: u32,
    /// Requests that one connection of HTTP/2 may have running, at least 1; more are refused.
    pub http2_streams: u32,
}

/// How tunnels are watched.
#[derive(Clone, Debug, Deserialize)]
pub struct Tunnel {
    /// A ping is sent when nothing was heard for so long.
    #[serde(deserialize_with = "seconds")]
    pub ping_interval: Duration,
    /// The session ends when a ping is not answered within this.
    #[serde(deserialize_with = "seconds")]
    pub ping_timeout: Duration,
    /// How fast a tunnel over QUIC sends.
    pub congestion: Congestion,
}

/// What decides how fast is sent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Less at every loss.
    Cubic,
    /// By the rate at which things arrive.
    Bbr,
}

/// One line a request.
#[derive(Clone, Debug, Deserialize)]
pub struct AccessLog {
    /// `stdout`, a file's path, or none.
    pub to: Option<String>,
    /// Its form.
    pub format: AccessLogFormat,
    /// Seconds east of UTC of the clock in the text form.
    #[serde(default)]
    pub utc_offset: i32,
}

/// The form of an access log's lines.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// One short line for a person.
    Text,
    /// One JSON object.
    Json,
}

/// A forward, whole.
#[derive(Clone, Debug, Deserialize)]
pub struct Forward {
    /// The program's version, told to gateways.
    pub version: String,
    /// Where its gateways are.
    pub connect: Connect,
    /// Local ports and where they lead.
    pub forwards: Vec<ForwardPort>,
    /// Sessions' keep-alive.
    pub tunnel: Tunnel,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Sizes and numbers.
    pub limits: Limits,
    /// One line a connection, or none.
    pub access_log: AccessLog,
}

/// How an agent or forward reaches its gateways.
#[derive(Clone, Debug, Deserialize)]
pub struct Connect {
    /// `http(s)://` or `ws(s)://` URLs with an optional path prefix; tried in turn.
    pub urls: Vec<String>,
    /// The bearer token, without `Bearer`.
    pub token: Option<Secret>,
    /// Another token may follow while this one is in use: that it is over is not the end.
    #[serde(default)]
    pub renews: bool,
    /// The tenant to offer for; empty where there are none.
    pub tenant: String,
    /// What an agent's tunnels are made of.
    pub transport: TransportChoice,
    /// An HTTP proxy that serves CONNECT, `http://[user:password@]host:port`. Python has applied NO_PROXY per URL.
    pub proxies: Vec<Option<Secret>>,
    /// How certificates are checked, for `https://`.
    pub tls: ClientTls,
}

/// How the certificate of a server is checked, and what we show.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct ClientTls {
    /// PEM of the only certificate authorities that count; none: the system's.
    pub ca: Option<String>,
    /// PEM of our certificate chain.
    pub cert: Option<String>,
    /// PEM of its key.
    pub key: Option<Secret>,
    /// The name to expect instead of the one dialled.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// A local port that leads to an endpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct ForwardPort {
    /// The addresses it binds.
    pub bind: Vec<SocketAddr>,
    /// Where it leads.
    pub endpoint: String,
    /// For datagrams: a source that has said and got nothing for so long is forgotten. None: it is for TCP.
    #[serde(default, deserialize_with = "optional_seconds")]
    pub udp_idle: Option<Duration>,
}

/// A string that `Debug` never shows.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Secret(secret)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    seconds.map(Duration::try_from_secs_f64).transpose().map_err(serde::de::Error::custom)
}
