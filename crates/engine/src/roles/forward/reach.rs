//! The way to one gateway: a session of QUIC that is kept up where QUIC works; where it does not, each connection has a
//! WebSocket of its own.
//!
//! Does what `choice` says, in a task of its own. Whoever carries something asks [`Reach`] for the session of the
//! moment, and tells it what gateways say of QUIC. A change never touches what runs.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, watch as channel};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::backoff::Backoff;
use crate::connect::{Gateway, Refused, Request, Token, Tunnel, Wanted};
use crate::proxy::shared::Proxy;
use crate::roles::choice::{Choice, Input, Offer, Output};
use crate::roles::link::{Changes, News, offer_of, until, watch, wind_down};
use crate::shutdown::Drain;
use crate::snapshot::{self, Timeouts, Transport, TransportChoice, Way};
use crate::tunnel::hello::{Offers, REACH_PATH};
use crate::tunnel::{Ending, Session};

/// A gateway, and the way to it.
pub struct Reach {
    /// The gateway.
    pub gateway: Gateway,
    /// How often the way changed.
    pub changes: Changes,
    transport: TransportChoice,
    state: channel::Sender<State>,
    /// What the gateway said last of QUIC, and that it has said something.
    told: Mutex<Option<Offers>>,
    spoke: Notify,
}

/// How things stand.
#[derive(Clone, Default)]
struct State {
    /// Which way new connections take; none: that is not known yet.
    way: Option<Way>,
    /// The session that is up, if one is.
    session: Option<Session>,
    /// Why there is none, or none that is used.
    not_quic: String,
}

impl Reach {
    /// Nothing is dialled before [`Keeper::keep`] runs.
    pub fn new(gateway: Gateway, transport: TransportChoice) -> Arc<Reach> {
        let state = channel::Sender::new(State::default());
        let (told, spoke) = (Mutex::default(), Notify::new());
        Arc::new(Reach { gateway, changes: Changes::default(), transport, state, told, spoke })
    }

    /// True where nothing but QUIC is to be used.
    pub fn is_quic_alone(&self) -> bool {
        self.transport == TransportChoice::Quic
    }

    /// The session that new connections take; none: each takes a WebSocket. Where nothing is known yet that is waited
    /// for, which takes as long as the head start of QUIC.
    pub async fn way(&self) -> Option<Session> {
        let mut state = self.state.subscribe();
        // It lives as long as we do.
        let state = state.wait_for(|state| state.way.is_some()).await.ok()?;
        let session = state.session.clone().filter(|_| state.way == Some(Way::Quic));
        session.filter(|session| session.is_open() && !session.is_silent())
    }

    /// The session, for what nothing else can carry.
    ///
    /// # Errors
    /// Says why there is none within this time.
    pub async fn session(&self, within: Duration) -> Result<Session, String> {
        let mut state = self.state.subscribe();
        let usable = |state: &State| state.session.as_ref().is_some_and(Session::is_open);
        let found = match timeout(within, state.wait_for(usable)).await {
            Ok(Ok(state)) => state.session.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        found.ok_or_else(|| {
            let why = self.state.borrow().not_quic.clone();
            let why = if why.is_empty() { self.gateway.no_answer(None) } else { why };
            format!("{}: {why}", self.gateway.url)
        })
    }

    /// The gateway has said this of QUIC.
    pub fn hear(&self, offers: Offers) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(offers);
        self.spoke.notify_one();
    }

    async fn spoken(&self) -> Offers {
        loop {
            self.spoke.notified().await;
            if let Some(offers) = self.told.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return offers;
            }
        }
    }

    /// True while there is a session.
    pub fn is_up(&self) -> bool {
        self.state.borrow().session.is_some()
    }

    /// What is known of it, for whoever asks.
    pub fn describe(&self) -> Value {
        let state = self.state.borrow();
        json!({
            "gateway": self.gateway.url,
            "transport": state.way.map(Way::word).unwrap_or_default(),
            "connected": state.session.is_some(),
            "not_quic": state.not_quic,
        })
    }
}

/// An attempt that runs.
type Dial = Pin<Box<dyn Future<Output = Result<Tunnel, Refused>> + Send>>;

/// What sessions are dialled with.
pub struct Dialler {
    /// What all connections share.
    pub proxy: Arc<Proxy>,
    /// Ends the sessions, after what runs on them.
    pub sessions: Drain,
    /// The program's version.
    pub version: String,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// How sessions are watched.
    pub tunnel: snapshot::Tunnel,
    /// Another one may come.
    pub token: Arc<Token>,
}

