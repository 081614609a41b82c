//! Who somebody is, and what that permits.
//!
//! Every connection, session and request carries an identity, anonymous where nothing is configured, and can be found
//! and ended by it. Where it comes from is not decided here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hashbrown::HashMap;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Who connected, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The owner of the endpoints meant; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// Endpoints that may be offered.
    pub listen: Permitted,
    /// Endpoints that may be reached.
    pub reach: Permitted,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

/// A set of endpoint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permitted {
    /// Every one.
    All,
    /// These; a name may end in `*`.
    Names(Arc<[Box<str>]>),
}

impl Permitted {
    /// True when `endpoint` is in the set. Compared byte for byte.
    pub fn contains(&self, endpoint: &str) -> bool {
        match self {
            Permitted::All => true,
            Permitted::Names(names) => names.iter().any(|name| match name.strip_suffix('*') {
                Some(prefix) => endpoint.starts_with(prefix),
                None => **name == *endpoint,
            }),
        }
    }
}

impl Identity {
    /// Somebody of whom nothing was asked: every endpoint without a tenant, for ever.
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Identity { tenant: "".into(), listen: Permitted::All, reach: Permitted::All, expires: None })
    }
}

/// Everything that lives under some identity.
#[derive(Default)]
pub struct Directory {
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    next: u64,
    entries: HashMap<u64, (Arc<Identity>, CancellationToken)>,
}

impl Directory {
    /// Notes something that lives under `identity`, until the entry is dropped.
    pub fn enter(self: &Arc<Self>, identity: Arc<Identity>) -> Entry {
        let ended = CancellationToken::new();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let number = live.next;
        live.next += 1;
        live.entries.insert(number, (identity, ended.clone()));
        Entry { directory: self.clone(), number, ended }
    }

    /// Ends whatever lives under an identity that `is_meant` picks; how many that were.
    pub fn end(&self, is_meant: impl Fn(&Identity) -> bool) -> usize {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let meant: Vec<_> = live.entries.values().filter(|(identity, _)| is_meant(identity)).collect();
        meant.iter().for_each(|(_, ended)| ended.cancel());
        meant.len()
    }

    /// How much lives under any identity.
    pub fn len(&self) -> usize {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// True when nothing does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One thing that lives under an identity.
pub struct Entry {
    directory: Arc<Directory>,
    number: u64,
    ended: CancellationToken,
}

impl Entry {
    /// Resolves when it is to end because of who it belongs to.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.directory.live.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_permits_every_continuation_and_nothing_else() {
        let names = Permitted::Names(["web".into(), "team-*".into()].into());
        assert!(names.contains("web") && names.contains("team-a") && names.contains("team-"));
        assert!(!names.contains("web2") && !names.contains("Team-a") && !names.contains("team"));
    }

    #[tokio::test]
    async fn what_lives_under_an_identity_is_found_and_ended_by_it() {
        let directory = Arc::new(Directory::default());
        let of = |tenant: &str| Arc::new(Identity { tenant: tenant.into(), ..Identity::clone(&Identity::anonymous()) });
        let (mine, theirs) = (directory.enter(of("a")), directory.enter(of("b")));
        assert_eq!(directory.end(|identity| &*identity.tenant == "a"), 1);
        mine.ended().await;
        assert!(!theirs.ended.is_cancelled());
        drop((mine, theirs));
        assert!(directory.is_empty());
    }
}
