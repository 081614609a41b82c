//! Questions that wait for somebody to answer them: sources take turns, and each one's come in the order in which they
//! were put.
//!
//! Bounded in all and for each source, so that one who makes up credentials takes no more than a share. Whoever answers
//! is a thread that waits here, never one that carries traffic.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use serde_json::Value;

use super::cache::{Digest, Outcome, STALE, Tell};

/// Questions that may be open at once.
pub const OPEN: usize = 1024;

/// How long it takes at most to hear that there will be no question any more.
const LAST: Duration = Duration::from_millis(100);

/// Which queue a question waits in: hashing a password takes its time on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens and certificates.
    Token,
    /// Passwords.
    Password,
}

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 2] = [Kind::Token, Kind::Password];

    /// The kind of this name.
    pub fn of(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Token => "token",
            Kind::Password => "password",
        }
    }

    /// Questions of one source that may be open at once, so that it holds up others for a second or so: a signature
    /// takes a fraction of a millisecond, a hash a tenth of a second.
    fn most_from_one(self) -> usize {
        match self {
            Kind::Token => 256,
            Kind::Password => 8,
        }
    }
}

/// A question whose answer is awaited.
pub struct Open {
    /// What was asked.
    pub digest: Digest,
    /// The credential, whatever it was asked under.
    pub credential: Digest,
    /// What it is asked under.
    pub id: Arc<str>,
    /// The tenant that was asked for.
    pub tenant: String,
    /// Where the answer is told.
    pub tell: Tell,
    /// When it was handed out.
    pub taken: Option<Instant>,
    source: IpAddr,
    since: Instant,
    /// What is told to whoever answers; taken out when it is handed out.
    text: Option<Value>,
}

impl Open {
    /// A question. `text` is all of it but its number.
    pub fn new(
        (digest, credential): (Digest, Digest),
        id: Arc<str>,
        tenant: &str,
        tell: Tell,
        from: IpAddr,
        text: Value,
    ) -> Self {
        let (tenant, source, since) = (tenant.to_owned(), source(from), Instant::now());
        Open { digest, credential, id, tenant, tell, taken: None, source, since, text: Some(text) }
    }
}

/// Who is counted as one: a host of IPv6 has a network of its own.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// One queue.
pub struct Questions {
    most_from_one: usize,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    open: HashMap<u64, Open>,
    by_source: HashMap<IpAddr, Source>,
    /// Sources with something that waits, each once: who is next stands first.
    turns: VecDeque<IpAddr>,
    closed: bool,
}

/// What one source has asked. There is none without an open question.
#[derive(Default)]
struct Source {
    open: usize,
    /// Those that were not handed out yet.
    waiting: VecDeque<u64>,
}

