//! Keeps one tunnel of one endpoint up: does what `choice` says, which gateway by gateway, again after a while.
//!
//! For a moment there may be two tunnels, one of QUIC and one of WebSocket; what was taken back finishes by itself.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::numbers::{Held, Numbers};
use super::service::Offered;
use super::state::Word;
use super::tunnel::{Attempt, Dialler};
use super::turns::Turns;
use crate::backoff::Backoff;
use crate::connect::{Gateway, Refused, Tunnel};
use crate::roles::choice::{Choice, Input, Offer, Output};
use crate::roles::link::{News, offer_of, until, watch, wind_down};
use crate::snapshot::{TransportChoice, Way};
use crate::tunnel::Session;

/// An attempt that runs, with the number that it holds.
type Dial = Pin<Box<dyn Future<Output = Result<Tunnel, Refused>> + Send>>;

/// One of the tunnels that an endpoint has.
pub struct Slot {
    dialler: Arc<Dialler>,
    offer: Arc<Offered>,
    /// What it may be made of.
    transport: TransportChoice,
    slot: usize,
    choice: Choice,
    turns: Turns,
    /// Whose turn it was.
    at: usize,
    quic: Leg,
    websocket: Leg,
    numbers: Numbers,
    /// Where gateways said that QUIC is, if not at their URL.
    quic_at: Vec<Option<String>>,
    /// Where QUIC has worked.
    known: Vec<bool>,
    backoff: Backoff,
    /// Gateways in a row that have given an answer that no time will change.
    refusals: usize,
    last_status: Option<u16>,
    was_up: bool,
    /// How long the last tunnel lived, and whether its gateway asked for another one.
    lived: bool,
    replace: bool,
    /// Why there is no QUIC, as it was said last.
    said: String,
}

/// What there is of one transport.
#[derive(Default)]
struct Leg {
    dial: Option<(Dial, Held)>,
    dialled_at: usize,
    /// It has come up and is not served yet.
    came: Option<(Tunnel, Held)>,
    up: Option<Up>,
}

/// A tunnel that is served.
struct Up {
    session: Session,
    gateway: usize,
    since: Instant,
    silent: bool,
    url: String,
}

/// What becomes of a slot that has no tunnel.
enum Next {
    /// It is wanted no more.
    Leave,
    /// The service does not work.
    Rest,
    /// Again after a while.
    Wait(String),
}

impl Slot {
    /// The tunnel with this number.
    pub fn new(dialler: Arc<Dialler>, offer: Arc<Offered>, slot: usize) -> Self {
        let transport = offer.transport(dialler.transport);
        let turns = Turns::new(dialler.gateways.len(), slot);
        let choice = Choice::new(transport, dialler.gateways.len(), getrandom::u64().unwrap_or_default());
        let (quic_at, known) = (vec![None; dialler.gateways.len()], vec![false; dialler.gateways.len()]);
        Slot {
            dialler,
            offer,
            transport,
            slot,
            choice,
            turns,
            at: 0,
            quic: Leg::default(),
            websocket: Leg::default(),
            numbers: Numbers::default(),
            quic_at,
            known,
            backoff: Backoff::new(),
            refusals: 0,
            last_status: None,
            was_up: false,
            lived: false,
            replace: false,
            said: String::new(),
        }
    }

    /// Keeps it up until the agent leaves or every gateway has refused it for good.
    pub async fn keep(mut self) {
        let drain = self.dialler.proxy.drain.clone();
        let mut leaving = pin!(drain.begun());
        let offer = self.offer.clone();
        while !drain.is_begun() {
            if let Some(reason) = offer.works.problem() {
                offer.tunnels[self.slot].set(Word::Unhealthy, "", &reason);
                tokio::select! {
                    () = &mut leaving => return,
                    () = offer.works.works() => {}
                }
            }
            let reason = match self.round(leaving.as_mut()).await {
                Next::Leave => return,
                Next::Rest => continue,
                Next::Wait(reason) => reason,
            };
            if drain.is_begun() {
                return;
            }
            if self.refusals >= self.dialler.gateways.len() {
                return self.refused(&reason);
            }
            if self.lived {
                self.backoff.reset();
                self.turns.anew();
            }
            // A gateway that takes tunnels and drops them at once is no better than one that does not answer.
            if self.replace && (self.lived || self.backoff.is_fresh()) {
                self.turns.anew();
                self.backoff.next_wait();
                continue;
            }
            let wait = self.backoff.next_wait();
            self.disconnected(&reason, wait.as_secs_f64());
            tokio::select! {
                () = &mut leaving => return,
                () = self.dialler.token.changed() => self.backoff.reset(),
                () = sleep(wait) => {}
            }
        }
    }

