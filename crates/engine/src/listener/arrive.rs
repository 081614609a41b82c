//! Who has connected: the other end of the connection, or whom a load balancer in front of us names in a PROXY header.
//!
//! From the configured networks every connection begins with a header; from everywhere else none is believed. What a
//! header looks like is `sniff::proxy`'s.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::error::{Code, Error, Result};
use crate::io::{BoxedIo, Buffer, Detached, Io, WithEarly};
use crate::proxy::passthrough::Opaque;
use crate::room::Place;
use crate::sniff::proxy::{Begins, begins, parse};

/// A connection whose client is known.
pub struct Arrival {
    /// The byte stream.
    pub io: BoxedIo,
    /// Bytes that were read from it already.
    pub read: Buffer,
    /// Who connected.
    pub client: SocketAddr,
    /// Its place among all connections.
    pub place: Place,
}

/// What an address is to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client like any other: the listener knows of no load balancer.
    Client,
    /// A load balancer: it says who the client is.
    Balancer,
    /// Not one of the load balancers: it speaks for itself alone.
    Stranger,
}

impl Source {
    /// What `ip` is where connections of `networks` begin with a header.
    pub fn of(ip: IpAddr, networks: &[IpNet]) -> Self {
        match networks {
            [] => Source::Client,
            _ if networks.iter().any(|network| network.contains(&ip.to_canonical())) => Source::Balancer,
            _ => Source::Stranger,
        }
    }
}

impl Arrival {
    /// A connection that has just been accepted.
    pub fn new(stream: TcpStream, from: SocketAddr, place: Place) -> Self {
        // A client by IPv4 is the same one on a listener of both families.
        let client = SocketAddr::new(from.ip().to_canonical(), from.port());
        Arrival { io: Box::new(stream), read: Buffer::new(), client, place }
    }

    /// Reads the header that a load balancer has to begin with. None where it only looked whether we are here, or
    /// makes room for another connection.
    pub async fn named(mut self, within: Duration) -> Result<Option<Self>> {
        let (io, read) = (&mut *self.io, &mut self.read);
        let header = async {
            loop {
                match parse(read.chunk()) {
                    Ok(Some(header)) => return Ok(Some(header)),
                    Ok(None) => {}
                    Err(why) => return Err(Error::new(Code::MalformedRequest, why)),
                }
                match poll_fn(|cx| read.poll_fill(cx, io)).await {
                    Ok(1..) => {}
                    Ok(0) if read.is_empty() => return Ok(None),
                    Ok(0) => return Err(Error::new(Code::DownstreamClosed, "in the middle of a PROXY header")),
                    Err(error) => return Err(Error::new(Code::DownstreamClosed, error.to_string())),
                }
            }
        };
        self.place.idle(Instant::now());
        let header = tokio::select! {
            biased;
            header = timeout(within, header) => header,
            () = self.place.evicted() => return Ok(None),
        };
        let late = || Err(Error::new(Code::DownstreamTimeout, "no PROXY header within timeouts.handshake"));
        let header = header.unwrap_or_else(|_| late());
        match header {
            Ok(Some(header)) => {
                self.read.consume(header.length);
                self.client = header.client.unwrap_or(self.client);
                self.place.busy();
                Ok(Some(self))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.io.reset();
                Err(error)
            }
        }
    }

    /// The same connection, to be carried as it is.
    pub fn opaque(self, listener: Arc<str>) -> Opaque {
        let Arrival { io, read, client, place } = self;
        Opaque { io, read, client, listener, server_name: None, route: Arc::default(), place }
    }

    /// The same connection, which breaks where it begins with a PROXY header: nobody behind us is to believe it either.
    pub fn nameless(self) -> Self {
        Arrival { io: Box::new(Nameless::new(self.io)), ..self }
    }
}

/// A byte stream that may not begin with a PROXY header.
struct Nameless {
    io: WithEarly<BoxedIo>,
    /// It does not begin with one.
    judged: bool,
}

impl Nameless {
    fn new(io: BoxedIo) -> Self {
        Nameless { io: WithEarly::new(Buffer::new(), io), judged: false }
    }
}

impl AsyncRead for Nameless {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.judged {
            match begins(this.io.early()) {
                Begins::No => this.judged = true,
                Begins::Yes => {
                    let why = "a PROXY header from a source that is not in proxy_protocol";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Begins::More => this.judged = ready!(this.io.poll_early(cx))? == 0,
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Nameless {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Io for Nameless {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_read_ready(cx)
    }

    fn reset(&mut self) {
        self.io.reset();
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpStream, BoxedIo> {
        if self.judged { Box::new(self.io).into_tcp() } else { Err(self) }
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        if self.judged { self.io.as_tcp() } else { None }
    }

    fn detach(self: Box<Self>) -> Result<Detached, BoxedIo> {
        if self.judged { Box::new(self.io).detach() } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn an_address_is_a_balancer_only_in_the_networks_that_are_configured() {
        let networks: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).into();
        for (ip, source) in [
            ("10.1.2.3", Source::Balancer),
            ("::ffff:10.1.2.3", Source::Balancer),
            ("fd00::1", Source::Balancer),
            ("11.0.0.1", Source::Stranger),
            ("::1", Source::Stranger),
        ] {
            let ip = ip.parse().expect("an address");
            assert_eq!(Source::of(ip, &networks), source, "{ip}");
            assert_eq!(Source::of(ip, &[]), Source::Client);
        }
    }

    /// What is read of a stream that says these things, one after the other.
    async fn read_of(says: &[&[u8]]) -> io::Result<Vec<u8>> {
        let (near, mut far) = tokio::io::duplex(4096);
        let mut nameless = Nameless::new(Box::new(near));
        let writing = async move {
            for piece in says {
                far.write_all(piece).await.expect("written");
                tokio::task::yield_now().await;
            }
        };
        let mut read = Vec::new();
        let (outcome, ()) = tokio::join!(nameless.read_to_end(&mut read), writing);
        outcome.map(|_| read)
    }

    #[tokio::test]
    async fn a_stranger_may_say_everything_but_a_proxy_header() {
        for says in [&[&b"PROX"[..], b"IMITY"][..], &[b"PRO"], &[b"\r\n\r\nGET"], &[b"hello ", b"PROXY TCP4 "], &[]] {
            assert_eq!(read_of(says).await.expect("read"), says.concat());
        }
        for says in [&[&b"PROXY TCP4 1.2.3.4"[..]][..], &[b"PRO", b"XY", b" "], &[b"\r\n\r\n\0\r\n", b"QUIT\n\x21"]] {
            assert!(read_of(says).await.is_err());
        }
    }
}
