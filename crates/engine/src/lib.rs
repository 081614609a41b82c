//! The data plane of tidegate. The list below is the floor plan: a module uses only what stands above it here.

// ground
pub mod backoff;
pub mod error;
pub mod event;
pub mod identity;
pub mod io;
pub mod metrics;
pub mod shutdown;
pub mod snapshot;
pub mod timer;
pub mod worker;
