//! The data plane of tidegate. The list below is the floor plan: a module uses only what stands above it here.

// ground
pub mod error;
pub mod event;
pub mod snapshot;
pub mod metrics;
pub mod aside;
pub mod shutdown;
pub mod timer;
pub mod io;
pub mod backoff;
pub mod allowance;
pub mod identity;
pub mod terms;
pub mod room;
pub mod worker;

// decide
pub mod sniff;
pub mod message;
pub mod http1;
pub mod http2;
pub mod route;
pub mod forwarded;
pub mod headers;
pub mod credential;
pub mod target;

// link
pub mod tls;
pub mod dial;
pub mod tunnel;
pub mod connect;

// reach
pub mod upstream;
pub mod registry;
pub mod verdict;

// carry
pub mod proxy;

// accept
pub mod listener;

// roles
pub mod roles;
