//! TLS, by rustls with the aws-lc-rs provider.

pub mod client;
