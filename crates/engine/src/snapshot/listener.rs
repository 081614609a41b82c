//! Listeners of a snapshot: the addresses that others connect to, what is spoken there, and how they speak TLS.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::auth::Auth;
use super::route::Destination;
use super::{EndpointRef, Secret, Transport};

/// A local address that downstreams or agents connect to.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Listener {
    /// Its name in the configuration, in logs and metrics.
    pub name: String,
    /// The addresses it binds, resolved; port 0 lets the system pick.
    pub bind: Vec<SocketAddr>,
    /// Where it speaks TLS; without certificates everything is passed through.
    pub tls: Option<ServerTls>,
    /// Sources from which every connection begins with a PROXY header; elsewhere one is refused. Empty: nowhere.
    pub proxy_protocol: Vec<IpNet>,
    /// The owner of the endpoints that it leads to or that are offered on it, where nothing else says; may be empty.
    #[serde(default)]
    pub tenant: String,
    /// Addresses that may connect; empty: all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// Addresses that may not.
    #[serde(default)]
    pub deny: Vec<IpNet>,
    /// Which credentials open it; none: nothing is asked for.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// What connects to it: WebSocket and everything else that is TCP, or QUIC at the same port numbers. Kind udp:
    /// neither.
    pub transports: Vec<Transport>,
    /// Where QUIC is reached, where that is not the port of the URL: told to agents.
    pub quic_at: Option<String>,
    /// What agents of quic-reverse-http-tunnel offer, who name nothing: they alone connect to it then.
    #[serde(default)]
    pub quic_tunnel: Option<String>,
    /// What is spoken on it.
    #[serde(flatten)]
    pub kind: ListenerKind,
}

impl Listener {
    /// True where this connects to it.
    pub fn takes(&self, transport: Transport) -> bool {
        self.transports.contains(&transport)
    }
}

/// What is spoken on a listener.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ListenerKind {
    /// HTTP requests, routed each by itself.
    Http {
        /// Which endpoints a request may name.
        dynamic_endpoints: DynamicEndpoints,
    },
    /// Raw bytes to one endpoint or upstream.
    Tcp {
        /// Where they lead.
        to: Destination,
    },
    /// Datagrams to one endpoint.
    Udp {
        /// Where they lead.
        to: EndpointRef,
        /// A source that has said and got nothing for so long is forgotten.
        #[serde(deserialize_with = "super::seconds")]
        idle: Duration,
        /// Sources at once; of more the one that has been idle longest is forgotten.
        sessions: usize,
    },
    /// Agents.
    Tunnel {},
    /// CONNECT requests, each to the endpoint that its target leads to.
    Connect {
        /// Which targets lead where; the first that fits counts.
        to: Vec<ConnectTo>,
    },
}

/// Where a listener of kind connect leads some targets: those of a network, or those of a name.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ConnectTo {
    /// Targets that are written as addresses of this network.
    #[serde(default)]
    pub network: Option<IpNet>,
    /// Targets of this name, in its normal form; `*.` and a name stands for one label or more, `*` for every name.
    #[serde(default)]
    pub name: Option<String>,
    /// Where they lead.
    #[serde(flatten)]
    pub to: EndpointRef,
}

/// Which endpoints a request may name by itself on a listener of kind http.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum DynamicEndpoints {
    /// Every one that nothing in the configuration names.
    Unnamed,
    /// Exactly these. Empty: none.
    Allow(Vec<String>),
}

impl Default for DynamicEndpoints {
    fn default() -> Self {
        DynamicEndpoints::Allow(Vec::new())
    }
}

impl DynamicEndpoints {
    /// True when there is an endpoint that a request may name by itself.
    pub fn permits_any(&self) -> bool {
        *self != DynamicEndpoints::Allow(Vec::new())
    }
}

/// How a listener speaks TLS.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ServerTls {
    /// What it shows, chosen by server name; the first one where no name fits. Empty: nothing is decrypted.
    pub certificates: Vec<Certificate>,
    /// PEM of the authorities whose client certificates are believed; none: none is asked for.
    pub client_ca: Option<String>,
    /// Whether a connection without one is refused.
    pub client_certificate: ClientCertificate,
    /// The oldest version that is spoken: 1.2 or 1.3.
    pub min_version: TlsVersion,
}

/// A certificate and its key.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Certificate {
    /// PEM of the chain, the leaf first.
    pub cert: String,
    /// PEM of the leaf's private key.
    pub key: Secret,
    /// What to call it in messages: the file's name.
    pub name: String,
}

/// Whether a client certificate is needed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// Nobody gets in without.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}
