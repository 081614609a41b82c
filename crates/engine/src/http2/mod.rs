//! HTTP/2 without I/O: heads as everything above sees them, and what a peer may send that carries nothing.
//!
//! Frames, HPACK and flow control are the crate `h2`'s; what stands here is what it leaves to its user.

pub mod frames;
pub mod head;
