//! Carries requests and streams from downstreams to upstreams.

pub mod access;
pub mod respond;
pub mod budget;
pub mod http1;
pub mod http2;
// Either of the two.
pub mod http;
pub mod pump;
pub mod splice;
pub mod relay;
// What all connections share, and where a request leads.
pub mod table;
pub mod shared;
pub mod site;
pub mod secured;
pub mod admission;
pub mod explain;
// One request, one stream, one connection.
pub mod connector;
pub mod delivery;
pub mod exchange;
pub mod opening;
pub mod stream;
pub mod datagrams;
pub mod sources;
pub mod passthrough;
pub mod target;
pub mod connecting;
pub mod turn;
pub mod serve_http2;
pub mod serve;
