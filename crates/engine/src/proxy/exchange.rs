//! One request and its response: the attempts, the two bodies at the same time, and what becomes of the connections.
//!
//! The request's head is routed by `turn` and `site`; connections come from `connector`. What an error looks like to
//! the downstream is `respond`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::access::{Answered, Record};
use super::connector::Connector;
use super::delivery::{Delivery, cut_answer, downstream_left, no_answer};
use super::http::Http;
use super::http1::{Http1, Stop};
use super::pump::{PumpError, Replay, poll_pump};
use super::shared::{Proxy, Settings};
use super::site::{Route, Site};
use crate::error::{Code, Error, Side};
use crate::forwarded::Visitor;
use crate::headers::{self, Forwarding, Hop, Return};
use crate::http1::framing::{self, Framing};
use crate::http1::refusal::HeadError;
use crate::identity::Identity;
use crate::message::{Known, RequestHead, ResponseHead, Version};
use crate::snapshot::HostHeader;
use crate::snapshot::route::Edits;
use crate::timer::Timer;
use crate::upstream::any::Busy;
use crate::upstream::{StreamInfo, Upstream};

/// Interim responses that one request may get.
const INTERIMS: usize = 64;

/// What a downstream connection does after an exchange.
pub enum Next {
    /// Waits for the next request.
    KeepAlive,
    /// Ends; what the downstream still sends is discarded for a moment, so that it can read the answer.
    Close,
    /// Ends broken: a part of the answer is missing.
    Reset,
    /// Has switched protocols: raw bytes from here on.
    Upgraded(Box<Http1>, Busy),
    /// Is over: its stream was taken for something else, which has ended.
    Taken,
}

/// What one exchange works with.
pub struct Exchange<'a> {
    /// What all connections share.
    pub proxy: &'a Proxy,
    /// The deadlines and limits it began with.
    pub settings: &'a Settings,
    /// Where the request came in.
    pub site: &'a Site,
    /// The worker that runs it.
    pub worker: usize,
    /// Who asks.
    pub visitor: &'a Visitor,
    /// As whom that was let in.
    pub identity: &'a Arc<Identity>,
    /// The connection's timer.
    pub timer: &'a mut Timer,
    /// The head of the answer, reused from one exchange to the next.
    pub response: &'a mut ResponseHead,
    /// What is known of the exchange so far.
    pub record: &'a mut Record,
}

/// Why an attempt came to nothing, with no byte of an answer sent to the downstream.
struct Failure {
    error: Error,
    /// Another upstream may be asked.
    repeatable: bool,
    /// A kept connection had ended meanwhile: the same upstream may be asked, on a new one.
    stale: bool,
    /// The retry has been taken from the budget already.
    paid: bool,
    /// Upstreams that need not be asked any more.
    tried: Vec<u64>,
}

/// What is fixed about a request while upstreams are tried.
struct Plan<'a> {
    framing: Framing,
    version: Version,
    is_head: bool,
    idempotent: bool,
    upgrade: bool,
    expects: bool,
    keep_alive: bool,
    /// What the route changes in the answer.
    edits: Option<&'a Edits>,
}

/// One try of one upstream.
struct Attempt<'a> {
    head: &'a RequestHead,
    plan: &'a Plan<'a>,
    route: &'a Route,
    upstream: &'a Upstream,
    tried: &'a [u64],
    kept_allowed: bool,
}

