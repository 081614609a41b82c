//! Asks once and remembers: from a credential to an identity.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::info;

use super::cache::{Cache, Digest, Known, Outcome, Tell};
use super::policy::{Ask, Evidence};
use super::questions::{Kind, Open, Questions};
use crate::allowance::Allowance;
use crate::credential::token;
use crate::error::{Code, Error, Result};
use crate::identity::{Directory, Identity, Permitted};
use crate::metrics::Page;
use crate::snapshot::auth::{Allowed, member_of, members};

/// How long what is good is believed without being asked again.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long it is remembered that a key was taken away: longer than any answer is on its way.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Everything that is known about credentials.
pub struct Verdicts {
    cache: Cache,
    questions: [Questions; Kind::ALL.len()],
    directory: Arc<Directory>,
    /// Ids that verdicts may be given under.
    ids: ArcSwap<HashSet<String>>,
    /// What the tenants may have.
    tenants: ArcSwap<BTreeMap<String, Arc<Allowance>>>,
    /// What single tokens may have, wherever they are shown, as long as something of it is had: a new verdict gives
    /// nobody more.
    tokens: Mutex<HashMap<Whose, Weak<Allowance>>>,
    /// Keys that were taken away, and when.
    gone: Mutex<HashMap<String, Instant>>,
    asked: [AtomicU64; Kind::ALL.len()],
    refused: [AtomicU64; REFUSALS.len()],
    waiting: AtomicUsize,
}

/// A token: the key that vouched for it, and what it says.
type Whose = (String, Digest);

const REFUSALS: [Code; 8] = [
    Code::MissingAuthorization,
    Code::InvalidAuthorization,
    Code::UnsupportedAuthType,
    Code::InvalidToken,
    Code::ExpiredToken,
    Code::UnknownTenant,
    Code::CredentialsUnavailable,
    Code::Overload,
];

/// What is answered to a question.
#[derive(Deserialize)]
struct Verdict {
    granted: Option<Granted>,
    refused: Option<String>,
    #[serde(default)]
    keep: f64,
    unavailable: Option<String>,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    tenant: String,
    listen: Option<Vec<String>>,
    reach: Option<Vec<String>>,
    expires: Option<f64>,
    key: String,
    limits: Option<Allowed>,
}

