//! What one starts: a gateway, an agent, a forward. Each is a page that puts the parts together.

pub mod handle;
// Whatever dials gateways.
pub mod choice;
pub mod link;
// The three roles.
pub mod agent;
pub mod forward;
pub mod gateway;
// Whichever a snapshot describes.
pub mod start;

pub use handle::{Role, StartError};
pub use start::{explain, question, read, start};