impl Exchange<'_> {
    /// Carries a routed request whose head has been read from `down`. An error is one that nothing was answered to yet.
    pub async fn run(
        &mut self,
        down: &mut Http,
        head: &mut RequestHead,
        framing: Framing,
        route: &Route,
    ) -> Result<Next, Error> {
        let plan = Plan {
            framing,
            version: head.version,
            is_head: head.method() == b"HEAD",
            idempotent: is_idempotent(head.method()),
            upgrade: headers::upgrade_of(head).is_some(),
            expects: head.version != Version::Http10 && head.fields.get(Known::Expect).is_some(),
            keep_alive: framing::keeps_alive_request(head),
            edits: route.forward().map(|forward| &forward.response_headers),
        };
        if let Some(target) = &route.target {
            head.set_target(target);
        }
        headers::to_upstream(head, &self.hop(route, framing));
        if let Some(forward) = route.forward() {
            headers::edit(&mut head.fields, &forward.request_headers);
        }
        self.proxy.earn_retry(self.worker, self.record.began);

        let (mut replay, mut tried, mut kept_allowed) = (Replay::default(), Vec::new(), !plan.upgrade);
        let mut paid = false;
        let mut last = Error::undelivered(Code::NoUpstream, "");
        while let Some(upstream) = route.upstreams.pick(self.worker, &tried) {
            let affordable =
                self.record.attempts == 0 || std::mem::take(&mut paid) || self.proxy.spend_retry(self.worker);
            if !affordable || !replay.is_whole() {
                break;
            }
            self.record.attempts += 1;
            if self.record.asked.is_some() {
                self.record.upstream = upstream.to_string();
            }
            let busy = upstream.begin();
            let upstream = busy.upstream();
            if route.forward().is_some_and(|forward| forward.host_header == HostHeader::Rewrite)
                && let Upstream::Address(address) = upstream
            {
                head.fields.replace(Known::Host, address.authority.as_bytes());
            }
            let attempt = Attempt { head, plan: &plan, route, upstream, tried: &tried, kept_allowed };
            let outcome = self.attempt(down, &attempt, &mut replay).await;
            self.report(route, upstream, outcome.as_ref().err());
            match outcome {
                Ok(up) => return self.answer(down, up, &plan, busy).await,
                Err(failure) if failure.stale => {
                    // Its end was not this request's doing: the next try, on a new connection, is not taken from
                    // others.
                    (kept_allowed, paid) = (false, true);
                    last = failure.error;
                }
                Err(failure) if failure.repeatable => {
                    paid = failure.paid;
                    tried.extend(failure.tried);
                    // Once something may have been delivered, no later failure may say that nothing was.
                    if last.undelivered || !failure.error.undelivered {
                        last = failure.error;
                    }
                }
                Err(failure) => return Err(failure.error),
            }
            replay.rewind();
        }
        Err(last)
    }

    /// Tells the balance how an upstream fared: what the downstream did to the request says nothing about it.
    fn report(&self, route: &Route, upstream: &Upstream, failure: Option<&Failure>) {
        match failure {
            Some(failure) if failure.stale || failure.error.code.side() != Side::Upstream => {}
            Some(failure) => route.upstreams.report(upstream, Some(&failure.error)),
            None => match self.response.status {
                status @ (502..=504) => route.upstreams.report(upstream, Some(&format_args!("it answered {status}"))),
                _ => route.upstreams.report(upstream, None),
            },
        }
    }

    fn hop<'a>(&'a self, route: &'a Route, framing: Framing) -> Hop<'a> {
        match self.site {
            Site::Listener(_) => Hop {
                forwarding: Forwarding::Rebuild(self.visitor),
                host: route.forward().map_or(&HostHeader::Keep, |forward| &forward.host_header),
                // Only for a request of HTTP/1.0 without a Host.
                authority: self.record.label(),
                framing,
            },
            Site::Service(service) => {
                Hop { forwarding: Forwarding::Keep, host: &service.host_header, authority: &service.authority, framing }
            }
        }
    }

    /// Sends the request to one upstream and waits for the head of its answer, which is in `self.response` then.
    async fn attempt(
        &mut self,
        down: &mut Http,
        attempt: &Attempt<'_>,
        replay: &mut Replay,
    ) -> Result<Delivery, Failure> {
        let (upstream, plan) = (attempt.upstream, attempt.plan);
        let (connection, kept) = self.connection(attempt).await?;
        let mut up = Delivery::new(connection);
        up.connection.send_request(attempt.head, plan.framing);
        let before = up.connection.received();
        self.response_head(down, &mut up, plan, replay).await.map_err(|error| {
            // Without certainty that nothing was delivered, only what changes nothing may be asked again, where no byte
            // of an answer has come, and not of one that was merely slow.
            let silent = up.connection.received() == before;
            let harmless = plan.idempotent && silent && error.code == Code::UpstreamClosed;
            let repeatable = (error.undelivered || harmless) && replay.is_whole();
            // A shared connection may have begun to end, which is not the upstream's end.
            let ended = error.code == Code::UpstreamClosed || matches!(up.connection, Http::Two(_));
            let stale = kept && repeatable && ended;
            Failure { stale, error, repeatable, paid: false, tried: vec![upstream.id()] }
        })?;

        self.record.answered = Answered::Upstream;
        if !upstream.features().retry {
            return Ok(up);
        }
        let said = self.response.fields.find("x-tidegate-error");
        let Some(code) = said.and_then(|said| Code::ALL.iter().find(|code| code.as_str().as_bytes() == said)) else {
            return Ok(up);
        };
        // An agent that knows us says when nothing was delivered; then another may still answer.
        let error = Error::undelivered(*code, "the agent could not reach its service");
        // Its other tunnels lead to the same service.
        let same = attempt.route.upstreams.siblings(upstream);
        let all = [attempt.tried, &same].concat();
        let others = || attempt.route.upstreams.pick(self.worker, &all).is_some();
        // Its answer says more than we could: it is dropped only for another attempt that is sure to be made.
        let again = *code == Code::UpstreamUnreachable && replay.is_whole() && others();
        if again && self.proxy.spend_retry(self.worker) {
            return Err(Failure { error, repeatable: true, stale: false, paid: true, tried: same });
        }
        self.record.answered = Answered::Agent;
        self.record.error = Some(error);
        Ok(up)
    }

    /// A kept connection, else a new one, or a place on one that many share. Says whether it was there.
    async fn connection(&self, attempt: &Attempt<'_>) -> Result<(Http, bool), Failure> {
        let (upstream, connector) = (attempt.upstream, self.connector());
        if attempt.kept_allowed
            && let Some(kept) = connector.kept(upstream, attempt.plan.idempotent)
        {
            return Ok((kept, true));
        }
        let info = StreamInfo {
            tenant: attempt.route.upstreams.tenant(),
            endpoint: self.record.endpoint.clone().unwrap_or_default(),
            // HTTP/2 knows no Upgrade: there the request goes without it, as a server may treat it (RFC 9110 §7.8).
            kind: upstream.http(),
            client: self.visitor.client,
            local: None,
            request_id: self.record.id,
            hops: 0,
        };
        let (connection, was_there) = connector.open(upstream, &info).await.map_err(|error| {
            let repeatable = error.undelivered;
            Failure { error, repeatable, stale: false, paid: false, tried: vec![upstream.id()] }
        })?;
        Ok((connection, was_there && attempt.kept_allowed))
    }

    fn connector(&self) -> Connector<'_> {
        Connector { proxy: self.proxy, settings: self.settings, worker: self.worker }
    }

    /// Pumps the request until the head of the final response is there.
    async fn response_head(
        &mut self,
        down: &mut Http,
        up: &mut Delivery,
        plan: &Plan<'_>,
        replay: &mut Replay,
    ) -> Result<(), Error> {
        let timeouts = &self.settings.timeouts;
        let mut progress = Progress::new(timeouts.idle);
        let (mut respond_by, mut interims) = (None, 0);
        let (record, response, timer) = (&mut *self.record, &mut *self.response, &mut *self.timer);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = up.poll_request(cx, down, Some(replay), &mut record.bytes_in) {
                    return Poll::Ready(Err(error));
                }
                record.charge();
                if !up.request_done && !up.request_broken {
                    respond_by = None;
                } else if respond_by.is_none() {
                    respond_by = Some(Instant::now() + timeouts.response);
                }
                // An interim answer goes out before another is read, so that a flood of them is nobody's memory.
                match down.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(downstream_left())),
                    Poll::Pending => break,
                }
                match up.connection.poll_response(cx, response, &self.settings.head) {
                    Poll::Ready(Ok(true)) if response.is_informational() && response.status != 101 => {
                        interims += 1;
                        if interims > INTERIMS {
                            return Poll::Ready(Err(Error::new(Code::UpstreamMalformed, "too many interim responses")));
                        }
                        if plan.version != Version::Http10 && (response.status != 100 || plan.expects) {
                            let way = Return { version: plan.version, keep_alive: true, framing: Framing::None };
                            headers::to_downstream(response, &way);
                            down.send_interim(response);
                        }
                        // It says that the upstream is at work.
                        respond_by = respond_by.map(|_| Instant::now() + timeouts.response);
                    }
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(false)) => return Poll::Ready(Err(no_answer(&Stop::Closed))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(no_answer(&stop))),
                    Poll::Pending => break,
                }
            }
            if up.request_done && down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(downstream_left()));
            }
            let mut idle_by = || progress.deadline(down.moved() + up.connection.moved());
            let deadline = if down.is_flushed() { respond_by.unwrap_or_else(idle_by) } else { idle_by() };
            timer.poll_until(cx, deadline).map(|()| {
                Err(match (down.is_flushed(), respond_by.is_some(), up.connection.is_flushed()) {
                    (false, ..) => Error::new(Code::DownstreamClosed, "it read no byte within timeouts.idle"),
                    (_, true, _) => Error::new(Code::UpstreamTimeout, "no response within timeouts.response"),
                    (_, _, false) => Error::new(Code::UpstreamTimeout, "it took no byte within timeouts.idle"),
                    (..) => Error::new(Code::DownstreamTimeout, "no byte of the body came within timeouts.idle"),
                })
            })
        })
        .await
    }

    /// Sends the response whose head has come, while the rest of the request goes on. An error: it cannot be sent on.
    async fn answer(&mut self, down: &mut Http, mut up: Delivery, plan: &Plan<'_>, busy: Busy) -> Result<Next, Error> {
        self.record.first_byte = Some(Instant::now());
        self.record.status = self.response.status;
        let method: &[u8] = if plan.is_head { b"HEAD" } else { b"GET" };
        let framing = match up.connection.expect_response_body(self.response, method, &self.settings.head) {
            Ok(framing) => framing,
            Err(error) => return Err(up.refuse(error)),
        };
        if self.response.status == 101 {
            return self.switch(down, up, plan, busy).await;
        }
        let reusable = framing::keeps_alive_response(self.response, framing) && framing != Framing::UntilClose;

        let towards = framing.towards(plan.version);
        let asked = plan.keep_alive && !self.site.is_closing(self.proxy);
        let keep_alive = asked && towards != Framing::UntilClose && up.request_done;
        let believed = self.record.error.as_ref().map(|error| error.code.as_str());
        headers::to_downstream(self.response, &Return { version: plan.version, keep_alive, framing: towards });
        if let Some(edits) = plan.edits {
            headers::edit(&mut self.response.fields, edits);
        }
        if let Some(code) = believed {
            self.response.fields.push(b"x-tidegate-error", code.as_bytes());
            let id = format!("{:016x}", self.record.id);
            self.response.fields.push(b"x-tidegate-request-id", id.as_bytes());
        }
        down.send_response(self.response, towards);

        if let Err(error) = self.bodies(down, &mut up).await {
            self.record.error = Some(error);
            up.connection.reset();
            return Ok(Next::Reset);
        }
        if up.request_done {
            let upstream = busy.upstream();
            self.connector().give_back(up.connection, reusable && !upstream.is_personal(), upstream).await;
        }
        Ok(if keep_alive { Next::KeepAlive } else { Next::Close })
    }

    /// Moves both bodies until the response is whole.
    async fn bodies(&mut self, down: &mut Http, up: &mut Delivery) -> Result<(), Error> {
        let mut progress = Progress::new(self.settings.timeouts.idle);
        let (record, timer) = (&mut *self.record, &mut *self.timer);
        poll_fn(|cx| {
            // Where the downstream breaks its request now, the answer still goes out, and the connection ends after it.
            if up.poll_request(cx, down, None, &mut record.bytes_in).map_err(|_| ()) == Poll::Ready(Err(())) {
                up.request_broken = true;
            }
            match poll_pump(cx, &mut up.connection, down, None, &mut record.bytes_out) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::From(stop))) => return Poll::Ready(Err(cut_answer(&stop))),
                Poll::Ready(Err(PumpError::To(_))) => return Poll::Ready(Err(downstream_left())),
                Poll::Pending => record.charge(),
            }
            if up.request_done && down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(downstream_left()));
            }
            match timer.poll_until(cx, progress.deadline(down.moved() + up.connection.moved())) {
                Poll::Ready(()) if down.is_flushed() => {
                    Poll::Ready(Err(Error::new(Code::UpstreamTimeout, "no byte of the response within timeouts.idle")))
                }
                Poll::Ready(()) => {
                    Poll::Ready(Err(Error::new(Code::DownstreamClosed, "it read no byte within timeouts.idle")))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    async fn switch(&mut self, down: &mut Http, up: Delivery, plan: &Plan<'_>, busy: Busy) -> Result<Next, Error> {
        if !plan.upgrade {
            return Err(up.refuse(HeadError::Malformed("101 to a request that asked for no upgrade")));
        }
        let Http::One(connection) = up.connection else {
            return Err(up.refuse(HeadError::Malformed("101 in HTTP/2")));
        };
        let way = Return { version: plan.version, keep_alive: true, framing: Framing::None };
        headers::to_downstream(self.response, &way);
        down.send_response(self.response, Framing::None);
        Ok(match down.flush_within(self.timer, self.settings.timeouts.idle).await {
            true => Next::Upgraded(connection, busy),
            false => Next::Reset,
        })
    }
}

/// Watches that bytes move, from the first time on that somebody asks.
struct Progress {
    idle: Duration,
    /// Bytes that had moved when they were last seen to move, and when it is too late for more.
    seen: Option<(u64, Instant)>,
}

impl Progress {
    fn new(idle: Duration) -> Self {
        Progress { idle, seen: None }
    }

    /// When it is too late, given how many bytes have moved by now.
    fn deadline(&mut self, moved: u64) -> Instant {
        match self.seen {
            Some((seen, by)) if seen == moved => by,
            _ => {
                let by = Instant::now() + self.idle;
                self.seen = Some((moved, by));
                by
            }
        }
    }
}

fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}
