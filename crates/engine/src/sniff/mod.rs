//! What the first bytes of a connection say: a server name in a ClientHello, a PROXY header, or plain HTTP.
//!
//! Bytes in, answers out: where the bytes were cut changes nothing. Reading, waiting, deadlines and what is done with
//! an answer are `listener`'s.

pub mod name;
pub mod proxy;
pub mod tls;
