//! Moves datagrams between two ends that belong together, until neither has said anything for a while.
//!
//! What cannot be sent now is dropped and counted, as a network does it: nobody waits for anybody.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::access::{Answered, Record};
use super::exchange::{Exchange, Next};
use super::http::Http;
use super::shared::Proxy;
use super::site::Route;
use crate::dial;
use crate::error::{Code, Error, Result, Side};
use crate::io::Io;
use crate::message::RequestHead;
use crate::metrics::{Direction, Fate};
use crate::timer::Timer;
use crate::tunnel::hello;
use crate::tunnel::{Flow, FlowError, Sent, never_accepted};
use crate::upstream::any::Busy;
use crate::upstream::{StreamKind, UpstreamSet};

/// The largest datagram there is.
pub const LARGEST: usize = 65_535;
/// Datagrams moved in one go.
const TURN: usize = 32;
/// Datagrams that are kept until an agent has taken the flow.
const KEPT: usize = 16;
/// Who leaves waits for so long for what belongs to what was said last.
const LAST_WORD: Duration = Duration::from_secs(1);
/// And for so long at most.
const LEAVING: Duration = Duration::from_secs(5);
/// How long who leads nowhere is not tried again.
const REST: Duration = Duration::from_secs(1);

/// One end: something that datagrams come from and go to.
pub trait End: Send {
    /// The next datagram; `None` when the end is gone.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
    /// Sends one now, or not at all.
    fn send(&mut self, payload: &[u8]) -> std::result::Result<(), Unsent>;
    /// Datagrams that came and were dropped before they were asked for, since this was last asked.
    fn missed(&mut self) -> u64 {
        0
    }
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The path carries none of its size.
    TooBig {
        /// The most that it carries.
        most: usize,
    },
    /// Too much waits to be sent.
    Full,
    /// The system, or the other end, takes none.
    Failed,
}

impl Unsent {
    fn fate(self) -> Fate {
        match self {
            Unsent::TooBig { .. } => Fate::TooBig,
            Unsent::Full => Fate::QueueFull,
            Unsent::Failed => Fate::Failed,
        }
    }
}

impl End for Flow {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Flow::poll_recv(self, cx)
    }

    fn send(&mut self, payload: &[u8]) -> std::result::Result<(), Unsent> {
        match Flow::send(self, payload) {
            Ok(Sent::Sent) => Ok(()),
            Ok(Sent::Displacing) => Err(Unsent::Full),
            Err(FlowError::TooBig { most }) => Err(Unsent::TooBig { most }),
            Err(FlowError::Ended) => Err(Unsent::Failed),
        }
    }

    fn missed(&mut self) -> u64 {
        Flow::missed(self)
    }
}

/// A service that is spoken to from a port of its own.
pub struct Service {
    socket: Arc<UdpSocket>,
    /// Resolves when the system says that nobody is there, as long as there is another address.
    nobody: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Where it may be, too, as long as nobody has answered.
    others: Vec<SocketAddr>,
    /// What was said last, until somebody has answered.
    last: Option<Bytes>,
    heard: bool,
}

impl Service {
    /// Looks the service up, within this time. Whether it is there shows when it answers.
    pub async fn find(host: &str, port: u16, within: Duration) -> Result<Service> {
        let failed = |why: String| Error::undelivered(Code::UpstreamUnreachable, why);
        let mut addresses = match timeout(within, dial::resolve(host, port)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
            _ => return Err(failed(format!("cannot resolve {host}"))),
        };
        addresses.reverse();
        let mut last = None;
        while let Some(address) = addresses.pop() {
            match speaking_to(address) {
                Ok(socket) => {
                    let nobody = (!addresses.is_empty()).then(|| failing(socket.clone()));
                    return Ok(Service { socket, nobody, others: addresses, last: None, heard: false });
                }
                Err(error) => last = Some(format!("cannot reach {address}: {error}")),
            }
        }
        Err(failed(last.unwrap_or_default()))
    }

    /// Nobody is there: the next address, where there is one, gets what was said.
    fn refused(&mut self) {
        while let (false, Some(address)) = (self.heard, self.others.pop()) {
            if let Ok(socket) = speaking_to(address) {
                self.nobody = (!self.others.is_empty()).then(|| failing(socket.clone()));
                self.socket = socket;
                if let Some(last) = self.last.take() {
                    let _ = self.send(&last);
                }
                return;
            }
        }
    }
}