/// Keeps the session of a gateway up.
pub struct Keeper {
    reach: Arc<Reach>,
    dialler: Arc<Dialler>,
    choice: Choice,
    dial: Option<Dial>,
    /// It has come up and is not served yet.
    came: Option<Tunnel>,
    up: Option<Up>,
    /// New connections have a WebSocket each.
    websocket: bool,
    /// Where the gateway said that QUIC is, if not at its URL.
    quic_at: Option<String>,
    /// What it said of QUIC since there was a session.
    said: Option<Offers>,
    backoff: Backoff,
    /// When the next attempt begins, where nothing is tried.
    again: Option<std::time::Instant>,
    /// Why there is no QUIC, as it was said last.
    complained: String,
}

/// A session that is served.
struct Up {
    session: Session,
    since: Instant,
    silent: bool,
}

impl Keeper {
    /// For this gateway.
    pub fn new(reach: Arc<Reach>, dialler: Arc<Dialler>) -> Keeper {
        let choice = Choice::new(reach.transport, 1, getrandom::u64().unwrap_or_default());
        Keeper {
            reach,
            dialler,
            choice,
            dial: None,
            came: None,
            up: None,
            websocket: false,
            quic_at: None,
            said: None,
            backoff: Backoff::new(),
            again: Some(std::time::Instant::now()),
            complained: String::new(),
        }
    }

    /// Runs until the forward has left.
    pub async fn keep(mut self) {
        let (reach, dialler) = (self.reach.clone(), self.dialler.clone());
        let mut ending = pin!(dialler.sessions.begun());
        loop {
            let (due, waits) = (self.choice.next(), self.again.is_some());
            let input = tokio::select! {
                biased;
                () = &mut ending => break,
                outcome = dialled(&mut self.dial) => self.came(outcome),
                news = watch(self.up.as_mut().map(|up| (&up.session, &mut up.silent))) => self.heard(news),
                offers = reach.spoken() => match self.told(offers) {
                    Some(input) => input,
                    None => continue,
                },
                () = until(due) => Input::Tick,
                () = until(self.again) => self.begin(),
                () = dialler.token.changed(), if waits => {
                    self.backoff.reset();
                    self.begin()
                }
            };
            self.takes(input);
        }
        if let Some(up) = self.up {
            up.session.end(Ending::Close);
        }
    }

    fn begin(&mut self) -> Input {
        (self.again, self.said) = (None, None);
        let may_be_quic = self.reach.gateway.may_be_quic().map_err(str::to_owned);
        // What everybody can know beforehand is no event.
        if let Err(why) = &may_be_quic {
            self.complained.clone_from(why);
        }
        Input::Begin(may_be_quic)
    }

