//! Who may offer and who may reach, through a whole gateway: its listeners, a real agent, and an answerer played here.
#![allow(clippy::disallowed_methods, reason = "its threads are its own")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "../support/anybody.rs"]
mod anybody;
mod gate;
mod others;
mod requests;
mod tunnels;
