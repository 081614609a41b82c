//! A request for an upgrade on a byte stream, and its answer: over TCP, and on a stream of a session.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::timeout;

use super::{Gateway, REASON, Refused, Request};
use crate::http1::head::{HeadLimits, parse_response};
use crate::io::{BoxedIo, Buffer, Io};
use crate::message::ResponseHead;
use crate::tunnel::hello::{self, Told, Upgrade};

/// How long the body of a refusal may take to come.
const BODY: Duration = Duration::from_secs(1);

impl Gateway {
    /// Asks for an upgrade on a byte stream that leads to this gateway. What came right behind the answer is in the
    /// buffer.
    pub async fn ask(
        &self,
        mut io: BoxedIo,
        request: &Request<'_>,
        upgrade: Upgrade<'_>,
        within: Duration,
    ) -> Result<(BoxedIo, Buffer, Told), Refused> {
        match timeout(within, self.upgrade(&mut *io, request, upgrade)).await {
            Ok(Ok((early, told))) => Ok((io, early, told)),
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(self.silent(within)),
        }
    }

    /// The same on a stream that stays the caller's, without a deadline.
    pub async fn upgrade(
        &self,
        io: &mut dyn Io,
        request: &Request<'_>,
        upgrade: Upgrade<'_>,
    ) -> Result<(Buffer, Told), Refused> {
        let mut out = Buffer::new();
        out.extend(&self.request(request, upgrade));
        poll_fn(|cx| out.poll_drain(cx, io)).await.map_err(|error| self.broken(error))?;

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
            match poll_fn(|cx| input.poll_fill(cx, io)).await {
                Ok(0) => return Err(self.broken("closed before it answered")),
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        match hello::told(&head, &upgrade) {
            Ok(told) => Ok((input, told)),
            Err(why) if head.status == 101 => Err(self.broken(why)),
            Err(why) => {
                read_reason(io, &mut input).await;
                Err(self.refused(&why, head.status, input.chunk()))
            }
        }
    }
}

/// Reads what a refusal's body says, as far as it comes at once.
async fn read_reason(io: &mut dyn Io, input: &mut Buffer) {
    let read = async {
        while input.len() < REASON && !input.chunk().contains(&b'}') {
            match poll_fn(|cx| input.poll_fill(cx, io)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    // A body that does not come is not waited for.
    let _ = timeout(BODY, read).await;
}
