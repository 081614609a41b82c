//! Opens TCP connections: by name or address, directly or through an HTTP proxy.
//!
//! All addresses of a name are tried, the next one as soon as one fails or is slow (RFC 8305). Deciding what to dial is
//! the caller's, TLS is `tls::client`'s.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Code, Error};
use crate::http1::head::{HeadLimits, parse_response, write_request};
use crate::io::{BoxedIo, Buffer, WithEarly};
use crate::message::{RequestHead, ResponseHead, Version};
use crate::snapshot::Secret;

/// How long an address is tried before the next one is tried beside it (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// What a proxy may say before the connection is through.
const PROXY_ANSWER: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100 };

/// Connects to `host`, a name or an address, within `timeout`.
pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, Error> {
    let deadline = Instant::now() + timeout;
    let shown = authority(host, port);
    let resolved = timeout_at(deadline, resolve(host, port)).await;
    let addresses = match resolved {
        Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
        Ok(_) => return Err(unreachable(format!("cannot resolve {host}"))),
        Err(_) => return Err(unreachable(format!("cannot resolve {host} within {} s", timeout.as_secs_f64()))),
    };
    match timeout_at(deadline, first_of(addresses)).await {
        Ok(Ok(stream)) => {
            // Only fails on a connection that is gone already, and then so does its first use.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(unreachable(format!("nothing listens on {shown}")))
        }
        Ok(Err(error)) => Err(unreachable(format!("cannot connect to {shown}: {error}"))),
        Err(_) => Err(unreachable(format!("no answer from {shown} within {} s", timeout.as_secs_f64()))),
    }
}

/// Connects to `host` through the HTTP proxy at `proxy`, `http://[user:password@]host[:port]`, all within `timeout`.
pub async fn connect_via(proxy: &Secret, host: &str, port: u16, timeout: Duration) -> Result<BoxedIo, Error> {
    let deadline = Instant::now() + timeout;
    let proxy = Proxy::parse(proxy.expose())
        .ok_or_else(|| unreachable("the proxy's URL is not http://[user:password@]host:port".to_owned()))?;
    let shown = authority(&proxy.host, proxy.port);
    let mut stream = connect(&proxy.host, proxy.port, timeout).await?;
    match timeout_at(deadline, ask(&mut stream, &proxy, &authority(host, port))).await {
        Ok(Ok((200..=299, early))) if early.is_empty() => Ok(Box::new(stream)),
        Ok(Ok((200..=299, early))) => Ok(Box::new(WithEarly::new(early, stream))),
        Ok(Ok((407, _))) => Err(unreachable(format!("the proxy {shown} refuses our credentials (407)"))),
        Ok(Ok((status, _))) => {
            Err(unreachable(format!("the proxy {shown} does not connect to {}: {status}", authority(host, port))))
        }
        Ok(Err(error)) => Err(unreachable(format!("the proxy {shown} failed: {error}"))),
        Err(_) => Err(unreachable(format!("no answer from the proxy {shown} within {} s", timeout.as_secs_f64()))),
    }
}

fn unreachable(detail: String) -> Error {
    Error::undelivered(Code::UpstreamUnreachable, detail)
}

/// `host:port`, an IPv6 address in brackets.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The addresses of `host`, families in turn. `localhost` is both loopbacks, whatever a resolver says.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match known(host, port) {
        Some(addresses) => Ok(addresses),
        None => Ok(in_turn(tokio::net::lookup_host((bare(host), port)).await?.collect())),
    }
}

/// Look-ups of names of which only so many run at once: who asks for slow ones makes nobody else wait.
#[derive(Clone)]
pub struct Lookups(Arc<Semaphore>);

impl Lookups {
    /// `most` of them at once.
    pub fn new(most: usize) -> Self {
        Lookups(Arc::new(Semaphore::new(most)))
    }

    /// The same as [`resolve`], after a wait for its turn.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(addresses) = known(host, port) {
            return Ok(addresses);
        }
        let turn = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        let name = bare(host).to_owned();
        // The system's resolver cannot be called off: a look-up counts until it is over, whoever waits for it.
        let found = spawn_blocking(move || {
            let _turn = turn;
            (name.as_str(), port).to_socket_addrs().map(Vec::from_iter)
        });
        Ok(in_turn(found.await.map_err(io::Error::other)??))
    }
}

/// A host without the brackets of a URL.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// What needs no look-up.
fn known(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let bare = bare(host);
    if let Ok(ip) = bare.parse() {
        return Some(vec![SocketAddr::new(ip, port)]);
    }
    let both = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
    bare.eq_ignore_ascii_case("localhost").then(|| both.map(|ip| SocketAddr::new(ip, port)).to_vec())
}

