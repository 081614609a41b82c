//! TLS, by rustls with the aws-lc-rs provider.

mod pem;
mod stream;
// Towards a server, and towards whoever connects.
pub mod client;
pub mod server;
// Both, inside QUIC.
pub mod quic;
