//! Tunnels over QUIC at a gateway: who is let in, what a flood costs, and what becomes of addresses that change.
#![allow(clippy::disallowed_methods, reason = "its threads are its own")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[allow(dead_code, reason = "what the tests of credentials need besides")]
#[path = "../auth/gate.rs"]
mod gate;
mod dialled;
// What is tried.
mod hostile;
mod moving;
mod reached;
mod refused;
mod unspoken;
