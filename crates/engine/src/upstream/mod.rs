//! Where we send: something one can open a stream to.
//!
//! An upstream (`any`) is the session of an agent (`session`) or an address (`tcp`). Whether it may be picked is its
//! condition (`ejection`). Several addresses under one name are a `group`: which of them a request gets is `members`,
//! what they are and how they fare is kept fresh by `tending`. Which upstream of any set a request gets is `balance`;
//! what is kept open between requests is `pool`; who offers what is `registry`.

pub mod info;
pub mod hash;
pub mod ejection;
pub mod session;
pub mod tcp;
// The two above as one, and what is done with many of them.
pub mod any;
pub mod members;
pub mod resolve;
pub mod health;
pub mod group;
pub mod tending;
pub mod balance;
pub mod pool;

pub use any::Upstream;
pub use balance::{Endpoint, UpstreamSet};
pub use group::Group;
pub use info::{StreamInfo, StreamKind, next_id};
pub use pool::Pool;
pub use session::AgentSession;
pub use tcp::Address;
