//! HTTP/1.0 and 1.1 without I/O: bytes in, heads and body parts out, and the other way round.
//!
//! What RFC 9112 calls ambiguous is refused here, in both directions, so that nothing above can pass it on. Reading,
//! writing and deadlines are the caller's.

pub mod refusal;
pub mod body;
pub mod framing;
pub mod head;
pub(crate) mod target;