impl Questions {
    /// An empty queue.
    pub fn new(kind: Kind) -> Self {
        Questions { most_from_one: kind.most_from_one(), state: Mutex::default(), ready: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question behind those of its source. What had to go for it, because nobody ever answered, is added to
    /// `given_up`.
    ///
    /// # Errors
    /// There is no room, or nobody will ever answer.
    pub fn put(&self, question: Open, given_up: &mut Vec<Open>) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.closed {
            return Err("the gateway is leaving");
        }
        if state.open.len() >= OPEN {
            state.forget_stale(given_up);
        }
        if state.open.len() >= OPEN && !state.make_room(question.source, given_up) {
            return Err("too many credentials wait to be checked");
        }
        let State { next, open, by_source, turns, .. } = &mut *state;
        let source = by_source.entry(question.source).or_default();
        if source.open >= self.most_from_one {
            return Err("too many credentials of this address wait to be checked");
        }
        if source.waiting.is_empty() {
            turns.push_back(question.source);
        }
        source.open += 1;
        source.waiting.push_back(*next);
        open.insert(*next, question);
        *next += 1;
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for the next question; none where there is none within `timeout`, or where there will be none any more.
    /// One that nobody waits for any more is closed and given to `given_up`, which may take locks of its own.
    pub fn next(&self, timeout: Duration, given_up: impl Fn(Open)) -> Option<(u64, Value)> {
        let until = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            while let Some(number) = state.turn() {
                let Some(open) = state.open.get_mut(&number) else { continue };
                if open.tell.receiver_count() == 0 {
                    let left = Outcome::Unavailable("nobody waits for the answer".into());
                    open.tell.send_replace(Some(left));
                    if let Some(open) = state.close(number) {
                        drop(state);
                        given_up(open);
                        state = self.lock();
                    }
                    continue;
                }
                open.taken = Some(Instant::now());
                if let Some(text) = open.text.take() {
                    return Some((number, text));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closed {
                // Whoever asks again and again until it is told to end does not keep a processor busy with it.
                drop(state);
                std::thread::park_timeout(left.min(LAST));
                return None;
            }
            if left.is_zero() {
                return None;
            }
            state = self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a question out that somebody has an answer to.
    pub fn take(&self, number: u64) -> Option<Open> {
        self.lock().close(number)
    }

    /// Questions that are open.
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends away whoever waits for questions or for answers.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for open in state.open.values() {
            open.tell.send_replace(Some(Outcome::Unavailable("the gateway is leaving".into())));
        }
        drop(state);
        self.ready.notify_all();
    }
}

impl State {
    /// The first question of the source whose turn it is, which is then the last one to have another.
    fn turn(&mut self) -> Option<u64> {
        while let Some(address) = self.turns.pop_front() {
            let Some(source) = self.by_source.get_mut(&address) else { continue };
            let first = source.waiting.pop_front();
            if !source.waiting.is_empty() {
                self.turns.push_back(address);
            }
            if first.is_some() {
                return first;
            }
        }
        None
    }

    /// Gives up the last question of whoever has most of them, for somebody who has fewer; false where nobody does.
    fn make_room(&mut self, source: IpAddr, given_up: &mut Vec<Open>) -> bool {
        let own = self.by_source.get(&source).map_or(0, |source| source.open);
        let most = self.by_source.values_mut().filter(|other| !other.waiting.is_empty()).max_by_key(|other| other.open);
        let Some(most) = most.filter(|most| most.open > own + 1) else { return false };
        let last = std::iter::from_fn(|| most.waiting.pop_back()).find(|number| self.open.contains_key(number));
        let Some(open) = last.and_then(|number| self.close(number)) else { return false };
        open.tell.send_replace(Some(Outcome::Unavailable("others wait who have asked less".into())));
        given_up.push(open);
        true
    }

    fn close(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(source) = self.by_source.get_mut(&open.source) {
            source.open -= 1;
            if source.open == 0 {
                self.by_source.remove(&open.source);
            }
        }
        Some(open)
    }

    /// Questions that were taken and never answered.
    fn forget_stale(&mut self, given_up: &mut Vec<Open>) {
        let is_stale = |open: &Open| open.taken.is_some() && open.since.elapsed() >= STALE;
        let stale: Vec<u64> = self.open.iter().filter(|(_, open)| is_stale(open)).map(|(number, _)| *number).collect();
        given_up.extend(stale.into_iter().filter_map(|number| self.close(number)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::watch;

    use super::*;

    fn question(number: u64, from: &str) -> (Open, watch::Receiver<Option<Outcome>>) {
        let (tell, told) = watch::channel(None);
        let from = from.parse().expect("an address");
        (
            Open::new(
                (Digest([number as u8; 32]), Digest([0; 32])),
                "main".into(),
                "",
                Arc::new(tell),
                from,
                json!({"n": number}),
            ),
            told,
        )
    }

    #[test]
    fn questions_come_in_order_and_end_with_the_queue() {
        let questions = Questions::new(Kind::Token);
        let (first, _told) = question(1, "192.0.2.1");
        let (second, left) = question(2, "192.0.2.1");
        let (third, _told) = question(3, "192.0.2.1");
        drop(left);
        for one in [first, second, third] {
            questions.put(one, &mut Vec::new()).expect("room");
        }
        assert_eq!(questions.next(Duration::ZERO, drop).map(|(_, text)| text), Some(json!({"n": 1})));
        // Nobody waits for the second one any more.
        assert_eq!(questions.next(Duration::ZERO, drop).map(|(_, text)| text), Some(json!({"n": 3})));
        assert_eq!(questions.next(Duration::from_millis(1), drop), None);
        assert_eq!(questions.len(), 2);
        assert!(questions.take(0).is_some() && questions.take(0).is_none());
        questions.close();
        assert_eq!(questions.next(Duration::from_secs(100), drop), None);
    }

    /// Puts a question from there and keeps whoever waits for it.
    fn put(questions: &Questions, told: &mut Vec<watch::Receiver<Option<Outcome>>>, number: u64, from: &str) {
        let (open, one) = question(number, from);
        questions.put(open, &mut Vec::new()).expect("room");
        told.push(one);
    }

    /// What is handed out, as long as there is something.
    fn handed_out(questions: &Questions) -> Vec<u64> {
        std::iter::from_fn(|| questions.next(Duration::ZERO, drop)).filter_map(|(_, text)| text["n"].as_u64()).collect()
    }

    #[test]
    fn sources_take_turns_and_nobody_waits_behind_all_of_anothers() {
        for kind in Kind::ALL {
            let (questions, mut told) = (Questions::new(kind), Vec::new());
            for number in 10..10 + kind.most_from_one() as u64 {
                put(&questions, &mut told, number, "192.0.2.1");
            }
            // A network of IPv6 is one source, whichever of its hosts asks.
            put(&questions, &mut told, 1, "2001:db8::1");
            put(&questions, &mut told, 2, "2001:db8::2");
            put(&questions, &mut told, 3, "192.0.2.2");
            assert_eq!(handed_out(&questions)[..6], [10, 1, 3, 11, 2, 12]);
        }
    }

    #[test]
    fn whoever_asks_little_has_room_beside_those_who_ask_much() {
        let (questions, mut told) = (Questions::new(Kind::Password), Vec::new());
        for number in 0..OPEN as u64 {
            put(&questions, &mut told, number, &format!("192.0.2.{}", number / 8));
        }
        put(&questions, &mut told, 5000, "198.51.100.1");
        put(&questions, &mut told, 5001, "198.51.100.1");
        // Somebody who has asked as much has none.
        let (late, _waits) = question(5002, "192.0.2.1");
        assert!(questions.put(late, &mut Vec::new()).is_err());
        let given_up = told.iter().filter(|told| told.borrow().is_some()).count();
        assert_eq!((given_up, questions.len()), (2, OPEN));
        assert!(handed_out(&questions).contains(&5000));
    }

    #[test]
    fn who_comes_again_waits_for_everybody_elses_turn() {
        let (questions, mut told) = (Questions::new(Kind::Password), Vec::new());
        put(&questions, &mut told, 1, "192.0.2.1");
        put(&questions, &mut told, 2, "192.0.2.2");
        assert_eq!(questions.next(Duration::ZERO, drop).map(|(_, text)| text), Some(json!({"n": 1})));
        put(&questions, &mut told, 3, "192.0.2.1");
        put(&questions, &mut told, 4, "192.0.2.3");
        assert_eq!(handed_out(&questions), [2, 3, 4]);
    }

    #[test]
    fn of_sources_that_are_answered_or_have_left_nothing_stays() {
        let (questions, mut told) = (Questions::new(Kind::Password), Vec::new());
        for number in 0..OPEN as u64 {
            put(&questions, &mut told, number, &format!("10.0.{}.{}", number / 250, number % 250));
        }
        // Half of them have left, and one had its answer before it was asked.
        told.truncate(OPEN / 2);
        assert!(questions.take(0).is_some());
        let numbers = handed_out(&questions);
        assert_eq!(numbers, (1..OPEN as u64 / 2).collect::<Vec<_>>());
        assert!(numbers.into_iter().all(|number| questions.take(number).is_some()));
        let state = questions.lock();
        assert!(state.open.is_empty() && state.by_source.is_empty() && state.turns.is_empty());
    }

    #[test]
    fn one_source_takes_its_share_and_no_more() {
        let questions = Questions::new(Kind::Token);
        let mut told = Vec::new();
        let mut put = |from: &str| {
            let (open, one) = question(0, from);
            told.push(one);
            questions.put(open, &mut Vec::new())
        };
        for host in 0..questions.most_from_one {
            put(&format!("2001:db8::{host}")).expect("room");
        }
        assert!(put("2001:db8::ffff").is_err() && put("2001:db8:0:1::1").is_ok());
        for source in 0..(OPEN - questions.most_from_one - 1) {
            put(&format!("10.0.{}.{}", source / 250, source % 250)).expect("room");
        }
        assert!(put("192.0.2.1").is_ok());
        assert_eq!(questions.len(), OPEN);
    }

    #[test]
    fn whoever_waits_for_a_question_is_woken() {
        let questions = Arc::new(Questions::new(Kind::Token));
        let waits = questions.clone();
        let waiting = std::thread::spawn(move || waits.next(Duration::from_secs(60), drop));
        let (open, _told) = question(9, "::1");
        questions.put(open, &mut Vec::new()).expect("room");
        assert_eq!(waiting.join().expect("no panic").map(|(_, text)| text), Some(json!({"n": 9})));
    }
}
