//! Where we accept: sockets, and what is spoken on them.

pub mod bind;
pub mod accept;
pub mod arrive;
// What is done with an accepted connection, one file a kind.
pub mod refuse;
pub mod http;
pub mod tcp;
pub mod udp;
pub mod connect;
pub mod hail;
pub mod session;
pub mod tunnel;
pub mod reach;
mod handshakes;
pub mod quic;
pub mod quic_port;
// What stands in front of each of them where TLS is spoken.
pub mod tls;
// All listeners of a gateway.
pub mod leads;
mod plan;
pub mod set;

pub use bind::ListenError;
pub use set::Listeners;
