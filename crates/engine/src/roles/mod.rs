//! What one starts: a gateway, an agent, a forward. Each is a page that puts the parts together.

pub mod agent;
pub mod forward;
pub mod gateway;
pub mod handle;

pub use handle::{Role, StartError, start};
