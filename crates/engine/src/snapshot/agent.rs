//! An agent's snapshot: what it offers, what stands behind that, and what its streams may lead to.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::upstream;
use super::{AccessLog, ClientTls, Connect, Limits, Timeouts, Tunnel};

/// An agent, whole.
#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    /// The program's version, told to gateways.
    pub version: String,
    /// Random, the same for the life of the process: a gateway ends the old session of an agent that comes back.
    pub id: String,
    /// Where its gateways are.
    pub connect: Connect,
    /// Tunnels it keeps per endpoint.
    pub connections: usize,
    /// What it offers.
    pub endpoints: Vec<Offer>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Sizes and numbers.
    pub limits: Limits,
    /// Tunnels' keep-alive.
    pub tunnel: Tunnel,
    /// One line a request, or none.
    pub access_log: AccessLog,
}

/// One endpoint that an agent offers.
#[derive(Clone, Debug, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// What the streams carry.
    pub kind: OfferKind,
    /// The local service; none for kind connect, where each stream says its own.
    pub to: Option<Target>,
    /// Kind udp: a flow that has carried nothing for so long ends.
    #[serde(default, deserialize_with = "super::optional_seconds")]
    pub idle: Option<Duration>,
    /// Kind connect: what streams may be connected to.
    #[serde(default)]
    pub allow: Vec<AllowEntry>,
    /// Kind connect: what counts besides that list.
    #[serde(default)]
    pub connect: ConnectRules,
    /// What the local service sees as Host.
    pub host_header: HostHeader,
    /// The HTTP version of the local service and, where the gateway knows it too, of the streams.
    pub protocol: upstream::Protocol,
    /// How the service is asked whether it works; while it fails the endpoint is withdrawn. None: it is not asked.
    pub health: Option<upstream::Health>,
}

/// What the streams of an endpoint carry.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OfferKind {
    /// HTTP requests.
    Http,
    /// Raw bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// A CONNECT request, and then raw bytes.
    Connect,
}

/// Something that an agent may connect to: a network or a name, and ports.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct AllowEntry {
    /// The addresses of a network, whatever name leads to them.
    #[serde(default)]
    pub network: Option<IpNet>,
    /// A name in its normal form; `*.` and a name stands for one label or more.
    #[serde(default)]
    pub name: Option<String>,
    /// The first port.
    pub low: u16,
    /// The last one.
    pub high: u16,
}

/// What counts for an agent's CONNECT besides its list.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct ConnectRules {
    /// Whatever is neither of this machine nor of its link is allowed, too.
    #[serde(default)]
    pub only_safe: bool,
    /// Addresses of our own that only their exact entry opens; an unspecified one is every address of this machine.
    #[serde(default)]
    pub never: Vec<SocketAddr>,
    /// The status of whatever is refused or fails, where it is always the same.
    #[serde(default)]
    pub failed_status: Option<u16>,
}

/// A local service.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// An IP address or a name; `localhost` means `::1` and `127.0.0.1`, both tried.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where it speaks TLS.
    pub tls: Option<ClientTls>,
}

/// What an upstream sees as Host.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// What the downstream sent.
    Keep,
    /// The upstream's own host and port.
    Rewrite,
    /// This.
    Set(String),
}
