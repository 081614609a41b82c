//! The data plane of tidegate. The list below is the floor plan: a module uses only what stands above it here.

pub mod error;
pub mod io;
pub mod snapshot;
pub mod message;
pub mod http1;
pub mod route;
pub mod headers;
pub mod tls;
pub mod dial;
