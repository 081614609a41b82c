//! Raw byte streams to an endpoint: from a TCP listener, from a WebSocket or a stream of a session, and after a
//! protocol upgrade.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::access::{Answered, Record};
use super::exchange::{Exchange, Next};
use super::http::Http;
use super::http1::Http1;
use super::opening::open;
use super::relay::{Ended, Leg, Passed, relay};
use super::shared::{Proxy, Settings};
use super::site::{Route, Site};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::io::{BoxedIo, Buffer};
use crate::message::RequestHead;
use crate::timer::Timer;
use crate::tunnel::hello;
use crate::tunnel::websocket::{Channel, Side};
use crate::upstream::UpstreamSet;

/// Two streams that are joined for somebody. They break when that one's time is over: neither end is to take what it
/// has got for the whole.
struct Joined {
    near: Leg,
    far: Leg,
    whose: Arc<Identity>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.whose.has_ended() {
            self.near.io.reset();
            self.far.io.reset();
        }
    }
}

/// In what form somebody gets a byte stream.
enum Form {
    /// Inside a WebSocket, whose ends are told apart where both sides know how.
    WebSocket { key: String, half_close: bool },
    /// As they are.
    Bytes,
}

/// Answers a request for a byte stream (compat.md §1.3) and relays until it ends. `bare`: it came by a stream that is
/// nobody else's and tells its two ends apart, so that nothing has to be put around the bytes.
pub async fn answer(
    exchange: &mut Exchange<'_>,
    down: &mut Http,
    head: &RequestHead,
    route: &Route,
    bare: bool,
) -> Result<Next> {
    let form = match bare && hello::wants_bytes(head) {
        true => Form::Bytes,
        false => Form::WebSocket {
            key: hello::websocket_key(head)?,
            half_close: hello::Features::of(&head.fields).half_close,
        },
    };
    let record = &mut *exchange.record;
    let (up, busy) =
        open(exchange.proxy, exchange.worker, &route.upstreams, exchange.visitor.client, None, record).await?;
    let Http::One(connection) = &mut *down else { return Ok(Next::Reset) };
    connection.send_raw(&match (&form, exchange.site) {
        (Form::Bytes, _) => hello::accept_bytes(),
        (Form::WebSocket { key, half_close }, Site::Listener(listener)) => {
            hello::accept_channel(key, *half_close, &listener.quic.load())
        }
        (Form::WebSocket { key, half_close }, Site::Service(_)) => {
            hello::accept_channel(key, *half_close, &hello::Offers::No)
        }
    });
    if !down.flush_within(exchange.timer, exchange.settings.timeouts.idle).await {
        return Ok(Next::Reset);
    }
    record.status = 101;
    record.first_byte = Some(Instant::now());
    let Http::One(connection) = down else { return Ok(Next::Reset) };
    let (io, read) = connection.take_stream();
    let near = match form {
        Form::Bytes => Leg { io, read },
        Form::WebSocket { half_close, .. } => {
            Leg { io: Box::new(Channel::new(io, read, Side::Server, half_close)), read: Buffer::new() }
        }
    };
    let far = Leg { io: up, read: Buffer::new() };
    let mut both = Joined { near, far, whose: exchange.identity.clone() };
    let idle = exchange.settings.timeouts.idle;
    let ended = relay(&mut both.near, &mut both.far, idle, exchange.timer, |passed| count(record, passed)).await;
    finish(ended, record);
    drop(busy);
    Ok(Next::Taken)
}

/// Relays a connection to one of `upstreams`; resets it where none can be reached.
pub async fn relay_tcp(
    proxy: &Proxy,
    worker: usize,
    upstreams: &UpstreamSet,
    mut near: Leg,
    client: SocketAddr,
    record: &mut Record,
) {
    match open(proxy, worker, upstreams, client, Some(&mut near), record).await {
        Ok((up, _busy)) => relay_open(proxy, near, up, record).await,
        Err(error) => {
            near.io.reset();
            record.error = Some(error);
        }
    }
}

/// Relays between two streams that are open.
pub async fn relay_open(proxy: &Proxy, near: Leg, up: BoxedIo, record: &mut Record) {
    relay_legs(proxy, near, Leg { io: up, read: Buffer::new() }, &proxy.anonymous, record).await;
}

/// The same for somebody, where something has been read from either of them.
pub async fn relay_legs(proxy: &Proxy, near: Leg, far: Leg, whose: &Arc<Identity>, record: &mut Record) {
    let mut both = Joined { near, far, whose: whose.clone() };
    let idle = proxy.settings.load().timeouts.idle;
    let ended = relay(&mut both.near, &mut both.far, idle, &mut Timer::new(), |passed| count(record, passed)).await;
    finish(ended, record);
}

/// Relays what follows a 101, beginning with the bytes that came right behind it.
pub async fn relay_upgraded(
    down: &mut Http1,
    up: Http1,
    whose: Arc<Identity>,
    settings: &Settings,
    timer: &mut Timer,
    record: &mut Record,
) {
    let (io, read) = down.take_stream();
    let (up_io, up_read, _) = up.into_parts();
    let mut both = Joined { near: Leg { io, read }, far: Leg { io: up_io, read: up_read }, whose };
    let idle = settings.timeouts.idle;
    let ended = relay(&mut both.near, &mut both.far, idle, timer, |passed| count(record, passed)).await;
    finish(ended, record);
}

/// Notes what has passed through a relay.
fn count(record: &mut Record, passed: Passed) {
    record.bytes_in += passed.forth;
    record.bytes_out += passed.back;
    record.charge();
}

/// Notes how a relay ended.
fn finish(ended: Ended, record: &mut Record) {
    record.error = match ended {
        Ended::Clean => None,
        Ended::First(error) => Some(Error::new(Code::DownstreamClosed, error.to_string())),
        Ended::Second(error) if crate::tunnel::never_accepted(&error) => {
            Some(Error::undelivered(Code::UpstreamUnreachable, "the stream was not accepted"))
        }
        Ended::Second(error) => Some(Error::new(Code::UpstreamClosed, error.to_string())),
        Ended::Idle => Some(Error::new(Code::UpstreamTimeout, "no byte moved within timeouts.idle")),
    };
    if record.error.is_none() {
        record.answered = Answered::Upstream;
    }
}
