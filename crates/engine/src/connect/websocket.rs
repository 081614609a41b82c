//! By TCP: through a proxy and TLS where those are wanted, and an upgrade to WebSocket.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use super::{Gateway, REASON, Refused, Request};
use crate::dial;
use crate::error::{Code, Error};
use crate::http1::head::{HeadLimits, parse_response};
use crate::io::{BoxedIo, Buffer};
use crate::message::ResponseHead;
use crate::snapshot::Timeouts;
use crate::tunnel::hello::{self, Told};
use crate::tunnel::websocket::new_key;

impl Gateway {
    /// Opens a WebSocket. What came right behind the answer is in the buffer.
    pub async fn open(&self, request: &Request<'_>, timeouts: &Timeouts) -> Result<(BoxedIo, Buffer, Told), Refused> {
        let io =
            self.dial(timeouts).await.map_err(|error| Refused { reason: error.detail.into_owned(), status: None })?;
        let upgrade = self.upgrade(io, request);
        match tokio::time::timeout(timeouts.handshake, upgrade).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.silent(timeouts.handshake)),
        }
    }

    async fn dial(&self, timeouts: &Timeouts) -> Result<BoxedIo, Error> {
        let io: BoxedIo = match &self.proxy {
            Some(proxy) => dial::connect_via(proxy, &self.host, self.port, timeouts.connect).await?,
            None => Box::new(dial::connect(&self.host, self.port, timeouts.connect).await?),
        };
        let Some(connector) = &self.tls else { return Ok(io) };
        let failed = |why: String| Error::undelivered(Code::UpstreamUnreachable, why);
        match tokio::time::timeout(timeouts.handshake, connector.connect(io, &self.host)).await {
            Ok(Ok(io)) => Ok(io),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(failed(format!(
                "TLS with {} failed: {error} (where no TLS is spoken, the URL begins with http://)",
                self.url
            ))),
            Ok(Err(error)) => Err(failed(format!("TLS with {} failed: {error}", self.url))),
            Err(_) => Err(failed(self.silent(timeouts.handshake).reason)),
        }
    }

    async fn upgrade(&self, mut io: BoxedIo, request: &Request<'_>) -> Result<(BoxedIo, Buffer, Told), Refused> {
        let (key, mut out) = (new_key(), Buffer::new());
        out.extend(&self.request(request, Some(&key)));
        poll_fn(|cx| out.poll_drain(cx, &mut *io)).await.map_err(|error| self.broken(error))?;

        let limits = HeadLimits { bytes: 64 * 1024, fields: 128 };
        let (mut input, mut scanned, mut head) = (Buffer::new(), 0, ResponseHead::new());
        loop {
            match parse_response(input.chunk(), &mut scanned, &mut head, &limits) {
                Ok(Some(length)) => {
                    input.consume(length);
                    scanned = 0;
                    // A proxy on the way may say something before the answer.
                    if !head.is_informational() || head.status == 101 {
                        break;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Err(self.broken(format!("it speaks no HTTP: {}", error.detail()))),
            }
            match poll_fn(|cx| input.poll_fill(cx, &mut *io)).await {
                Ok(0) => return Err(self.broken("closed before it answered")),
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        match hello::told(&head, Some(&key)) {
            Ok(told) => Ok((io, input, told)),
            Err(why) if head.status == 101 => Err(self.broken(why)),
            Err(why) => {
                read_reason(&mut *io, &mut input).await;
                Err(self.refused(&why, head.status, input.chunk()))
            }
        }
    }
}

/// Reads what a refusal's body says, as far as it comes at once.
async fn read_reason(io: &mut dyn crate::io::Io, input: &mut Buffer) {
    let read = async {
        while input.len() < REASON && !input.chunk().contains(&b'}') {
            match poll_fn(|cx| input.poll_fill(cx, io)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    // A body that does not come is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
}
