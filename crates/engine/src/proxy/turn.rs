//! One request of a downstream, whichever version it came in: routed, carried, answered, noted.
//!
//! What is carried and how is `exchange`; where a request leads is `site`; what becomes of the connection afterwards is
//! the caller's.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use arc_swap::Guard;
use tokio::time::Instant;

use super::access::{Record, Words};
use super::admission::{Admitted, Demand, admit, demand, too_many};
use super::exchange::{Exchange, Next};
use super::http::Http;
use super::http1::LINGER;
use super::respond::{self, Answer};
use super::secured::Secured;
use super::shared::{Proxy, Settings};
use super::site::{Site, Wants, Way};
use super::table::{Lead, Table};
use super::{datagrams, stream};
use crate::allowance::{Taken, Wanted};
use crate::error::{Code, Error, Result, Side};
use crate::forwarded::Visitor;
use crate::http1::framing::{self, Framing};
use crate::http1::refusal::HeadError;
use crate::identity::Identity;
use crate::io::{BoxedIo, Buffer};
use crate::message::{Known, RequestHead, ResponseHead, Version};
use crate::room::Place;
use crate::timer::Timer;
use crate::verdict::Policy;

/// A connection on which requests come in.
pub struct Connection {
    /// The byte stream.
    pub io: BoxedIo,
    /// Bytes that were read from it already.
    pub read: Buffer,
    /// Who connected.
    pub client: SocketAddr,
    /// Who that is.
    pub identity: Arc<Identity>,
    /// Where it came in.
    pub site: Site,
    /// A head that was read and not answered: the connection was moved to the worker that can.
    pub head: Option<Box<RequestHead>>,
    /// What TLS settled, where this gateway ended it.
    pub secured: Option<Arc<Secured>>,
    /// Held as long as the connection lives; none where nobody counts them.
    pub place: Option<Place>,
    /// Only the other side ends it while it is idle (design.md "Tunnels": only the gateway closes an idle kept stream).
    pub patient: bool,
}

/// Whoever asks, and what is used again from one request to the next.
pub struct Turn {
    /// What all connections share.
    pub proxy: Arc<Proxy>,
    /// The worker that runs it.
    pub worker: usize,
    /// Who connected.
    pub client: SocketAddr,
    /// Who sent the request, as it was let in.
    pub identity: Arc<Identity>,
    /// Its `Authorization` was meant for us.
    pub hides: bool,
    /// Where it came in.
    pub site: Site,
    /// What TLS settled, where this gateway ended it.
    pub secured: Option<Arc<Secured>>,
    /// The connection, or a stream of it.
    pub down: Http,
    /// The request's head.
    pub request: RequestHead,
    /// That of its answer.
    pub response: ResponseHead,
    /// The deadline of the moment.
    pub timer: Timer,
    /// The request that runs.
    pub in_flight: InFlight,
}

/// Why what somebody had opened has ended.
pub fn over(identity: &Identity) -> Error {
    match identity.is_revoked() {
        true => Error::new(Code::InvalidToken, "what vouched for it was taken away"),
        false => Error::new(Code::ExpiredToken, "it expired"),
    }
}

/// How a connection ends.
pub enum Last {
    /// In order, at once.
    Close,
    /// In order, when the other side has had time to read.
    Linger,
    /// Broken.
    Reset,
}

/// Counts the request that runs, also where it is cut.
pub struct InFlight {
    proxy: Arc<Proxy>,
    runs: bool,
}

impl InFlight {
    /// None runs yet.
    pub fn new(proxy: &Arc<Proxy>) -> Self {
        InFlight { proxy: proxy.clone(), runs: false }
    }

