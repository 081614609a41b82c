//! Upstreams of a snapshot: addresses that stand for each other, how one is chosen and how their health is known.

use std::time::Duration;

use serde::Deserialize;

use super::ClientTls;

/// Addresses of which each may serve a request.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Upstream {
    /// What routes, logs, metrics and status call it; unique. A route's own addresses come as an upstream of its name.
    pub name: String,
    /// The addresses, at least one.
    pub addresses: Vec<UpstreamAddress>,
    /// Which one a request gets.
    pub balance: Balance,
    /// How they are asked whether they work; none: they are not.
    pub health: Option<Health>,
    /// When one is left out because requests failed; none: never.
    pub ejection: Option<Ejection>,
    /// How often a name is looked up again, in seconds.
    #[serde(deserialize_with = "super::seconds")]
    pub resolve_interval: Duration,
    /// The version of the PROXY header that opens each connection: 1, 2 or none.
    pub proxy_protocol: Option<u8>,
}

/// One address of an upstream.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct UpstreamAddress {
    /// An IP address, without brackets, or a name; every address behind a name is used.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where it speaks TLS.
    pub tls: Option<ClientTls>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Its share of requests beside the others', at least 1.
    pub weight: u32,
}

/// The HTTP version of an upstream.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN with TLS, by prior knowledge without.
    Http2,
}

/// Which address a request gets.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest requests for its weight.
    LeastRequests,
    /// The same for the same value of a cookie, by consistent hash; by source address where there is none.
    Cookie(String),
    /// The same for the same source address, by consistent hash.
    Source,
}

/// How an address is asked whether it works.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Health {
    /// A path that must answer 200 to 399 to GET; none: a TCP connection is enough.
    pub path: Option<String>,
    /// What it sees as Host; none: its own host and port.
    pub host: Option<String>,
    /// From one check to the next.
    #[serde(deserialize_with = "super::seconds")]
    pub interval: Duration,
    /// Absolute, for one check.
    #[serde(deserialize_with = "super::seconds")]
    pub timeout: Duration,
    /// So many failures in a row and it is left out, at least 1.
    pub fall: u32,
    /// So many successes in a row and it counts again, at least 1.
    pub rise: u32,
}

/// When an address is left out because requests to it failed.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Ejection {
    /// So many failures in a row: not reached, no answer, or 502, 503, 504.
    pub failures: u32,
    /// For so long; never the last one that is left.
    #[serde(deserialize_with = "super::seconds")]
    pub time: Duration,
}
