//! Where a request leads, by what it says: the configuration's routes, and the endpoint that it names by itself.
//!
//! Pure: who is there to serve it, and whether the listener permits it, is `proxy::site`.

pub mod named;
// A route's match.
pub mod path;
pub mod matcher;
pub mod server_name;
// What a route makes of a request.
pub mod redirect;
// For whoever asks.
pub mod why;

pub use named::{MAX_NAME, Named, endpoint_of, valid_name};
