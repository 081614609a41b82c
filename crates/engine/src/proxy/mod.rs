//! Carries requests and streams from downstreams to upstreams.

pub mod access;
pub mod budget;
pub mod http1;
pub mod pump;
pub mod splice;
pub mod relay;
pub mod respond;
// What all connections share, and where a request leads.
pub mod table;
pub mod shared;
pub mod site;
pub mod secured;
// One request, one stream, one connection.
pub mod exchange;
pub mod opening;
pub mod stream;
pub mod passthrough;
pub mod serve;