/// Counts somebody who waits for an answer.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Verdicts {
    /// Nothing is known yet. Whoever is let in is noted in `directory`.
    pub fn new(directory: Arc<Directory>) -> Self {
        Verdicts {
            cache: Cache::default(),
            questions: Kind::ALL.map(Questions::new),
            directory,
            ids: ArcSwap::default(),
            tenants: ArcSwap::default(),
            tokens: Mutex::default(),
            gone: Mutex::default(),
            asked: Default::default(),
            refused: Default::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Who that is, where it is known.
    pub fn known(&self, digest: &Digest) -> Option<Arc<Identity>> {
        match self.cache.shard(digest).find(digest, SystemTime::now()) {
            Some(Known::Outcome(Outcome::Granted(identity))) => Some(identity),
            _ => None,
        }
    }

    /// Who that is: asked where it is not known, waited for `within` at most. `from`: who shows it.
    ///
    /// # Errors
    /// Whatever speaks against it, or that nobody could say in time.
    pub async fn judge(&self, ask: &Ask<'_>, digest: Digest, from: IpAddr, within: Duration) -> Result<Arc<Identity>> {
        let judged = self.asked(ask, digest, from, within).await;
        if let Err(error) = &judged {
            self.count(error.code);
        }
        judged
    }

    /// Counts a refusal.
    pub fn count(&self, code: Code) {
        if let Some(place) = REFUSALS.iter().position(|known| *known == code) {
            self.refused[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn asked(&self, ask: &Ask<'_>, digest: Digest, from: IpAddr, within: Duration) -> Result<Arc<Identity>> {
        let mut told = match self.look_up(ask, digest, from)? {
            Known::Outcome(outcome) => return conclude(outcome, ask),
            Known::Asked(told) => told,
        };
        let _waiting = Waiting::new(&self.waiting);
        let late = || Error::new(Code::CredentialsUnavailable, "nobody answered in time");
        let answer = tokio::time::timeout(within, told.wait_for(Option::is_some)).await.map_err(|_| late())?;
        let outcome = answer.ok().and_then(|outcome| outcome.clone());
        outcome.map_or_else(|| Err(late()), |outcome| conclude(outcome, ask))
    }

    /// What is known, or where the answer will be told.
    fn look_up(&self, ask: &Ask<'_>, digest: Digest, from: IpAddr) -> Result<Known> {
        let now = SystemTime::now();
        if let Some(known) = self.cache.shard(&digest).find(&digest, now) {
            return Ok(known);
        }
        let (kind, text) = self.question(ask, now)?;
        let mut shard = self.cache.shard(&digest);
        // Somebody else may have asked meanwhile.
        if let Some(known) = shard.find(&digest, now) {
            return Ok(known);
        }
        let (tell, told) = watch::channel(None);
        let tell: Tell = Arc::new(tell);
        let open = Open::new((digest, ask.credential()), ask.id.into(), ask.tenant, tell.clone(), from, text);
        let mut given_up = Vec::new();
        let put = self.questions[kind as usize].put(open, &mut given_up);
        if put.is_ok() {
            shard.ask(digest, &tell);
        }
        // One shard at a time.
        drop(shard);
        given_up.iter().for_each(|open| self.give_up(open));
        put.map_err(|why| Error::new(Code::Overload, why))?;
        self.asked[kind as usize].fetch_add(1, Ordering::Relaxed);
        Ok(Known::Asked(told))
    }

    fn give_up(&self, open: &Open) {
        self.cache.shard(&open.digest).give_up(&open.digest, &open.tell);
    }

    /// What there is to ask, where it is worth it.
    fn question(&self, ask: &Ask<'_>, now: SystemTime) -> Result<(Kind, Value)> {
        let (set, tenant) = (ask.id, ask.tenant);
        Ok(match ask.evidence {
            Evidence::Token(token, shape) => {
                token::check(token, shape, now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())?;
                (Kind::Token, json!({"kind": "token", "set": set, "tenant": tenant, "token": token}))
            }
            Evidence::Password(user, password) => (
                Kind::Password,
                json!({"kind": "password", "set": set, "tenant": tenant, "user": user, "password": password}),
            ),
            Evidence::Certificate(der) => {
                (Kind::Token, json!({"kind": "certificate", "set": set, "tenant": tenant, "der": STANDARD.encode(der)}))
            }
        })
    }

    /// Waits for the next question of a kind, one JSON object; none where there is none within `timeout`, or where
    /// there will be none any more. For a thread that carries no traffic.
    pub fn next_question(&self, kind: Kind, timeout: Duration) -> Option<Vec<u8>> {
        let (number, mut text) = self.questions[kind as usize].next(timeout, |open| self.give_up(&open))?;
        text["number"] = json!(number * Kind::ALL.len() as u64 + kind as u64);
        Some(text.to_string().into_bytes())
    }

    /// Takes the answer to a question. One that nobody asked, or not any more, is nothing.
    ///
    /// # Errors
    /// Says what cannot be understood; then the question is answered like one that nobody could answer.
    pub fn answer(&self, number: u64, verdict: &[u8]) -> Result<(), String> {
        let kind = Kind::ALL[number as usize % Kind::ALL.len()];
        let Some(open) = self.questions[kind as usize].take(number / Kind::ALL.len() as u64) else { return Ok(()) };
        let now = SystemTime::now();
        let read: Result<Verdict, String> = serde_json::from_slice(verdict).map_err(|error| error.to_string());
        let concluded = read.and_then(|verdict| self.outcome_of(&open, kind, verdict, now));
        let (outcome, until) = match &concluded {
            Ok(concluded) => concluded.clone(),
            Err(why) => (Outcome::Unavailable(why.as_str().into()), now),
        };
        // First remembered, then told: whoever comes in between finds one of the two.
        self.cache.shard(&open.digest).answer(open.digest, &open.tell, &outcome, until, now);
        open.tell.send_replace(Some(outcome));
        concluded.map(|_| ()).map_err(|why| format!("the verdict does not fit: {why}"))
    }

    /// What a verdict comes to, and until when that is remembered.
    fn outcome_of(
        &self,
        open: &Open,
        kind: Kind,
        verdict: Verdict,
        now: SystemTime,
    ) -> Result<(Outcome, SystemTime), String> {
        let later = |seconds: f64| now.checked_add(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        if verdict.unavailable.is_some() {
            // Why is for operators, who hear it from whoever could not say; it may name what no stranger has to know.
            return Ok((Outcome::Unavailable("".into()), now));
        }
        if let Some(word) = verdict.refused {
            let code = match (kind, word.as_str()) {
                (Kind::Password, "invalid_token") => Code::InvalidAuthorization,
                (_, "invalid_token") => Code::InvalidToken,
                (_, "expired_token") => Code::ExpiredToken,
                (_, "unknown_tenant") => Code::UnknownTenant,
                _ => return Err(format!("\"{word}\" is no refusal")),
            };
            let keep = verdict.keep.clamp(0.0, LONGEST.as_secs_f64());
            return Ok((Outcome::Refused(code), later(keep).unwrap_or(now)));
        }
        let granted = verdict.granted.ok_or("it neither grants nor refuses")?;
        if !members(&open.id).any(|member| member == member_of(&granted.key)) {
            return Err("it is given by a key of somebody who was not asked".to_owned());
        }
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        // With its lock held: what is taken away from now on finds the identity.
        let taken_away = gone.get(&granted.key).is_some_and(|gone| open.taken.is_none_or(|taken| taken <= *gone));
        if taken_away || !self.ids.load().contains(&*open.id) {
            return Ok((Outcome::Unavailable("its key or verifiers have just changed".into()), now));
        }
        if !open.tenant.is_empty() && granted.tenant != open.tenant {
            return Ok((Outcome::Refused(Code::UnknownTenant), later(LONGEST.as_secs_f64()).unwrap_or(now)));
        }
        let expires = match granted.expires {
            None => None,
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds)
                    .ok()
                    .and_then(|since| UNIX_EPOCH.checked_add(since))
                    .ok_or("`expires` is no point in time")?,
            ),
        };
        if expires.is_some_and(|expires| expires <= now) {
            return Ok((Outcome::Refused(Code::ExpiredToken), now + LONGEST));
        }
        let own = granted.limits.map(|limits| self.allowance((granted.key.clone(), open.credential), &limits));
        let shared = self.allowance_of(&granted.tenant);
        let (listen, reach) = (Permitted::new(granted.listen), Permitted::new(granted.reach));
        let mut identity = Identity::new(&granted.tenant, listen, reach, expires);
        identity.key = granted.key.into();
        identity.set = open.id.clone();
        identity.local = kind == Kind::Password;
        identity.allowances = own.into_iter().chain(shared).collect();
        let until = expires.map_or(now + LONGEST, |expires| expires.min(now + LONGEST));
        Ok((Outcome::Granted(self.directory.enter(identity)), until))
    }

    /// What a token may have.
    fn allowance(&self, whose: Whose, allowed: &Allowed) -> Arc<Allowance> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tokens.get(&whose).and_then(Weak::upgrade) {
            known.change(allowed);
            return known;
        }
        if tokens.len() == tokens.capacity() {
            tokens.retain(|_, allowance| allowance.strong_count() > 0);
        }
        let allowance = Allowance::new("".into(), allowed);
        tokens.insert(whose, Arc::downgrade(&allowance));
        allowance
    }

    /// Ends what was verified by these keys: verdicts, and whatever lives under them. How many identities that were.
    /// Refusals are forgotten in any case: keys that were added may say otherwise.
    pub fn revoke(&self, keys: &[String]) -> usize {
        let now = Instant::now();
        {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.retain(|_, since| since.elapsed() < REMEMBERED);
            gone.extend(keys.iter().map(|key| (key.clone(), now)));
        }
        let is_meant = |identity: &Identity| keys.iter().any(|key| **key == *identity.key);
        self.cache.forget(is_meant);
        self.cache.forget_refusals();
        self.directory.revoke(is_meant)
    }

    /// What a tenant may have, where that is bounded.
    pub fn allowance_of(&self, tenant: &str) -> Option<Arc<Allowance>> {
        self.tenants.load().get(tenant).cloned()
    }

    /// Puts other ids and tenants in force. What was verified under another id is forgotten, and what it has opened
    /// ends where nobody vouches for it any more, or its tenant is gone. Called by one at a time.
    pub fn configure(&self, ids: HashSet<String>, tenants: Option<&BTreeMap<String, Option<Allowed>>>) {
        let before = {
            // Whoever is let in meanwhile goes by one of the two, and is found below where that is the old one.
            let _gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            self.ids.swap(Arc::new(ids.clone()))
        };
        let mut known = BTreeMap::clone(&self.tenants.load());
        let bounded: BTreeMap<_, _> =
            tenants.into_iter().flatten().filter_map(|(name, allowed)| Some((name, allowed.as_ref()?))).collect();
        for (name, allowance) in &known {
            allowance.change(bounded.get(name).copied().unwrap_or(&Allowed::default()));
        }
        let new: Vec<_> = bounded.into_iter().filter(|(name, _)| !known.contains_key(*name)).collect();
        for (name, allowed) in &new {
            known.insert((*name).clone(), Allowance::new(name.as_str().into(), allowed));
        }
        self.tenants.store(Arc::new(known));
        // Whoever is known goes without what has just been made.
        self.cache.forget(|identity| new.iter().any(|(name, _)| **name == *identity.tenant));
        if *before != ids {
            self.cache.forget(|identity| !ids.contains(&*identity.set));
            self.cache.forget_refusals();
        }
        let vouching: HashSet<&str> = ids.iter().flat_map(|id| members(id)).collect();
        let is_gone = |name: &str| !name.is_empty() && tenants.is_some_and(|tenants| !tenants.contains_key(name));
        let ended = self.directory.revoke(|identity| {
            let is_asked = !identity.is_anonymous();
            is_asked && (!vouching.contains(member_of(&identity.key)) || is_gone(&identity.tenant))
        });
        if ended > 0 {
            info!(ended, "credentials ended");
        }
    }

    /// Nobody asks any more.
    pub fn close(&self) {
        self.questions.iter().for_each(Questions::close);
    }

    /// What was asked and what came of it.
    pub fn render(&self, page: &mut Page) {
        page.family("tidegate_credential_questions_total", "counter", "Credentials that had to be checked, by kind.");
        for (kind, asked) in Kind::ALL.iter().zip(&self.asked) {
            page.value(&[("kind", kind.word())], asked.load(Ordering::Relaxed) as f64);
        }
        let help = "Requests and tunnels whose credential was refused or could not be checked, by error code.";
        page.family("tidegate_credentials_refused_total", "counter", help);
        for (code, count) in REFUSALS.iter().zip(&self.refused) {
            page.value(&[("code", code.as_str())], count.load(Ordering::Relaxed) as f64);
        }
        let (granted, refused) = self.cache.len();
        page.family("tidegate_credentials_known", "gauge", "Credentials of which the verdict is known.");
        page.value(&[("verdict", "granted")], granted as f64);
        page.value(&[("verdict", "refused")], refused as f64);
        page.family("tidegate_credentials_waiting", "gauge", "Requests and tunnels that wait for a verdict.");
        page.value(&[], self.waiting.load(Ordering::Relaxed) as f64);
        let help = "What a tenant was refused because of its limits.";
        page.family("tidegate_tenant_refused_total", "counter", help);
        for (name, allowance) in &**self.tenants.load() {
            for (what, count) in allowance.refused() {
                page.value(&[("tenant", name), ("limit", what)], count as f64);
            }
        }
    }
}

/// What an outcome comes to for somebody who asked.
fn conclude(outcome: Outcome, ask: &Ask<'_>) -> Result<Arc<Identity>> {
    match outcome {
        Outcome::Granted(identity) => Ok(identity),
        Outcome::Refused(code) => {
            let wrong = matches!(ask.evidence, Evidence::Password(..)) && code == Code::InvalidAuthorization;
            Err(Error::new(code, if wrong { "name or password is wrong" } else { "" }))
        }
        Outcome::Unavailable(why) => Err(Error::new(Code::CredentialsUnavailable, why.to_string())),
    }
}

#[cfg(test)]
mod tests;