    /// From the first attempt at the next gateway until there is no tunnel and no attempt any more.
    async fn round(&mut self, mut leaving: Pin<&mut impl Future<Output = ()>>) -> Next {
        self.next_gateway();
        (self.lived, self.replace) = (false, false);
        let dialler = self.dialler.clone();
        let gateway = &dialler.gateways[self.at];
        self.offer.tunnels[self.slot].set(Word::Connecting, &gateway.url, "");
        let may_be_quic = gateway.may_be_quic().map_err(str::to_owned);
        // What everybody can know beforehand is no event.
        self.said = may_be_quic.clone().err().unwrap_or_default();
        let mut next = self.takes(Input::Begin(may_be_quic));
        loop {
            if let Some(next) = next {
                return next;
            }
            let (offer, due) = (self.offer.clone(), self.choice.next());
            let input = tokio::select! {
                biased;
                () = &mut leaving => return Next::Leave,
                () = offer.works.fails() => {
                    self.takes(Input::Rest);
                    return Next::Rest;
                }
                outcome = dialled(&mut self.quic.dial) => self.came(Way::Quic, outcome),
                outcome = dialled(&mut self.websocket.dial) => self.came(Way::WebSocket, outcome),
                news = watch(watched(&mut self.quic.up)) => self.heard(Way::Quic, news),
                news = watch(watched(&mut self.websocket.up)) => self.heard(Way::WebSocket, news),
                () = until(due) => Input::Tick,
            };
            next = self.takes(input);
        }
    }

    /// Tells the choice, and does what it says.
    fn takes(&mut self, input: Input) -> Option<Next> {
        let (now, mut out) = (Instant::now().into_std(), Vec::new());
        let websocket_came = input == Input::Up(Way::WebSocket);
        self.choice.on(now, input, &mut out);
        if websocket_came && let Some(offer) = self.offered() {
            // It is served first.
            self.choice.on(now, Input::Told(offer), &mut out);
        }
        let mut next = None;
        for output in out {
            match output {
                Output::Dial(way) => self.dial(way),
                Output::Cancel(way) => self.cancel(way),
                Output::Serve(way) => self.serve(way),
                Output::Withdraw(way) => {
                    if let Some(up) = self.leg(way).up.take() {
                        self.dialler.withdraw(up.session);
                    }
                }
                Output::Changed { from, to, reason } => self.changed(from, to, &reason),
                Output::BackOff(reason) => {
                    self.refusals = 0;
                    next = Some(Next::Wait(reason));
                }
                Output::GiveUp(reason) => {
                    self.refusals += 1;
                    next = Some(Next::Wait(reason));
                }
            }
        }
        self.say_why_not();
        next
    }

    fn leg(&mut self, way: Way) -> &mut Leg {
        match way {
            Way::Quic => &mut self.quic,
            Way::WebSocket => &mut self.websocket,
        }
    }

    fn next_gateway(&mut self) {
        let tunnels = self.offer.tunnels.iter().enumerate().filter(|(slot, _)| *slot != self.slot);
        let others: Vec<_> = tunnels.map(|(_, tunnel)| tunnel).collect();
        let gateways = &self.dialler.gateways;
        self.at = self.turns.take(|at| others.iter().filter(|tunnel| tunnel.is_at(&gateways[at].url)).count());
    }