impl End for Service {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while let Some(nobody) = &mut self.nobody
            && nobody.as_mut().poll(cx).is_ready()
        {
            self.nobody = None;
            self.refused();
        }
        let mut space = [MaybeUninit::uninit(); LARGEST];
        for _ in 0..TURN {
            let mut buf = ReadBuf::uninit(&mut space);
            match self.socket.poll_recv(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    (self.heard, self.nobody, self.last) = (true, None, None);
                    return Poll::Ready(Some(Bytes::copy_from_slice(buf.filled())));
                }
                // It may come back.
                Poll::Ready(Err(_)) => self.refused(),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn send(&mut self, payload: &[u8]) -> std::result::Result<(), Unsent> {
        if !self.heard && !self.others.is_empty() {
            self.last = Some(Bytes::copy_from_slice(payload));
        }
        // Not by way of the runtime, which knows of no room before its next turn.
        let send = |socket: &UdpSocket| SockRef::from(socket).send(payload);
        match send(&self.socket) {
            // What is told here is about one before it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused();
                unsent(send(&self.socket))
            }
            sent => unsent(sent),
        }
    }
}

/// A port that speaks to this address alone.
fn speaking_to(address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket).map(Arc::new)
}

/// Resolves when what was sent has come to nothing.
fn failing(socket: Arc<UdpSocket>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        // An error of the runtime would be one of the socket as well.
        let _ = socket.ready(Interest::ERROR).await;
    })
}

/// What a socket says to a datagram.
pub fn unsent(sent: io::Result<usize>) -> std::result::Result<(), Unsent> {
    match sent {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Unsent::Full),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
            Err(Unsent::TooBig { most: 0 })
        }
        Err(_) => Err(Unsent::Failed),
    }
}

/// Datagrams of two ends, and what is noted about them.
pub struct Pump<'a> {
    proxy: &'a Proxy,
    worker: usize,
    record: &'a mut Record,
    /// That one was too big has been said.
    told: bool,
}

/// Drops what somebody says that leads nowhere, for a moment, so that it is not tried with every datagram.
pub async fn rest(proxy: &Proxy, mut near: impl End) {
    let drop_all = async {
        while poll_fn(|cx| near.poll_recv(cx)).await.is_some() {
            proxy.metrics.datagram(Direction::In, Fate::NoSession);
        }
    };
    tokio::select! {
        _ = timeout(REST, drop_all) => {}
        () = proxy.drain.begun() => {}
    }
}

/// An end of which nothing is known yet.
struct Nobody;

impl End for Nobody {
    fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Pending
    }

    fn send(&mut self, _: &[u8]) -> std::result::Result<(), Unsent> {
        Err(Unsent::Failed)
    }
}

/// Answers a request for a flow of datagrams, which came by the stream of one, and moves them until it ends.
///
/// # Errors
/// The refusal.
pub async fn answer(exchange: &mut Exchange<'_>, down: &mut Http, head: &RequestHead, route: &Route) -> Result<Next> {
    let refused = || Error::new(Code::MalformedRequest, "this path serves datagrams, which a forward sends over QUIC");
    let Http::One(connection) = &mut *down else { return Err(refused()) };
    if !hello::wants_datagrams(head) || !connection.io().as_any().is_some_and(|io| io.is::<Flow>()) {
        return Err(refused());
    }
    let (proxy, worker, idle) = (exchange.proxy, exchange.worker, exchange.settings.timeouts.idle);
    let mut pump = Pump::new(proxy, worker, &mut *exchange.record);
    let (mut far, _busy) = pump.open(&route.upstreams, &mut Nobody).await?;
    connection.send_raw(&hello::accept_datagrams());
    if !down.flush_within(exchange.timer, idle).await {
        return Ok(Next::Reset);
    }
    let Http::One(connection) = down else { return Ok(Next::Reset) };
    let (mut io, _) = connection.take_stream();
    let Some(near) = io.as_any().and_then(|io| io.downcast_mut::<Flow>()) else { return Ok(Next::Reset) };
    let leaving = async {
        tokio::select! {
            () = proxy.drain.begun() => {}
            () = exchange.identity.ended() => {}
        }
    };
    pump.run(near, &mut far, idle, leaving).await;
    exchange.record.status = 101;
    near.end();
    far.end();
    Ok(Next::Taken)
}

/// Which end broke.
enum Broken {
    Near,
    Far(io::Error),
}

impl<'a> Pump<'a> {
    /// Nothing has moved yet.
    pub fn new(proxy: &'a Proxy, worker: usize, record: &'a mut Record) -> Self {
        Pump { proxy, worker, record, told: false }
    }