    fn begin(&mut self) {
        self.end();
        self.runs = true;
        self.proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.runs) {
            self.proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is found out about a request without waiting.
enum Found {
    /// What becomes of it.
    Way(Way),
    /// Somebody has to look at its credential before it takes this route.
    Asked(Option<Arc<Lead>>, Arc<Policy>),
}

impl Turn {
    /// Who sent the request that was read, as far as is known, and where it leads.
    pub async fn route(&mut self) -> (Visitor, Result<Way>) {
        // One table for all of it: nothing is reached by what another configuration asks for.
        let (visitor, table, lead, policy) = {
            let table = self.proxy.table.load();
            let proto = if self.secured.is_some() { "https" } else { "http" };
            let visitor = self.site.visitor(&self.request, self.client, proto, &table);
            match self.look(&table, &visitor) {
                Ok(Found::Way(way)) => return (visitor, Ok(way)),
                Ok(Found::Asked(lead, policy)) => (visitor, Guard::into_inner(table), lead, policy),
                Err(error) => return (visitor, Err(error)),
            }
        };
        // A box, so that requests of which nothing is asked have no room for this.
        let way = Box::pin(self.ask(&table, lead, &policy, &visitor)).await;
        (visitor, way)
    }

    fn look(&mut self, table: &Table, visitor: &Visitor) -> Result<Found> {
        self.site.admit()?;
        let secured = self.secured.as_deref();
        if let Some(secured) = secured {
            secured.admit(&self.request, &self.site, &self.proxy)?;
        }
        if !self.identity.is_anonymous() {
            self.identity = self.proxy.anonymous.clone();
            self.hides = false;
        }
        let lead = self.site.find(&self.request, table)?;
        match demand(&self.proxy, &self.site, table, lead.as_deref(), &self.request, visitor, secured)? {
            Demand::Nothing => {}
            Demand::Known(Admitted { identity, hides }) => (self.identity, self.hides) = (identity, hides),
            Demand::Credential(policy) => return Ok(Found::Asked(lead, policy)),
        }
        self.way(table, lead, visitor).map(Found::Way)
    }

    async fn ask(&mut self, table: &Table, lead: Option<Arc<Lead>>, policy: &Policy, visitor: &Visitor) -> Result<Way> {
        let admitted = admit(&self.proxy, policy, &self.request, visitor, self.secured.as_deref()).await?;
        (self.identity, self.hides) = (admitted.identity, admitted.hides);
        self.way(table, lead, visitor)
    }

    fn way(&self, table: &Table, lead: Option<Arc<Lead>>, visitor: &Visitor) -> Result<Way> {
        self.site.way(table, lead, &self.request, visitor, &self.proxy, &self.identity)
    }

    /// Carries the request that was read. None: another may follow.
    pub async fn run(&mut self, settings: &Settings, way: Result<Way>, visitor: &Visitor) -> Option<Last> {
        let mut record = self.record();
        record.client = visitor.client;
        self.in_flight.begin();
        let known = (!self.identity.is_anonymous()).then(|| self.identity.clone());
        let mut ended = None;
        if let Some(identity) = &known {
            record.tenant = Some(identity.tenant.clone());
            ended = Some(Box::pin(identity.ended()));
        }
        let way = way.and_then(|way| {
            record.taken = self.take(&way, known.as_deref())?;
            Ok(way)
        });
        let last = {
            let mut exchange = pin!(self.exchange(settings, way, visitor, &mut record));
            poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Ready(last) => Poll::Ready(Ok(last)),
                Poll::Pending => match &mut ended {
                    Some(ended) => ended.as_mut().poll(cx).map(Err),
                    None => Poll::Pending,
                },
            })
            .await
        };
        let last = last.unwrap_or_else(|()| {
            record.error = known.as_deref().map(over);
            Some(Last::Reset)
        });
        record.charge();
        self.in_flight.end();
        self.proxy.finish(self.worker, &record);
        last
    }

    /// Takes a request's share of what whoever sends it may have, and the owner of the endpoint.
    fn take(&self, way: &Way, known: Option<&Identity>) -> Result<Taken> {
        let owner = match way {
            Way::On(route, _) => route.upstreams.owner(),
            Way::Answered(..) => None,
        };
        let shared = owner.and_then(|owner| self.proxy.verdicts.allowance_of(owner));
        let own = known.into_iter().flat_map(|identity| identity.allowances.iter().cloned());
        Taken::from(own.chain(shared), Wanted::Stream).map_err(too_many)
    }

    /// Answers a request of which no head could be read.
    pub async fn refuse(&mut self, error: Error, version: Version) {
        let mut record = self.record();
        // What there is of one, or of the request before, asks for nothing.
        self.request.clear();
        self.answer_error(&mut record, error, version, false, false).await;
        self.proxy.finish(self.worker, &record);
    }

    fn record(&self) -> Record {
        Record::new(self.proxy.next_request(), self.client, self.site.name().clone(), self.site.answered())
    }