    fn dial(&mut self, way: Way) {
        // QUIC is wanted where requests go by WebSocket; a WebSocket beside QUIC may be another gateway's.
        let gateway = match (way, &self.websocket.up) {
            (Way::Quic, Some(up)) => up.gateway,
            _ => self.at,
        };
        let quic_at = self.quic_at[gateway].clone();
        let not_quic = match self.choice.not_quic() {
            "" if self.quic.dial.is_some() => self.dialler.gateways[gateway].no_answer(quic_at.as_deref()),
            known => known.to_owned(),
        };
        let (number, held) = self.number(way);
        let (dialler, offer) = (self.dialler.clone(), self.offer.clone());
        let attempt = Attempt { gateway, number, transport: self.dialler.made_of(way), quic_at, not_quic };
        let dial: Dial = Box::pin(async move { dialler.dial(&offer, &attempt).await });
        let leg = self.leg(way);
        (leg.dial, leg.dialled_at) = (Some((dial, held)), gateway);
    }

    /// Where there may be two tunnels, those of one transport follow each other.
    fn number(&mut self, way: Way) -> (usize, Held) {
        let (first, step) = match (self.transport, way) {
            (TransportChoice::Auto, Way::WebSocket) => (0, 2),
            (TransportChoice::Auto, Way::Quic) => (1, 2),
            _ => (0, 1),
        };
        let (free, held) = self.numbers.take(first, step);
        (self.slot + self.dialler.connections * free, held)
    }

    /// An attempt may have come to the gateway already, which may already have opened something on it.
    fn cancel(&mut self, way: Way) {
        let Some((dial, number)) = self.leg(way).dial.take() else { return };
        let (dialler, offer) = (self.dialler.clone(), self.offer.clone());
        self.dialler.tunnels.spawn_on(self.dialler.proxy.runtime(0), async move {
            if let Ok(tunnel) = dial.await {
                wind_down(dialler.serve(&offer, tunnel, number)).await;
            }
        });
    }

    /// What became of an attempt.
    fn came(&mut self, way: Way, (outcome, number): (Result<Tunnel, Refused>, Held)) -> Input {
        let refused = match outcome {
            Ok(tunnel) => {
                self.leg(way).came = Some((tunnel, number));
                return Input::Up(way);
            }
            Err(refused) => refused,
        };
        self.last_status = refused.status;
        let tried_again = self.was_up && self.dialler.renews && refused.status == Some(401);
        // What stands at the TCP port of a gateway that takes QUIC may be another's.
        let elsewhere = way == Way::WebSocket && self.known[self.websocket.dialled_at];
        let last = !refused.may_pass() && !tried_again && !elsewhere;
        let alone = self.transport != TransportChoice::Auto;
        if way == Way::Quic && !alone {
            let why = self.dialler.gateways[self.quic.dialled_at].bare(&refused.reason).to_owned();
            return Input::Failed(way, why, last);
        }
        // Where a tunnel of QUIC is silent because its gateway is gone, another one takes requests.
        if self.quic.up.is_some() {
            self.next_gateway();
        }
        Input::Failed(way, refused.reason, last)
    }

    /// What has happened to a tunnel.
    fn heard(&mut self, way: Way, news: News) -> Input {
        let ping_interval = self.dialler.tunnel.ping_interval;
        let (gone, reason) = match news {
            News::Silence(false) => return Input::Heard,
            News::Silence(true) => {
                let gateway = self.quic.up.as_ref().map_or(self.at, |up| up.gateway);
                self.at = gateway;
                return Input::Silent(self.gateway(gateway).no_answer(self.quic_at[gateway].as_deref()));
            }
            News::Ended(reason) => (false, reason),
            News::Leaving => (true, "the gateway sent this tunnel away at once".to_owned()),
        };
        // Whoever leaves lets the tunnel finish, which needs nobody's attention.
        if let Some(up) = self.leg(way).up.take() {
            (self.lived, self.replace) = (up.since.elapsed() >= ping_interval, gone);
            self.at = up.gateway;
        }
        Input::Ended(way, reason)
    }