    /// Tells the choice, and does what it says.
    fn takes(&mut self, input: Input) {
        let (now, mut inputs) = (Instant::now().into_std(), VecDeque::from([input]));
        let mut why = String::new();
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            self.choice.on(now, input, &mut out);
            for output in out {
                match output {
                    Output::Dial(Way::Quic) => self.dial(),
                    // There is nothing to dial before there is a connection to carry.
                    Output::Dial(Way::WebSocket) => inputs.push_back(Input::Up(Way::WebSocket)),
                    Output::Cancel(Way::Quic) => self.dial = None,
                    Output::Serve(Way::Quic) => self.serve(),
                    Output::Serve(Way::WebSocket) => {
                        self.websocket = true;
                        // It may have been said while that was not known yet.
                        let offer = |said: &Offers| if *said == Offers::No { Offer::No } else { Offer::Here };
                        inputs.extend(self.said.as_ref().map(offer).map(Input::Told));
                    }
                    Output::Withdraw(Way::WebSocket) => self.websocket = false,
                    Output::Withdraw(Way::Quic) => {
                        if let Some(up) = self.up.take() {
                            self.part(up.session);
                        }
                    }
                    Output::Cancel(Way::WebSocket) => {}
                    Output::Changed { reason, .. } => why = reason,
                    Output::BackOff(reason) | Output::GiveUp(reason) => {
                        why = reason;
                        self.websocket = !self.reach.is_quic_alone();
                        self.again = Some((Instant::now() + self.backoff.next_wait()).into_std());
                    }
                }
            }
        }
        self.show(why);
    }

    fn dial(&mut self) {
        let (reach, dialler, quic_at) = (self.reach.clone(), self.dialler.clone(), self.quic_at.clone());
        self.dial = Some(Box::pin(async move {
            let request = Request {
                path: REACH_PATH,
                agent: None,
                version: &dialler.version,
                h2: false,
                datagram: false,
                not_quic: "",
            };
            let wanted = Wanted {
                request,
                quic_at: quic_at.as_deref(),
                serves: false,
                asks: !reach.is_quic_alone(),
                timeouts: &dialler.timeouts,
                tunnel: &dialler.tunnel,
                worker: &dialler.proxy.workers[0],
                drain: &dialler.sessions,
            };
            reach.gateway.tunnel(Transport::Quic, &wanted).await
        }));
    }

    /// What became of an attempt.
    fn came(&mut self, outcome: Result<Tunnel, Refused>) -> Input {
        match outcome {
            Ok(tunnel) => {
                self.came = Some(tunnel);
                Input::Up(Way::Quic)
            }
            Err(refused) => {
                let why = self.reach.gateway.bare(&refused.reason).to_owned();
                Input::Failed(Way::Quic, why, !refused.may_pass())
            }
        }
    }

    fn serve(&mut self) {
        let Some(Tunnel { session, driver, .. }) = self.came.take() else { return };
        let runtime = self.dialler.proxy.runtime(0);
        self.dialler.sessions.spawn_on(runtime, driver);
        (self.websocket, self.said) = (false, None);
        self.complained.clear();
        self.up = Some(Up { session, since: Instant::now(), silent: false });
    }

    /// What has happened to the session.
    fn heard(&mut self, news: News) -> Input {
        let (leaves, reason) = match news {
            News::Silence(false) => return Input::Heard,
            News::Silence(true) => return Input::Silent(self.reach.gateway.no_answer(self.quic_at.as_deref())),
            News::Leaving => (true, "the gateway takes no more over this session".to_owned()),
            News::Ended(reason) => (false, reason),
        };
        if let Some(up) = self.up.take() {
            if up.since.elapsed() >= self.dialler.tunnel.ping_interval {
                self.backoff.reset();
            }
            if leaves {
                self.part(up.session);
            }
        }
        Input::Ended(Way::Quic, reason)
    }

    /// What runs on a session that is left goes on.
    fn part(&self, session: Session) {
        self.dialler.sessions.spawn_on(self.dialler.proxy.runtime(0), wind_down(session));
    }

    /// What a connection over WebSocket was told, where it is news.
    fn told(&mut self, offers: Offers) -> Option<Input> {
        if self.said.as_ref() == Some(&offers) || !self.websocket {
            return None;
        }
        let offer = offer_of(&offers, &mut self.quic_at);
        self.said = Some(offers);
        Some(Input::Told(offer))
    }

    /// Lets everybody know how things stand; `why` they are not as before.
    fn show(&mut self, why: String) {
        let session = self.up.as_ref().map(|up| up.session.clone());
        let tried = self.again.is_some();
        let way = match (self.websocket, &session) {
            (true, _) => Some(Way::WebSocket),
            (false, Some(_)) => Some(Way::Quic),
            (false, None) if self.reach.is_quic_alone() && tried => Some(Way::Quic),
            (false, None) => None,
        };
        let not_quic = match (self.choice.not_quic(), way) {
            ("", _) if session.is_none() && !why.is_empty() => why.clone(),
            ("", Some(Way::WebSocket)) if self.dial.is_some() => self.reach.gateway.no_answer(self.quic_at.as_deref()),
            (known, _) => known.to_owned(),
        };
        let before = self.reach.state.borrow().way;
        let way = way.or(before);
        let state = State { way, session, not_quic: not_quic.clone() };
        self.reach.state.send_replace(state);
        let gateway = &*self.reach.gateway.url;
        if let (Some(before), Some(way)) = (before, way)
            && before != way
        {
            self.reach.changes.add(way);
            let reason = if why.is_empty() { &*not_quic } else { &*why };
            let reason = if reason.is_empty() { "UDP is answered" } else { reason };
            info!(gateway, from = before.word(), to = way.word(), reason, "transport changed");
        }
        let why_not = self.choice.not_quic();
        if !why_not.is_empty() && why_not != self.complained && self.reach.transport == TransportChoice::Auto {
            why_not.clone_into(&mut self.complained);
            info!(gateway, reason = why_not, "quic unavailable");
        }
    }
}

/// Waits for an attempt, if there is one.
async fn dialled(attempt: &mut Option<Dial>) -> Result<Tunnel, Refused> {
    let Some(dial) = attempt else { return pending().await };
    let outcome = poll_fn(|cx: &mut Context<'_>| -> Poll<_> { dial.as_mut().poll(cx) }).await;
    *attempt = None;
    outcome
}
