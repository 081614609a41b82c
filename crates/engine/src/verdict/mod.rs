//! Is this credential good, and for what? Asked once a credential, of whoever knows, and remembered.
//!
//! `policy` finds out what there is to ask, `cache` remembers, `questions` is the queue to whoever answers. A known
//! credential costs a digest and a look-up; a flood of forged ones fills a queue that has an end.

pub mod cache;
pub mod policy;
pub mod questions;
pub mod verdicts;

pub use policy::{Access, Ask, Evidence, Policy};
pub use questions::Kind;
pub use verdicts::Verdicts;