    /// Opens a flow to one of `upstreams`. What `near` says meanwhile goes along; where nobody has taken it, it goes to
    /// the next one.
    ///
    /// # Errors
    /// Why nobody takes it.
    pub async fn open(&mut self, upstreams: &UpstreamSet, near: &mut dyn End) -> Result<(Flow, Busy)> {
        let (proxy, worker) = (self.proxy, self.worker);
        let within = proxy.settings.load().timeouts.connect;
        let (mut tried, mut kept) = (Vec::new(), Vec::new());
        let mut last = Error::undelivered(Code::NoUpstream, "no agent offers it as UDP, over QUIC");
        proxy.earn_retry(worker, self.record.began);
        while let Some(upstream) = upstreams.pick_for(StreamKind::Datagram, worker, &tried) {
            if self.record.attempts > 0 && !proxy.spend_retry(worker) {
                break;
            }
            self.record.attempts += 1;
            self.record.upstream = upstream.to_string();
            let busy = upstream.begin();
            let upstream = busy.upstream();
            tried.push(upstream.id());
            let mut flow = match upstream.open_flow().await {
                Ok(flow) => flow,
                Err(error) => {
                    if error.code.side() == Side::Upstream {
                        upstreams.report(upstream, Some(&error));
                    }
                    last = error;
                    continue;
                }
            };
            let error = match timeout(within, self.taken(&mut flow, near, &mut kept)).await {
                Ok(Ok(())) => {
                    upstreams.report(upstream, None);
                    return Ok((flow, busy));
                }
                Ok(Err(Broken::Near)) => return Err(Error::new(Code::DownstreamClosed, "it gave way to another one")),
                Ok(Err(Broken::Far(error))) if never_accepted(&error) => {
                    Error::undelivered(Code::UpstreamUnreachable, "the flow was not accepted")
                }
                Ok(Err(Broken::Far(error))) => Error::new(Code::UpstreamClosed, error.to_string()),
                Err(_) => Error::new(Code::UpstreamClosed, "the agent does not answer"),
            };
            upstreams.report(upstream, Some(&error));
            last = error;
        }
        Err(last)
    }

    /// Waits until the agent has taken a flow. What has been said by then was sent, and is kept for another one.
    async fn taken(
        &mut self,
        flow: &mut Flow,
        near: &mut dyn End,
        kept: &mut Vec<Bytes>,
    ) -> std::result::Result<(), Broken> {
        for payload in &*kept {
            // Counted when it was sent first.
            let _ = flow.send(payload);
        }
        poll_fn(|cx| {
            // As many as are kept; the others wait where they are.
            while kept.len() < KEPT
                && let Poll::Ready(payload) = near.poll_recv(cx)
            {
                let Some(payload) = payload else { return Poll::Ready(Err(Broken::Near)) };
                self.pass(Direction::In, &payload, flow);
                kept.push(payload);
            }
            flow.poll_taken(cx).map_err(Broken::Far)
        })
        .await
    }

    /// Moves datagrams until an end is gone, neither has said anything for `idle`, or it is time to leave.
    pub async fn run(
        &mut self,
        near: &mut dyn End,
        far: &mut dyn End,
        idle: Duration,
        leaving: impl Future<Output = ()>,
    ) {
        let (mut timer, mut leaving) = (Timer::new(), pin!(leaving));
        let (mut last, mut until) = (Instant::now(), None);
        poll_fn(|cx| {
            let mut moved = 0;
            loop {
                let (forth, back) = (near.poll_recv(cx), far.poll_recv(cx));
                if forth.is_pending() && back.is_pending() {
                    break;
                }
                for (direction, come) in [(Direction::In, forth), (Direction::Out, back)] {
                    let to: &mut dyn End = if direction == Direction::In { far } else { near };
                    match come {
                        Poll::Ready(Some(payload)) => self.pass(direction, &payload, to),
                        Poll::Ready(None) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                }
                moved += 1;
                if moved == TURN {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
            if moved > 0 {
                last = Instant::now();
                self.record.charge();
            }
            if until.is_none() && leaving.as_mut().poll(cx).is_ready() {
                until = Some(Instant::now() + LEAVING);
            }
            let deadline = match until {
                Some(until) => (last + idle.min(LAST_WORD)).min(until),
                None => last + idle,
            };
            timer.poll_until(cx, deadline)
        })
        .await;
        for (direction, missed) in [(Direction::In, near.missed()), (Direction::Out, far.missed())] {
            self.proxy.metrics.datagrams(direction, Fate::QueueFull, missed);
        }
        if self.record.error.is_none() {
            self.record.answered = Answered::Upstream;
        }
    }

    /// Sends a datagram on, and notes what became of it.
    fn pass(&mut self, direction: Direction, payload: &[u8], to: &mut dyn End) {
        let sent = to.send(payload);
        self.proxy.metrics.datagram(direction, sent.err().map_or(Fate::Sent, Unsent::fate));
        if let (Err(Unsent::TooBig { most }), false) = (sent, self.told) {
            self.told = true;
            let (listener, endpoint) = (&*self.record.listener, self.record.endpoint.as_deref().unwrap_or_default());
            warn!(listener, endpoint, size = payload.len(), most, direction = direction.word(), "datagram too big");
        }
        let bytes = payload.len() as u64;
        match direction {
            Direction::In => self.record.bytes_in += bytes,
            Direction::Out => {
                self.record.first_byte.get_or_insert_with(Instant::now);
                self.record.bytes_out += bytes;
            }
        }
    }
}
