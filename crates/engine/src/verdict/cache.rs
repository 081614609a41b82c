//! Verdicts that were given, and questions that are open, by the digest of what was asked.
//!
//! Bounded: what is over goes first, then what nobody has used since it was last looked through. Refusals have room of
//! their own, so that nobody can wash out good credentials with forged ones.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use tokio::sync::watch;

use crate::error::Code;
use crate::identity::Identity;

/// Parts with a lock each.
const SHARDS: usize = 16;

/// Credentials that are known to be good, in all.
const GRANTED: usize = 65_536;

/// Those known to be bad.
const REFUSED: usize = 16_384;

/// A question that is this old is asked again: whoever took it has forgotten it.
pub const STALE: Duration = Duration::from_secs(30);

/// What was asked: the SHA-256 of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(word)
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word(8));
    }
}

/// A digest is as good a hash as any.
#[derive(Clone, Copy, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.rotate_left(5) ^ word;
    }
}

impl BuildHasher for AsItIs {
    type Hasher = AsItIs;

    fn build_hasher(&self) -> AsItIs {
        AsItIs(0)
    }
}

/// What somebody is told who asked.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is good, for this.
    Granted(Arc<Identity>),
    /// It is not.
    Refused(Code),
    /// Nobody could say.
    Unavailable(Arc<str>),
}

/// Where a question's answer is told.
pub type Tell = Arc<watch::Sender<Option<Outcome>>>;

/// What is known of a credential.
pub enum Known {
    /// The verdict.
    Outcome(Outcome),
    /// It was asked about, and this tells the answer.
    Asked(watch::Receiver<Option<Outcome>>),
}

/// All verdicts.
#[derive(Default)]
pub struct Cache {
    shards: [Mutex<Shard>; SHARDS],
}

/// A part of them.
#[derive(Default)]
pub struct Shard {
    granted: HashMap<Digest, Granted, AsItIs>,
    refused: HashMap<Digest, (Code, SystemTime), AsItIs>,
    asked: HashMap<Digest, (Tell, Instant), AsItIs>,
}

struct Granted {
    identity: Arc<Identity>,
    until: SystemTime,
    used: bool,
}

impl Cache {
    /// The part that a digest belongs to.
    pub fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard> {
        self.shards[digest.word(0) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets whom `is_meant` picks.
    pub fn forget(&self, is_meant: impl Fn(&Identity) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.granted.retain(|_, granted| !is_meant(&granted.identity));
        }
    }

    /// Forgets every refusal: with another key it may be wrong.
    pub fn forget_refusals(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).refused.clear();
        }
    }

    /// Good and bad ones that are known.
    pub fn len(&self) -> (usize, usize) {
        let lengths = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (shard.granted.len(), shard.refused.len())
        });
        lengths.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Questions that are noted.
    #[cfg(test)]
    pub fn asked(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).asked.len()).sum()
    }
}

impl Shard {
    /// What is known of a credential.
    pub fn find(&mut self, digest: &Digest, now: SystemTime) -> Option<Known> {
        if let Some(granted) = self.granted.get_mut(digest) {
            if now < granted.until && !granted.identity.has_ended() {
                granted.used = true;
                return Some(Known::Outcome(Outcome::Granted(granted.identity.clone())));
            }
            self.granted.remove(digest);
        }
        if self.refused.is_empty() && self.asked.is_empty() {
            return None;
        }
        if let Some((code, until)) = self.refused.get(digest) {
            if now < *until {
                return Some(Known::Outcome(Outcome::Refused(*code)));
            }
            self.refused.remove(digest);
        }
        let (tell, since) = self.asked.get(digest)?;
        // One that was told already had nobody who waited for it.
        (tell.borrow().is_none() && since.elapsed() < STALE).then(|| Known::Asked(tell.subscribe()))
    }

    /// Notes a question.
    pub fn ask(&mut self, digest: Digest, tell: &Tell) {
        self.asked.insert(digest, (tell.clone(), Instant::now()));
    }

    /// Notes an answer, where it is worth keeping.
    pub fn answer(&mut self, digest: Digest, tell: &Tell, outcome: &Outcome, until: SystemTime, now: SystemTime) {
        if self.asked.get(&digest).is_some_and(|(asked, _)| Arc::ptr_eq(asked, tell)) {
            self.asked.remove(&digest);
        }
        if until <= now {
            return;
        }
        match outcome {
            Outcome::Granted(identity) => {
                self.make_room(now);
                self.granted.insert(digest, Granted { identity: identity.clone(), until, used: false });
            }
            Outcome::Refused(code) => {
                if self.refused.len() >= REFUSED / SHARDS {
                    self.refused.retain(|_, (_, until)| now < *until);
                }
                if self.refused.len() < REFUSED / SHARDS {
                    self.refused.insert(digest, (*code, until));
                }
            }
            Outcome::Unavailable(_) => {}
        }
    }

    /// Forgets a question that is open no more, without an answer.
    pub fn give_up(&mut self, digest: &Digest, tell: &Tell) {
        if self.asked.get(digest).is_some_and(|(asked, _)| Arc::ptr_eq(asked, tell)) {
            self.asked.remove(digest);
        }
    }

    fn make_room(&mut self, now: SystemTime) {
        if self.granted.len() < GRANTED / SHARDS {
            return;
        }
        self.granted.retain(|_, granted| now < granted.until && std::mem::take(&mut granted.used));
        if self.granted.len() >= GRANTED / SHARDS {
            let first = self.granted.keys().next().copied();
            first.and_then(|first| self.granted.remove(&first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        let mut bytes = [0; 32];
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        Digest(bytes)
    }

    fn tell() -> Tell {
        Arc::new(watch::Sender::new(None))
    }

    #[test]
    fn what_is_used_stays_and_what_is_bad_has_room_of_its_own() {
        let (mut shard, now) = (Shard::default(), SystemTime::now());
        let until = now + Duration::from_secs(60);
        let good = Outcome::Granted(Identity::anonymous());
        for number in 0..3 * (GRANTED / SHARDS) as u64 {
            shard.answer(digest(number), &tell(), &good, until, now);
            shard.answer(digest(1 << 40 | number), &tell(), &Outcome::Refused(Code::InvalidToken), until, now);
            assert!(matches!(shard.find(&digest(0), now), Some(Known::Outcome(Outcome::Granted(_)))), "{number}");
        }
        assert!(shard.granted.len() <= GRANTED / SHARDS && shard.refused.len() <= REFUSED / SHARDS);
        assert!(shard.find(&digest(0), until).is_none());
    }

    #[test]
    fn one_question_is_open_for_a_credential_until_it_is_answered_or_given_up() {
        let (mut shard, now, tell) = (Shard::default(), SystemTime::now(), tell());
        shard.ask(digest(1), &tell);
        assert!(matches!(shard.find(&digest(1), now), Some(Known::Asked(_))));
        tell.send_replace(Some(Outcome::Unavailable("".into())));
        assert!(shard.find(&digest(1), now).is_none());
        shard.answer(digest(1), &tell, &Outcome::Unavailable("".into()), now, now);
        assert!(shard.asked.is_empty());
    }
}
