//! Connections of a listener of kind connect: each says by CONNECT where it leads, and the listener's rules which
//! endpoint leads there.
//!
//! The request is written anew for the agent, and what follows it is held until the agent has agreed: nobody who serves
//! something else takes it for a request. Whether a target is allowed is the agent's to say, and its answer is passed
//! on.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout};

use super::arrive::Arrival;
use crate::allowance::{Taken, Wanted};
use crate::error::{Code, Error, Result};
use crate::headers::{self, Return};
use crate::http1::framing::{Framing, response_framing};
use crate::http1::head::{HeadLimits, write_request};
use crate::identity::Identity;
use crate::io::Buffer;
use crate::message::{RequestHead, ResponseHead, Version};
use crate::proxy::access::{Answered, Record, Words};
use crate::proxy::admission::{identify, too_many};
use crate::proxy::connecting::{read, refuse, target_of, through};
use crate::proxy::http1::{Http1, Part, Stop};
use crate::proxy::opening::open;
use crate::proxy::passthrough::nobody;
use crate::proxy::relay::Leg;
use crate::proxy::shared::Proxy;
use crate::proxy::{site, turn};
use crate::target::Target;
use crate::target::rules::Rules;
use crate::terms::Terms;
use crate::timer::Timer;
use crate::tunnel::never_accepted;
use crate::upstream::UpstreamSet;
use crate::upstream::any::Busy;
use crate::verdict::Access;

/// What an agent may answer before the way is open, or not.
const ANSWER: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100 };

/// The longest reason that an agent may give.
const REASON: usize = 16 * 1024;

/// How long a connection that came just before its listener ends may take to ask something.
const FRESH: Duration = Duration::from_secs(1);

/// A listener of kind connect.
pub struct ConnectListener {
    /// Its name.
    pub name: Arc<str>,
    /// Which target leads where.
    pub rules: ArcSwap<Rules>,
    /// Who may come in.
    pub access: ArcSwap<Access>,
    /// What connections were let in by.
    pub terms: Arc<Terms>,
}

/// Where somebody who was let in is to be led.
struct Led {
    target: Target,
    upstreams: UpstreamSet,
    client: SocketAddr,
    identity: Arc<Identity>,
}

/// Serves a connection that has arrived. `certificate`: what it has shown by TLS.
pub async fn connection(
    proxy: Arc<Proxy>,
    worker: usize,
    listener: Arc<ConnectListener>,
    arrival: Arrival,
    certificate: Option<CertificateDer<'static>>,
) {
    let Arrival { io, read: begun, client, place } = arrival;
    let settings = proxy.settings.load_full();
    let mut connection = Http1::new(io, begun);
    place.idle(Instant::now());
    let asked = tokio::select! {
        asked = read(&mut connection, &settings) => asked,
        () = place.evicted() => return,
        () = closed(&listener.terms) => return,
    };
    place.busy();
    let mut record = Record::new(proxy.next_request(), client, listener.name.clone(), Answered::Gateway);
    let led = match asked {
        Ok(None) => return,
        Ok(Some(head)) => {
            record.asked = proxy.access.is_on().then(|| Words::of(&head));
            led(&proxy, &listener, &head, certificate.as_deref(), client, &mut record).await
        }
        Err(error) => Err(error),
    };
    let led = match led {
        Ok(led) => led,
        Err(error) => {
            let status = (error.code.status() == 401).then_some(407);
            refuse(&proxy, &mut connection, error, status, &mut record).await;
            return proxy.finish(worker, &record);
        }
    };
    let there = led.upstreams.better_worker(worker).unwrap_or(worker);
    let (io, early) = connection.take_stream();
    let proxy_there = proxy.clone();
    proxy.carry_on(&proxy.drain, io, (worker, there), move |worker, io| async move {
        let (_place, proxy) = (place, proxy_there);
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        carry(&proxy, worker, Http1::new(io, early), &led, &mut record).await;
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        record.charge();
        proxy.finish(worker, &record);
    });
}

