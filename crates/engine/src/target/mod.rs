//! Targets of CONNECT: how one is written, and which ones an agent dials.
//!
//! Decides only: names are looked up, and addresses dialled, by `proxy::target`.

pub mod authority;
pub mod allowed;

pub use authority::{Host, Target};
