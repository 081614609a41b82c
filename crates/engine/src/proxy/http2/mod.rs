//! HTTP/2 connections, either side: the crate `h2` on our streams and buffers.
//!
//! One task drives a connection, and the exchanges on it are tasks of their own that only touch their `stream`. Who
//! accepts connections is `serve_http2`; who is reached over them is `channel`.

pub mod held;
pub mod wire;
pub mod stream;
// Connections to upstreams, and those that are kept.
pub mod channel;
pub mod channels;