/// Families in turn, beginning with that of the first.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = found.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let mut turns = Vec::new();
    one.reverse();
    other.reverse();
    while let Some(addr) = one.pop() {
        turns.push(addr);
        turns.extend(other.pop());
    }
    other.reverse();
    turns.extend(other);
    turns
}

/// The first connection that is made. Of failures a refusal says most: somebody was there.
pub async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [only] = addresses[..] {
        return TcpStream::connect(only).await;
    }
    let mut failure: Option<io::Error> = None;
    let failed = |error: io::Error| {
        if failure.is_none() || error.kind() == io::ErrorKind::ConnectionRefused {
            failure = Some(error);
        }
    };
    let first = race(addresses, |_| STAGGER, TcpStream::connect, failed).await;
    first.ok_or_else(|| failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// The first attempt that succeeds; `failed` takes what became of others. The next address is tried as soon as one has
/// failed, or beside it after its `pause` (RFC 8305 §5).
pub async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    pause: impl Fn(SocketAddr) -> Duration,
    attempt: impl Fn(SocketAddr) -> F,
    mut failed: impl FnMut(E),
) -> Option<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut waiting = addresses.into_iter();
    // Dropping the set ends the attempts that lost.
    let mut attempts = JoinSet::new();
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            attempts.spawn(attempt(address));
        }
        let outcome = tokio::select! {
            outcome = attempts.join_next() => outcome,
            () = sleep(next.map_or(Duration::MAX, &pause)), if next.is_some() => continue,
        };
        match outcome {
            Some(Ok(Ok(first))) => return Some(first),
            Some(Ok(Err(error))) => failed(error),
            Some(Err(_)) => {}
            None => return None,
        }
    }
}

/// A proxy, taken apart.
struct Proxy {
    host: String,
    port: u16,
    credentials: Option<String>,
}

impl Proxy {
    fn parse(url: &str) -> Option<Proxy> {
        let rest = url.strip_prefix("http://")?;
        let rest = rest.split(['/', '?', '#']).next()?;
        let (userinfo, address) = match rest.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, rest),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (address, 80),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let credentials = match userinfo {
            Some(userinfo) => {
                let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
                let both = [decoded(user)?, b":".to_vec(), decoded(password)?].concat();
                Some(base64::engine::general_purpose::STANDARD.encode(both))
            }
            None => None,
        };
        (!bare.is_empty()).then(|| Proxy { host: bare.to_owned(), port, credentials })
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
            out.push((digit(bytes.next())? * 16 + digit(bytes.next())?) as u8);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// Sends CONNECT; the status of the answer and what came behind it.
async fn ask(stream: &mut TcpStream, proxy: &Proxy, target: &str) -> io::Result<(u16, Buffer)> {
    let mut head = RequestHead::new();
    head.set(b"CONNECT", target.as_bytes(), Version::Http11);
    head.fields.push(b"Host", target.as_bytes());
    if let Some(credentials) = &proxy.credentials {
        let mut basic = String::new();
        let _ = write!(basic, "Basic {credentials}");
        head.fields.push(b"Proxy-Authorization", basic.as_bytes());
    }
    let mut buffer = Buffer::new();
    write_request(&head, &mut buffer);
    stream.write_all(buffer.chunk()).await?;
    buffer.release();
    let mut answer = ResponseHead::new();
    let mut scanned = 0;
    loop {
        match parse_response(buffer.chunk(), &mut scanned, &mut answer, &PROXY_ANSWER).map_err(io::Error::other)? {
            Some(n) => {
                buffer.consume(n);
                if !answer.is_informational() {
                    return Ok((answer.status, buffer));
                }
            }
            None => {
                buffer.reserve(1);
                let n = stream.read(buffer.spare()).await?;
                buffer.advance(n);
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn a_name_waits_for_its_turn_and_an_address_does_not() {
        let lookups = Lookups::new(1);
        let running = lookups.0.clone().acquire_owned().await.expect("a turn");
        assert_eq!(lookups.resolve("[::1]", 7).await.expect("an address"), ["[::1]:7".parse().expect("an address")]);
        let mut waiting = pin!(lookups.resolve("ip6-localhost.invalid", 7));
        assert!(matches!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        drop(running);
        assert!(waiting.await.is_err());
        assert_eq!(lookups.0.available_permits(), 1);
    }
}