/// Resolves a moment after connections are to end: what this one asks may be on its way.
async fn closed(terms: &Terms) {
    terms.closing().await;
    sleep(FRESH).await;
}

/// Finds out who asks for what, and where that leads. Nothing is said about targets before it is known who asks.
async fn led(
    proxy: &Proxy,
    listener: &ConnectListener,
    head: &RequestHead,
    certificate: Option<&[u8]>,
    client: SocketAddr,
    record: &mut Record,
) -> Result<Led> {
    if listener.terms.are_revoked() {
        return Err(site::revoked());
    }
    let target = target_of(head);
    if let Err(error) = &target
        && error.code == Code::MethodNotSupported
    {
        return Err(error.clone());
    }
    let access = listener.access.load_full();
    let identity = match &access.policy {
        None => proxy.anonymous.clone(),
        Some(policy) => identify(proxy, policy, &head.fields, certificate, client.ip()).await?,
    };
    record.tenant = Some(identity.tenant.clone());
    let target = target?;
    let rules = listener.rules.load_full();
    let to = rules.find(&target).ok_or_else(|| Error::new(Code::TargetDenied, "no rule leads there"))?;
    let owner = to.owner(if access.tenant.is_empty() { &identity.tenant } else { &access.tenant });
    if !identity.may_reach(owner, &to.endpoint) {
        let error = Error::new(Code::EndpointNotPermitted, "");
        return Err(access.policy.as_ref().map_or(error.clone(), |policy| policy.challenge(error)));
    }
    let endpoint = proxy.registry.find(owner, &to.endpoint).ok_or_else(nobody)?;
    record.endpoint = Some(endpoint.name.clone());
    record.tenant = Some(endpoint.tenant.clone());
    let shared = proxy.verdicts.allowance_of(&endpoint.tenant);
    let all = identity.allowances.iter().cloned().chain(shared);
    record.taken = Taken::from(all, Wanted::Stream).map_err(too_many)?;
    Ok(Led { target, upstreams: UpstreamSet::Endpoint(endpoint), client, identity })
}

/// Leads somebody there, for as long as what vouches for them is good.
async fn carry(proxy: &Proxy, worker: usize, connection: Http1, led: &Led, record: &mut Record) {
    let ended = {
        let mut leading = pin!(lead(proxy, worker, connection, led, record));
        tokio::select! {
            () = &mut leading => false,
            () = led.identity.ended(), if !led.identity.is_anonymous() => true,
        }
    };
    if ended {
        record.error = Some(turn::over(&led.identity));
    }
}

async fn lead(proxy: &Proxy, worker: usize, mut connection: Http1, led: &Led, record: &mut Record) {
    let (mut agent, mut answer, busy) = match ask(proxy, worker, led, record).await {
        Ok(answered) => answered,
        Err(error) => return refuse(proxy, &mut connection, error, None, record).await,
    };
    if (200..300).contains(&answer.status) {
        let (up, first) = agent.take_stream();
        return through(proxy, connection, up, first, &led.identity, record).await;
    }
    match timeout(proxy.settings.load().timeouts.response, reason(&mut agent, &answer)).await {
        Ok(Ok(reason)) => {
            note(&answer, &busy, record);
            headers::to_downstream(
                &mut answer,
                &Return { version: Version::Http11, keep_alive: false, framing: Framing::Length(reason.len() as u64) },
            );
            if let Some(error) = &record.error {
                answer.fields.push(b"x-tidegate-error", error.code.as_str().as_bytes());
                answer.fields.push(b"x-tidegate-request-id", format!("{:016x}", record.id).as_bytes());
            }
            record.bytes_out = reason.len() as u64;
            connection.send_response(&answer, Framing::None);
            connection.send_raw(&reason);
            connection.part(&mut Timer::new()).await;
        }
        Ok(Err(error)) => refuse(proxy, &mut connection, error, None, record).await,
        Err(_) => refuse(proxy, &mut connection, late(), None, record).await,
    }
}

