//! By TCP: through a proxy and TLS where those are wanted, and an upgrade to WebSocket.

use std::io;

use super::{Gateway, Refused, Request};
use crate::dial;
use crate::error::{Code, Error};
use crate::io::{BoxedIo, Buffer};
use crate::snapshot::Timeouts;
use crate::tunnel::hello::{Told, Upgrade};
use crate::tunnel::websocket::new_key;

impl Gateway {
    /// Opens a WebSocket. What came right behind the answer is in the buffer.
    pub async fn open(&self, request: &Request<'_>, timeouts: &Timeouts) -> Result<(BoxedIo, Buffer, Told), Refused> {
        let io =
            self.dial(timeouts).await.map_err(|error| Refused { reason: error.detail.into_owned(), status: None })?;
        let key = new_key();
        self.ask(io, request, Upgrade::WebSocket(&key), timeouts.handshake).await
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
}
