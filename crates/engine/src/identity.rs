//! Who somebody is, and what that permits.
//!
//! Every connection, session and request carries an identity, anonymous where nothing is asked for. What lives under
//! one waits for its end beside its own work: an identity ends when it expires, or when what vouched for it is gone.
//! Where identities come from is not decided here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use hashbrown::HashMap;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::allowance::Allowance;

/// How long expiry may be late at most: clocks are set, and then nobody wakes us.
const LOOK: Duration = Duration::from_millis(500);

/// Identities that are gone are looked for when so many more are there than before.
const SWEEP: usize = 1024;

/// Who connected, and what they may do.
#[derive(Clone)]
pub struct Identity {
    /// The owner of the endpoints meant; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// Endpoints that may be offered.
    pub listen: Permitted,
    /// Endpoints that may be reached.
    pub reach: Permitted,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// The key that vouched for it; empty where nobody was asked.
    pub key: Arc<str>,
    /// What it was verified under; empty where nobody was asked.
    pub set: Arc<str>,
    /// Known only where it was asked for, not as a tenant's: whatever that listener or route leads to is permitted.
    pub local: bool,
    /// What it may have: by itself, and together with others of its tenant.
    pub allowances: Arc<[Arc<Allowance>]>,
    /// Its time is over, or it was revoked.
    ended: CancellationToken,
    revoked: CancellationToken,
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
    /// These names; every one where there is no list.
    pub fn new(names: Option<Vec<String>>) -> Self {
        match names {
            None => Permitted::All,
            Some(names) => Permitted::Names(names.into_iter().map(String::into_boxed_str).collect()),
        }
    }

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
    /// Somebody who may do this, until something says otherwise.
    pub fn new(tenant: &str, listen: Permitted, reach: Permitted, expires: Option<SystemTime>) -> Self {
        let revoked = CancellationToken::new();
        Identity {
            tenant: tenant.into(),
            listen,
            reach,
            expires,
            key: "".into(),
            set: "".into(),
            local: false,
            allowances: Arc::new([]),
            ended: revoked.child_token(),
            revoked,
        }
    }

    /// Somebody of whom nothing was asked: every endpoint that somebody leads it to, for ever.
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Identity { local: true, ..Identity::new("", Permitted::All, Permitted::All, None) })
    }

    /// True for somebody of whom nothing was asked.
    pub fn is_anonymous(&self) -> bool {
        self.set.is_empty()
    }

    /// True when it may reach an endpoint.
    pub fn may_reach(&self, tenant: &str, endpoint: &str) -> bool {
        (self.local || *self.tenant == *tenant) && self.reach.contains(endpoint)
    }

    /// Resolves when whatever lives under it is to end.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }

    /// Resolves when it was taken back before its time; its time may be over or not.
    pub fn revoked(&self) -> WaitForCancellationFutureOwned {
        self.revoked.clone().cancelled_owned()
    }

    /// True when it is over, for whatever reason.
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// True when it was taken back before its time.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?}, {:?}, {:?}, {:?})", self.tenant, self.listen, self.reach, self.expires)
    }
}

/// Every identity that something lives under, except anonymous ones.
#[derive(Default)]
pub struct Directory {
    live: Mutex<Live>,
    sooner: Notify,
}

#[derive(Default)]
struct Live {
    next: u64,
    known: HashMap<u64, Weak<Identity>>,
    by_expiry: BTreeMap<(SystemTime, u64), Weak<Identity>>,
    swept: usize,
}

impl Live {
    /// Forgets who is gone, in steps that a new identity pays for.
    fn sweep(&mut self) {
        if self.known.len().max(self.by_expiry.len()) < 2 * self.swept + SWEEP {
            return;
        }
        self.known.retain(|_, identity| identity.strong_count() > 0);
        self.by_expiry.retain(|_, identity| identity.strong_count() > 0);
        self.swept = self.known.len();
    }
}

impl Directory {
    /// Notes an identity: from now on it ends when its time is over, and can be found.
    pub fn enter(&self, identity: Identity) -> Arc<Identity> {
        let identity = Arc::new(identity);
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.sweep();
        let number = live.next;
        live.next += 1;
        live.known.insert(number, Arc::downgrade(&identity));
        if let Some(expires) = identity.expires {
            let soonest = live.by_expiry.first_key_value().is_none_or(|((first, _), _)| expires < *first);
            live.by_expiry.insert((expires, number), Arc::downgrade(&identity));
            if soonest {
                self.sooner.notify_one();
            }
        }
        identity
    }

