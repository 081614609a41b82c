//! What a request shows of itself, and whether it is worth asking about. Pure; nothing here verifies anything.
//!
//! `head` finds the credential and the tenant in a head, `token` looks at the shape of a JWT.

pub mod head;
pub mod token;
