//! Targets of CONNECT: how one is written, which ones an agent dials, and which endpoint a listener leads one to.
//!
//! Decides only: names are looked up, and addresses dialled, by `proxy::target`.

pub mod authority;
pub mod allowed;
pub mod rules;

pub use authority::{Host, Target};