    /// Takes back every identity that `is_meant` picks; how many that were.
    pub fn revoke(&self, is_meant: impl Fn(&Identity) -> bool) -> usize {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<_> = live.known.values().filter_map(Weak::upgrade).collect();
        drop(live);
        let meant: Vec<_> = known.iter().filter(|identity| !identity.is_revoked() && is_meant(identity)).collect();
        meant.iter().for_each(|identity| identity.revoked.cancel());
        meant.len()
    }

    /// Ends every identity whose time is over. When the next one's is.
    pub fn expire(&self, now: SystemTime) -> Option<SystemTime> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over = Vec::new();
        while let Some(first) = live.by_expiry.first_entry() {
            if first.key().0 > now {
                break;
            }
            over.extend(first.remove().upgrade());
        }
        let next = live.by_expiry.first_key_value().map(|((expires, _), _)| *expires);
        drop(live);
        over.iter().for_each(|identity| identity.ended.cancel());
        next
    }

    /// Ends identities as their time comes, for as long as it is polled.
    pub async fn keep(&self) {
        loop {
            let sooner = self.sooner.notified();
            let now = SystemTime::now();
            match self.expire(now) {
                None => sooner.await,
                Some(next) => {
                    let due = next.duration_since(now).unwrap_or_default().min(LOOK);
                    // Either way there is something to look at.
                    let _ = tokio::time::timeout(due, sooner).await;
                }
            }
        }
    }

    /// How many identities something lives under.
    pub fn len(&self) -> usize {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.known.values().filter(|identity| identity.strong_count() > 0).count()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_permits_every_continuation_and_nothing_else() {
        let names = Permitted::new(Some(vec!["web".into(), "team-*".into()]));
        assert!(names.contains("web") && names.contains("team-a") && names.contains("team-"));
        assert!(!names.contains("web2") && !names.contains("Team-a") && !names.contains("team"));
        assert!(!Permitted::new(Some(vec![])).contains("web") && Permitted::new(None).contains("web"));
    }

    fn of(tenant: &str, expires: Option<SystemTime>) -> Identity {
        Identity::new(tenant, Permitted::All, Permitted::All, expires)
    }

    #[test]
    fn nobody_reaches_what_belongs_to_another_tenant() {
        let mine = of("a", None);
        assert!(mine.may_reach("a", "web") && !mine.may_reach("b", "web") && !mine.may_reach("", "web"));
        let here = Identity { local: true, ..of("", None) };
        assert!(here.may_reach("b", "web"));
    }

    #[tokio::test]
    async fn what_lives_under_an_identity_is_found_and_ended_by_it() {
        let directory = Directory::default();
        let (mine, theirs) = (directory.enter(of("a", None)), directory.enter(of("b", None)));
        assert_eq!(directory.revoke(|identity| &*identity.tenant == "a"), 1);
        mine.ended().await;
        assert!(mine.is_revoked() && !theirs.has_ended());
        drop((mine, theirs));
        assert!(directory.is_empty());
    }

    #[test]
    fn an_identity_ends_at_its_time_and_the_next_one_is_told() {
        let directory = Directory::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (first, second) = (directory.enter(of("", Some(at(10)))), directory.enter(of("", Some(at(20)))));
        assert_eq!(directory.expire(at(9)), Some(at(10)));
        assert!(!first.has_ended());
        assert_eq!(directory.expire(at(10)), Some(at(20)));
        assert!(first.has_ended() && !first.is_revoked() && !second.has_ended());
        assert_eq!(directory.expire(at(30)), None);
        assert!(second.has_ended());
    }

    #[test]
    fn who_is_gone_takes_no_room() {
        let directory = Directory::default();
        for number in 0..10 * SWEEP as u64 {
            directory.enter(of("", Some(SystemTime::UNIX_EPOCH + Duration::from_secs(number))));
        }
        let live = directory.live.lock().expect("no panic");
        assert!(live.known.len() <= SWEEP + 1 && live.by_expiry.len() <= SWEEP + 1);
    }
}