/// Notes that an agent has refused, and what it says about why where it knows us.
fn note(answer: &ResponseHead, busy: &Busy, record: &mut Record) {
    record.status = answer.status;
    record.first_byte = Some(Instant::now());
    record.answered = Answered::Upstream;
    let said = answer.fields.find("x-tidegate-error").filter(|_| busy.upstream().features().retry);
    let code = said.and_then(|said| Code::ALL.iter().find(|code| code.as_str().as_bytes() == said));
    if let Some(code) = code {
        record.answered = Answered::Agent;
        record.error = Some(Error::new(*code, "the agent refused it or could not reach it"));
    }
}

/// Asks an agent, and waits for its answer.
async fn ask(proxy: &Proxy, worker: usize, led: &Led, record: &mut Record) -> Result<(Http1, ResponseHead, Busy)> {
    let target = led.target.to_string();
    let mut head = RequestHead::new();
    head.set(b"CONNECT", target.as_bytes(), Version::Http11);
    head.fields.push(b"Host", target.as_bytes());
    // Its other end says nothing: what comes behind the request stays with the connection it came by.
    let (silent, _other) = tokio::io::duplex(1);
    let mut asking = Leg { io: Box::new(silent), read: Buffer::new() };
    write_request(&head, &mut asking.read);
    let (up, busy) = open(proxy, worker, &led.upstreams, led.client, Some(&mut asking), record).await?;
    record.bytes_in = 0;
    let mut agent = Http1::new(up, Buffer::new());
    agent.send_raw(asking.read.chunk());
    let mut answer = ResponseHead::new();
    let within = proxy.settings.load().timeouts.response;
    let answered = poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(error)) = agent.poll_flush(cx) {
                return Poll::Ready(Err(Stop::Io(error)));
            }
            match ready!(agent.poll_response(cx, &mut answer, &ANSWER)) {
                Ok(true) if answer.is_informational() && answer.status != 101 => {}
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => return Poll::Ready(Err(Stop::Closed)),
                Err(stop) => return Poll::Ready(Err(stop)),
            }
        }
    });
    match timeout(within, answered).await {
        Ok(Ok(())) if answer.status == 101 => Err(Error::new(Code::UpstreamMalformed, "101 is no answer to CONNECT")),
        Ok(Ok(())) => Ok((agent, answer, busy)),
        Ok(Err(stop)) => Err(broken(stop)),
        Err(_) => Err(late()),
    }
}

/// Reads the body of a refusal.
async fn reason(agent: &mut Http1, answer: &ResponseHead) -> Result<Vec<u8>> {
    let framing = response_framing(answer, b"CONNECT").map_err(|why| broken(Stop::Malformed(why)))?;
    agent.expect_body(framing, &ANSWER);
    let mut reason = Vec::new();
    loop {
        match poll_fn(|cx| agent.poll_part(cx)).await.map_err(broken)? {
            Part::Data(length) if reason.len() + length > REASON => {
                return Err(Error::new(Code::UpstreamMalformed, "the reason of a refusal is too long"));
            }
            Part::Data(length) => {
                reason.extend_from_slice(&agent.data()[..length]);
                agent.took(length);
            }
            Part::Trailers(_) => {}
            Part::End => return Ok(reason),
        }
    }
}

fn broken(stop: Stop) -> Error {
    match stop {
        Stop::Io(error) if never_accepted(&error) => {
            Error::undelivered(Code::UpstreamUnreachable, "the stream was not accepted")
        }
        Stop::Malformed(why) => Error::new(Code::UpstreamMalformed, why.detail()),
        stop => Error::new(Code::UpstreamClosed, stop.to_string()),
    }
}

fn late() -> Error {
    Error::new(Code::UpstreamTimeout, "no answer of the agent within timeouts.response")
}