    fn serve(&mut self, way: Way) {
        let gateway = self.leg(way).dialled_at;
        let Some((tunnel, number)) = self.leg(way).came.take() else { return };
        let first = self.quic.up.is_none() && self.websocket.up.is_none();
        (self.refusals, self.was_up) = (0, true);
        let (url, node) = (tunnel.told.url.clone(), tunnel.told.node.clone());
        let session = self.dialler.serve(&self.offer, tunnel, number);
        if way == Way::Quic {
            self.said.clear();
            self.known[gateway] = true;
        }
        self.leg(way).up = Some(Up { session, gateway, since: Instant::now(), silent: false, url: url.clone() });
        if !first {
            return;
        }
        self.connected(way);
        let transport = self.dialler.made_of(way).word();
        info!(
            endpoint = &*self.offer.name,
            gateway = &*self.gateway(gateway).url,
            slot = self.slot,
            url,
            node,
            tcp = self.offer.is_raw(),
            transport,
            "connected"
        );
    }

    fn gateway(&self, number: usize) -> &Gateway {
        &self.dialler.gateways[number]
    }

    /// Where the gateway that has just answered over WebSocket says that QUIC is.
    fn offered(&mut self) -> Option<Offer> {
        let (tunnel, _) = self.websocket.came.as_ref()?;
        Some(offer_of(&tunnel.told.quic, &mut self.quic_at[self.websocket.dialled_at]))
    }

    fn connected(&mut self, way: Way) {
        let (offer, slot) = (self.offer.clone(), self.slot);
        if let Some(up) = &self.leg(way).up {
            let (gateway, url) = (up.gateway, up.url.clone());
            offer.tunnels[slot].connected(&self.gateway(gateway).url, self.dialler.made_of(way).word(), &url);
        }
    }

    fn changed(&mut self, from: Way, to: Way, reason: &str) {
        self.connected(to);
        self.dialler.changes.add(to);
        let made_of = |way| self.dialler.made_of(way);
        let (endpoint, slot, from, to) = (&*self.offer.name, self.slot, made_of(from).word(), made_of(to).word());
        info!(endpoint, slot, from, to, reason, "transport changed");
    }

    /// Tells whoever asks, and the log where it is news.
    fn say_why_not(&mut self) {
        let reason = self.choice.not_quic();
        self.offer.tunnels[self.slot].not_quic(reason);
        if reason.is_empty() || reason == self.said || self.transport != TransportChoice::Auto {
            return;
        }
        reason.clone_into(&mut self.said);
        let (endpoint, gateway) = (&*self.offer.name, &*self.gateway(self.at).url);
        info!(endpoint, slot = self.slot, gateway, reason, "quic unavailable");
    }

    fn refused(&self, reason: &str) {
        let (gateway, slot) = (&*self.gateway(self.at).url, self.slot);
        self.offer.tunnels[slot].set(Word::Refused, gateway, reason);
        let (endpoint, status) = (&*self.offer.name, self.last_status.unwrap_or_default());
        warn!(endpoint, gateway, slot, reason, status, "refused");
    }

    fn disconnected(&self, reason: &str, retry_in: f64) {
        let (gateway, slot) = (&*self.gateway(self.at).url, self.slot);
        self.offer.tunnels[slot].set(Word::Waiting, gateway, reason);
        warn!(endpoint = &*self.offer.name, gateway, slot, reason, retry_in, "disconnected");
    }
}

fn watched(up: &mut Option<Up>) -> Option<(&Session, &mut bool)> {
    up.as_mut().map(|up| (&up.session, &mut up.silent))
}

/// Waits for an attempt, if there is one.
async fn dialled(attempt: &mut Option<(Dial, Held)>) -> (Result<Tunnel, Refused>, Held) {
    let outcome = poll_fn(|cx: &mut Context<'_>| match attempt {
        Some((dial, _)) => dial.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await;
    let number = attempt.take().map_or_else(Held::default, |(_, number)| number);
    (outcome, number)
}
