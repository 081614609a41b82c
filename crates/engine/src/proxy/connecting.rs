//! CONNECT on a byte stream: an agent reads where it is to lead, dials, answers, and relays from then on.
//!
//! What follows the head is held until the 200 has gone out, so that it never reaches anybody who has not agreed. The
//! pieces that a listener of kind connect needs, too, stand here: reading the request, and refusing it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout};

use super::access::{Answered, Record, Words};
use super::http1::{Http1, Stop};
use super::relay::Leg;
use super::shared::{Proxy, Settings};
use super::stream;
use super::target::reach;
use crate::dial::Lookups;
use crate::error::{Code, Error, Result};
use crate::http1::framing::{Framing, request_framing};
use crate::http1::refusal::HeadError;
use crate::identity::Identity;
use crate::io::{BoxedIo, Buffer};
use crate::message::{RequestHead, Version};
use crate::target::allowed::Allowed;
use crate::target::{Target, authority};
use crate::timer::Timer;

/// The answer to a CONNECT that has led somewhere.
const THROUGH: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// An endpoint whose streams each say where they lead.
pub struct Connecting {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// What may be dialled.
    pub allowed: Allowed,
    /// Finds the addresses of names.
    pub lookups: Lookups,
    /// The status of whatever is refused or fails, where it is always the same.
    pub failed_status: Option<u16>,
}

impl Connecting {
    /// Serves one stream, in the record of which everything is noted.
    pub async fn serve(&self, proxy: &Proxy, worker: usize, io: BoxedIo, mut record: Record) {
        let settings = proxy.settings.load_full();
        let mut connection = Http1::new(io, Buffer::new());
        let head = match read(&mut connection, &settings).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                refuse(proxy, &mut connection, error, None, &mut record).await;
                return proxy.finish(worker, &record);
            }
        };
        record.asked = proxy.access.is_on().then(|| Words::of(&head));
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let within = settings.timeouts.connect;
        let resolve = |host: String, port| async move { self.lookups.resolve(&host, port).await };
        let reached = match target_of(&head) {
            Ok(target) => reach(&self.allowed, &target, within, resolve, &mut record.upstream).await,
            Err(error) => Err(error),
        };
        match reached {
            Ok(up) => {
                record.attempts = 1;
                through(proxy, connection, Box::new(up), Buffer::new(), &proxy.anonymous, &mut record).await;
            }
            Err(error) => {
                let status = self.failed_status.filter(|_| error.code != Code::MethodNotSupported);
                refuse(proxy, &mut connection, error, status, &mut record).await;
            }
        }
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        proxy.finish(worker, &record);
    }
}

/// Reads the head of a request. None: nothing was asked.
///
/// # Errors
/// It cannot be read, or was not whole in time.
pub async fn read(connection: &mut Http1, settings: &Settings) -> Result<Option<RequestHead>> {
    let mut head = RequestHead::new();
    let asked = timeout(settings.timeouts.head, poll_fn(|cx| connection.poll_request(cx, &mut head, &settings.head)));
    match asked.await {
        Ok(Ok(true)) => Ok(Some(head)),
        Ok(Err(Stop::Malformed(error))) => Err(error.of_request()),
        Ok(Ok(false) | Err(_)) => Ok(None),
        Err(_) if connection.has_input() => {
            let within = settings.timeouts.head;
            Err(Error::new(Code::DownstreamTimeout, format!("the head was not whole within {within:?}")))
        }
        Err(_) => Ok(None),
    }
}

/// Where a request is to lead.
///
/// # Errors
/// It is no CONNECT, or one that can be read in two ways.
pub fn target_of(head: &RequestHead) -> Result<Target> {
    if head.method() != b"CONNECT" {
        return Err(Error::new(Code::MethodNotSupported, "only CONNECT is served here").with("Allow", "CONNECT".into()));
    }
    if request_framing(head).map_err(HeadError::of_request)? != Framing::None {
        return Err(Error::new(Code::MalformedRequest, "a CONNECT has no body"));
    }
    authority::parse(head.target()).map_err(|why| Error::new(Code::TargetInvalid, why))
}

/// Answers with an error and lets the connection end. `status`: instead of the one that the error has.
pub async fn refuse(proxy: &Proxy, connection: &mut Http1, error: Error, status: Option<u16>, record: &mut Record) {
    let status = status.unwrap_or(error.code.status());
    let answer = proxy.table.load().explain(&error, status, record.id);
    record.status = answer.status;
    record.bytes_out = answer.body.len() as u64;
    record.first_byte = Some(Instant::now());
    record.error = Some(error);
    connection.send_raw(&answer.to_http1(Version::Http11, false, false));
    connection.part(&mut Timer::new()).await;
}

/// Says that the way is open, and relays for somebody: what has come behind the request goes out now, and `first` to
/// whoever asked.
pub async fn through(
    proxy: &Proxy,
    mut connection: Http1,
    up: BoxedIo,
    first: Buffer,
    whose: &Arc<Identity>,
    record: &mut Record,
) {
    let (mut io, read) = connection.take_stream();
    let mut out = Buffer::new();
    out.extend(THROUGH);
    let idle = proxy.settings.load().timeouts.idle;
    match timeout(idle, poll_fn(|cx| out.poll_drain(cx, &mut *io))).await {
        Ok(Ok(())) => {
            record.status = 200;
            record.first_byte = Some(Instant::now());
            record.answered = Answered::Upstream;
            stream::relay_legs(proxy, Leg { io, read }, Leg { io: up, read: first }, whose, record).await;
        }
        Ok(Err(error)) => record.error = Some(Error::new(Code::DownstreamClosed, error.to_string())),
        Err(_) => record.error = Some(Error::new(Code::DownstreamClosed, "it did not read the answer")),
    }
}
