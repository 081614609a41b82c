//! Where we send: something one can open a stream to.
//!
//! An upstream (`any`) is the session of an agent (`session`) or an address (`tcp`). Several addresses under one name
//! are a `group`. Which one a request gets is `balance`; what is kept open between requests is `pool`; who offers what is `registry`.

pub mod info;
pub mod session;
pub mod tcp;
// The two above as one, and what is done with many of them.
pub mod any;
pub mod group;
pub mod balance;
pub mod pool;

pub use any::{Upstream, next_id};
pub use balance::{Endpoint, UpstreamSet};
pub use group::Group;
pub use info::{StreamInfo, StreamKind};
pub use pool::Pool;
pub use session::AgentSession;
pub use tcp::Address;