    /// Carries one request. None: the connection waits for the next.
    async fn exchange(
        &mut self,
        settings: &Settings,
        way: Result<Way>,
        visitor: &Visitor,
        record: &mut Record,
    ) -> Option<Last> {
        record.asked = self.proxy.access.is_on().then(|| Words::of(&self.request));
        let (version, is_head) = (self.request.version, self.request.method() == b"HEAD");
        let wants_more = framing::keeps_alive_request(&self.request);
        let own = match &way {
            Ok(Way::On(route, _)) => route.settings(settings),
            Ok(Way::Answered(..)) | Err(_) => None,
        };
        let settings = own.as_ref().unwrap_or(settings);
        let outcome = match self.expect_body(settings).and_then(|framing| Ok((framing, way?))) {
            Err(error) => Err(error),
            Ok((_, Way::Answered(answer, lead))) => {
                record.route = Some(lead.name.clone());
                let keep = wants_more && self.may_go_on();
                self.send_answer(record, &answer, version, keep, is_head).await;
                return (!keep).then_some(Last::Linger);
            }
            Ok((framing, Way::On(route, label))) => {
                record.endpoint = Some(label);
                if let Some(owner) = route.upstreams.owner() {
                    record.tenant = Some(owner.clone());
                }
                record.route = route.lead.as_ref().map(|lead| lead.name.clone());
                if self.hides {
                    self.request.fields.retain(|field| field.known != Known::Authorization);
                }
                let mut exchange = Exchange {
                    proxy: &self.proxy,
                    settings,
                    site: &self.site,
                    worker: self.worker,
                    visitor,
                    identity: &self.identity,
                    timer: &mut self.timer,
                    response: &mut self.response,
                    record,
                };
                match route.wants {
                    Wants::Datagrams => datagrams::answer(&mut exchange, &mut self.down, &self.request, &route).await,
                    Wants::Bytes => {
                        let bare = self.secured.as_deref().is_some_and(|secured| secured.session.is_some());
                        stream::answer(&mut exchange, &mut self.down, &self.request, &route, bare).await
                    }
                    Wants::Exchange => exchange.run(&mut self.down, &mut self.request, framing, &route).await,
                }
            }
        };
        match outcome {
            Ok(Next::KeepAlive) => None,
            Ok(Next::Close) => Some(Last::Linger),
            Ok(Next::Reset) => Some(Last::Reset),
            Ok(Next::Taken) => Some(Last::Close),
            Ok(Next::Upgraded(up, busy)) => {
                if let Some(down) = self.down.connection() {
                    let whose = self.identity.clone();
                    stream::relay_upgraded(down, *up, whose, settings, &mut self.timer, record).await;
                }
                drop(busy);
                Some(Last::Close)
            }
            Err(error) if error.code == Code::DownstreamClosed => {
                record.status = error.code.status();
                record.error = Some(error);
                Some(Last::Reset)
            }
            Err(error) => {
                // Who may not do this may do something else, and what it said was understood.
                let understood = error.code == Code::MissingEndpoint || matches!(error.code.status(), 401 | 403 | 429);
                let misunderstood = error.code.side() == Side::Downstream && !understood;
                let keep = wants_more && !misunderstood && self.may_go_on();
                self.answer_error(record, error, version, keep, is_head).await;
                (!keep).then_some(Last::Linger)
            }
        }
    }

    /// True when another request may follow although nobody read the body of this one.
    fn may_go_on(&mut self) -> bool {
        self.down.skip_arrived_body() && !self.site.is_closing(&self.proxy)
    }

    /// Says how the body of the request is framed, and refuses what is never carried.
    fn expect_body(&mut self, settings: &Settings) -> Result<Framing> {
        let framing = self.down.expect_request_body(&self.request, &settings.head).map_err(HeadError::of_request)?;
        if self.request.method() == b"CONNECT" {
            return Err(Error::new(Code::MethodNotSupported, "CONNECT is not served here"));
        }
        Ok(framing)
    }

    async fn answer_error(&mut self, record: &mut Record, error: Error, version: Version, keep: bool, is_head: bool) {
        let prefers_html = respond::prefers_html(self.request.fields.all(Known::Accept));
        let answer = self.proxy.table.load().answer(&error, record.id, prefers_html);
        record.error = Some(error);
        self.send_answer(record, &answer, version, keep, is_head).await;
    }

    /// Sends an answer of our own.
    async fn send_answer(&mut self, record: &mut Record, answer: &Answer, version: Version, keep: bool, is_head: bool) {
        record.status = answer.status;
        record.answered = self.site.answered();
        record.first_byte = Some(Instant::now());
        record.bytes_out = answer.sent(is_head).len() as u64;
        self.down.send_answer(answer, version, keep, is_head);
        // A downstream that cannot be told has left, which the next read shows.
        self.down.flush_within(&mut self.timer, LINGER).await;
    }
}
