//! Asks an address whether it works: a TCP connection, or GET of a path that must answer 200 to 399.
//!
//! On the protocol of the address: through TLS where it speaks that, by HTTP/2 where requests go by that. How often is
//! asked is the caller's; what follows from the answers is `ejection`'s.

use std::future::poll_fn;
use std::time::Duration;

use super::tcp::Address;
use crate::http1::head::{HeadLimits, parse_response, write_request};
use crate::io::{BoxedIo, Buffer};
use crate::message::{RequestHead, ResponseHead, Version};
use crate::snapshot::upstream::{Health, Protocol};

/// How a check calls itself.
const USER_AGENT: &str = "tidegate-health";

/// The most that an answer's head may have.
const ANSWER: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 256 };

/// How much of an answer's body is read, and for how long, so that the upstream sees an orderly end.
const BODY: (usize, Duration) = (64 * 1024, Duration::from_secs(1));

/// The wait before the next check: the interval, a tenth more or less, so that checks of many do not come together.
pub fn pause(health: &Health) -> Duration {
    let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
    health.interval.mul_f64(0.9 + 0.2 * f64::from(bits) / f64::from(u32::MAX))
}

/// Asks once. The error says what was wrong.
pub async fn check(address: &Address, health: &Health) -> Result<(), String> {
    match tokio::time::timeout(health.timeout, ask(address, health)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {:?}", health.timeout)),
    }
}

async fn ask(address: &Address, health: &Health) -> Result<(), String> {
    let io = address.open(None).await.map_err(|error| error.detail.into_owned())?;
    let Some(path) = &health.path else { return Ok(()) };
    let host = health.host.as_deref().unwrap_or(&address.authority);
    let status = match address.spec.protocol {
        Protocol::Http1 => over_http1(io, path, host).await,
        Protocol::Http2 => over_http2(io, path, host, address.spec.tls.is_some()).await,
    };
    match status {
        Ok(200..=399) => Ok(()),
        Ok(status) => Err(format!("it answered {status} to GET {path}")),
        Err(why) => Err(format!("GET {path} failed: {why}")),
    }
}

async fn over_http1(mut io: BoxedIo, path: &str, host: &str) -> Result<u16, String> {
    let mut head = RequestHead::new();
    head.set(b"GET", path.as_bytes(), Version::Http11);
    for (name, value) in [("Host", host), ("User-Agent", USER_AGENT), ("Connection", "close")] {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    let (mut buffer, mut answer, mut scanned) = (Buffer::new(), ResponseHead::new(), 0);
    write_request(&head, &mut buffer);
    poll_fn(|cx| buffer.poll_drain(cx, &mut *io)).await.map_err(|error| error.to_string())?;
    loop {
        let whole = parse_response(buffer.chunk(), &mut scanned, &mut answer, &ANSWER);
        match whole.map_err(|error| format!("it speaks no HTTP/1: {}", error.detail()))? {
            Some(length) => {
                buffer.consume(length);
                scanned = 0;
                if !answer.is_informational() {
                    break;
                }
            }
            None => match poll_fn(|cx| buffer.poll_fill(cx, &mut *io)).await {
                Ok(0) => return Err("it closed before it answered".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
        }
    }
    let rest = async {
        while buffer.len() < BODY.0 && matches!(poll_fn(|cx| buffer.poll_fill(cx, &mut *io)).await, Ok(1..)) {}
    };
    // The answer counts, however its body ends.
    let _ = tokio::time::timeout(BODY.1, rest).await;
    Ok(answer.status)
}

async fn over_http2(io: BoxedIo, path: &str, host: &str, tls: bool) -> Result<u16, String> {
    let scheme = if tls { "https" } else { "http" };
    let request = http::Request::get(format!("{scheme}://{host}{path}")).header("user-agent", USER_AGENT);
    let request = request.body(()).map_err(|error| error.to_string())?;
    let failed = |error: h2::Error| format!("HTTP/2: {error}");
    let (mut streams, connection) = h2::client::handshake(io).await.map_err(failed)?;
    let answer = async {
        let (answer, _) = streams.send_request(request, true)?;
        answer.await
    };
    tokio::select! {
        answer = answer => answer.map(|answer| answer.status().as_u16()).map_err(failed),
        end = connection => Err(end.map_or_else(failed, |()| "it closed before it answered".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        let second = Duration::from_secs(1);
        Health { path: None, host: None, interval: second, timeout: second, fall: 3, rise: 2 }
    }

    #[test]
    fn pauses_differ_a_little() {
        for _ in 0..100 {
            assert!((900..=1100).contains(&pause(&health()).as_millis()));
        }
    }
}
