//! Where a request leads, by what it says: the configuration's routes, and the endpoint that it names by itself.
//!
//! Pure: who is there to serve it, and whether the listener permits it, is `proxy::site`.

pub mod named;
pub mod matcher;
pub mod server_name;

pub use named::{MAX_NAME, Named, endpoint_of, valid_name};
