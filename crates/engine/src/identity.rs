//! Who somebody is, and what that permits.
//!
//! Every connection, session and request carries an identity, anonymous where nothing is configured. Where it comes
//! from is not decided here.

use std::sync::Arc;
use std::time::SystemTime;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_permits_every_continuation_and_nothing_else() {
        let names = Permitted::Names(["web".into(), "team-*".into()].into());
        assert!(names.contains("web") && names.contains("team-a") && names.contains("team-"));
        assert!(!names.contains("web2") && !names.contains("Team-a") && !names.contains("team"));
    }
}
