//! Opens a raw stream to an upstream that takes it, while the downstream may already speak.
//!
//! What is refused before it is taken was delivered to nobody: the next upstream gets it, from the first byte on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::access::Record;
use super::relay::Leg;
use super::shared::Proxy;
use crate::error::{Code, Error, Result, Side};
use crate::io::{BUFFER_SIZE, BoxedIo, Io};
use crate::timer::Timer;
use crate::tunnel::never_accepted;
use crate::upstream::any::Busy;
use crate::upstream::{StreamInfo, StreamKind, UpstreamSet};

/// Opens a stream to one of `upstreams`. What `down` has said by then has gone along, and is counted in the record.
pub async fn open(
    proxy: &Proxy,
    worker: usize,
    upstreams: &UpstreamSet,
    client: SocketAddr,
    mut down: Option<&mut Leg>,
    record: &mut Record,
) -> Result<(BoxedIo, Busy)> {
    let within = proxy.settings.load().timeouts.connect;
    let (mut timer, mut tried) = (Timer::new(), Vec::new());
    let mut last = Error::undelivered(Code::NoUpstream, "");
    proxy.earn_retry(worker, record.began);
    while let Some(upstream) = upstreams.pick(worker, &tried) {
        if record.attempts > 0 && !proxy.spend_retry(worker) {
            break;
        }
        record.attempts += 1;
        record.upstream = upstream.to_string();
        let info = StreamInfo {
            tenant: upstreams.tenant(),
            endpoint: record.endpoint.clone().unwrap_or_default(),
            kind: StreamKind::Tcp,
            client,
            local: down.as_ref().and_then(|down| down.io.as_tcp()?.local_addr().ok()),
            request_id: record.id,
            hops: 0,
        };
        let busy = upstream.begin();
        let upstream = busy.upstream();
        tried.push(upstream.id());
        let mut up = match upstream.open(&info).await {
            Ok(up) => up,
            Err(error) => {
                if error.code.side() == Side::Upstream {
                    upstreams.report(upstream, Some(&error));
                }
                last = error;
                continue;
            }
        };
        match taken(&mut *up, down.as_deref_mut(), &mut timer, within).await {
            Ok(sent) => {
                upstreams.report(upstream, None);
                if let Some(down) = down {
                    down.read.consume(sent);
                }
                record.bytes_in += sent as u64;
                return Ok((up, busy));
            }
            Err(Broken::Up(error)) if never_accepted(&error) => {
                last = Error::undelivered(Code::UpstreamUnreachable, "the stream was not accepted");
                upstreams.report(upstream, Some(&last));
            }
            Err(Broken::Up(error)) => {
                let error = Error::new(Code::UpstreamClosed, error.to_string());
                upstreams.report(upstream, Some(&error));
                return Err(error);
            }
            Err(Broken::Down(error)) => {
                up.reset();
                return Err(Error::new(Code::DownstreamClosed, error.to_string()));
            }
        }
    }
    Err(last)
}

/// Which side broke.
enum Broken {
    Up(io::Error),
    Down(io::Error),
}

/// Waits until the upstream has taken the stream, and sends what the downstream says meanwhile: how many bytes of
/// `down.read` have gone out. They stay there, for another upstream, until then.
async fn taken(
    up: &mut dyn Io,
    mut down: Option<&mut Leg>,
    timer: &mut Timer,
    within: Duration,
) -> Result<usize, Broken> {
    let (mut sent, until) = (0, Instant::now() + within);
    poll_fn(|cx| {
        if let Some(down) = down.as_deref_mut()
            && let Poll::Ready(Err(error)) = poll_early(cx, down, up, &mut sent)
        {
            return Poll::Ready(Err(error));
        }
        match up.poll_taken(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| sent).map_err(Broken::Up)),
            Poll::Pending => timer.poll_until(cx, until).map(|()| Err(Broken::Up(io::ErrorKind::TimedOut.into()))),
        }
    })
    .await
}

/// Moves what there is, as far as one buffer holds it.
fn poll_early(cx: &mut Context<'_>, down: &mut Leg, up: &mut dyn Io, sent: &mut usize) -> Poll<Result<(), Broken>> {
    loop {
        while *sent < down.read.len() {
            *sent += ready!(Pin::new(&mut *up).poll_write(cx, &down.read.chunk()[*sent..])).map_err(Broken::Up)?;
        }
        if down.read.len() >= BUFFER_SIZE {
            return Poll::Ready(Ok(()));
        }
        // An end is met again by the relay, which passes it on.
        if ready!(down.read.poll_fill(cx, &mut *down.io)).map_err(Broken::Down)? == 0 {
            return Poll::Ready(Ok(()));
        }
    }
}
