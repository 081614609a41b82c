//! Reaches a gateway: dials it, through a proxy and TLS where those are wanted, and upgrades to WebSocket.
//!
//! What is carried then is the caller's: a tunnel for an agent, one byte stream for a forward.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::dial;
use crate::error::{Code, Error};
use crate::http1::head::{HeadLimits, parse_response};
use crate::io::{BoxedIo, Buffer};
use crate::message::ResponseHead;
use crate::snapshot::{Connect, Secret, Timeouts};
use crate::tls::client::Connector;
use crate::tunnel::hello::{self, Ask, Told};
use crate::tunnel::websocket::new_key;

/// The most bytes of a refusal's body that are read for its reason.
const REASON: usize = 4096;

/// A gateway that one may connect to.
pub struct Gateway {
    /// As the user wrote it, for messages.
    pub url: String,
    host: String,
    port: u16,
    /// The path in front of every path of ours, without a slash at its end.
    prefix: String,
    tls: Option<Connector>,
    proxy: Option<Secret>,
    token: Arc<Token>,
    tenant: String,
}

/// The token that is shown, which may be replaced while others connect.
pub struct Token {
    secret: ArcSwapOption<Secret>,
    changed: Notify,
}

impl Token {
    /// What is shown from now on.
    pub fn set(&self, token: String) {
        self.secret.store(Some(Arc::new(Secret::from(token))));
        self.changed.notify_waiters();
    }

    /// Resolves when another one is shown.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub struct Refused {
    /// What to tell a person.
    pub reason: String,
    /// The status the gateway answered; none where it did not answer.
    pub status: Option<u16>,
}

impl Refused {
    /// True when it may work later.
    pub fn may_pass(&self) -> bool {
        self.status.is_none_or(hello::may_ask_again)
    }
}

impl Gateway {
    /// The gateways of a configuration, in its order, and the token that all of them are shown. An error names the URL
    /// and what is wrong with it.
    pub fn all(connect: &Connect) -> Result<(Vec<Gateway>, Arc<Token>), String> {
        let secret = ArcSwapOption::from_pointee(connect.token.clone());
        let token = Arc::new(Token { secret, changed: Notify::new() });
        let one = |(i, url): (usize, &String)| -> Result<Gateway, String> {
            let (tls, host, port, prefix) = parse(url)?;
            let tls = if tls { Some(Connector::new(&connect.tls).map_err(|e| format!("{url}: {e}"))?) } else { None };
            Ok(Gateway {
                url: url.clone(),
                host,
                port,
                prefix,
                tls,
                proxy: connect.proxies.get(i).cloned().flatten(),
                token: token.clone(),
                tenant: connect.tenant.clone(),
            })
        };
        let gateways = connect.urls.iter().enumerate().map(one).collect::<Result<_, String>>()?;
        Ok((gateways, token))
    }

    /// Opens a WebSocket at `path`; `h2`: streams on it may carry HTTP/2. What came right behind the answer is in the
    /// buffer.
    pub async fn open(
        &self,
        path: &str,
        agent: Option<&str>,
        version: &str,
        h2: bool,
        timeouts: &Timeouts,
    ) -> Result<(BoxedIo, Buffer, Told), Refused> {
        let io =
            self.dial(timeouts).await.map_err(|error| Refused { reason: error.detail.into_owned(), status: None })?;
        let upgrade = self.upgrade(io, path, agent, version, h2);
        match tokio::time::timeout(timeouts.handshake, upgrade).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.silent(timeouts.handshake)),
        }
    }

    fn silent(&self, within: Duration) -> Refused {
        Refused { reason: format!("{} did not answer within {within:?}", self.url), status: None }
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

    async fn upgrade(
        &self,
        mut io: BoxedIo,
        path: &str,
        agent: Option<&str>,
        version: &str,
        h2: bool,
    ) -> Result<(BoxedIo, Buffer, Told), Refused> {
        let (key, token) = (new_key(), self.token.secret.load_full());
        let mut out = Buffer::new();
        out.extend(&hello::request(&Ask {
            authority: &self.authority(),
            path: &format!("{}{path}", self.prefix),
            key: &key,
            token: token.as_deref().map(Secret::expose),
            tenant: &self.tenant,
            agent,
            version,
            h2,
        }));
        let broken = |why: String| Refused { reason: format!("{}: {why}", self.url), status: None };
        poll_fn(|cx| out.poll_drain(cx, &mut *io)).await.map_err(|e| broken(e.to_string()))?;

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
                Err(error) => return Err(broken(format!("it speaks no HTTP: {}", error.detail()))),
            }
            match poll_fn(|cx| input.poll_fill(cx, &mut *io)).await {
                Ok(0) => return Err(broken("closed before it answered".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(broken(error.to_string())),
            }
        }
        match hello::told(&head, &key) {
            Ok(told) => Ok((io, input, told)),
            Err(why) if head.status == 101 => Err(broken(why)),
            Err(why) => Err(Refused { reason: self.reason(why, io, input).await, status: Some(head.status) }),
        }
    }

    /// What a refusal's JSON body says, as far as it comes at once.
    async fn reason(&self, why: String, mut io: BoxedIo, mut input: Buffer) -> String {
        let read = async {
            while input.len() < REASON && !input.chunk().contains(&b'}') {
                match poll_fn(|cx| input.poll_fill(cx, &mut *io)).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        // A body that does not come is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
        let body = input.chunk();
        let json = body.iter().position(|b| *b == b'{').zip(body.iter().rposition(|b| *b == b'}'));
        let said = json
            .filter(|(open, close)| open < close)
            .and_then(|(open, close)| serde_json::from_slice::<serde_json::Value>(&body[open..=close]).ok())
            .and_then(|value| Some(value.get("error")?.as_str()?.chars().take(200).collect::<String>()));
        match said {
            Some(said) => format!("{} {why}: {said}", self.url),
            None => format!("{} {why}", self.url),
        }
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls.is_some() { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// Takes a gateway's URL apart: TLS, host, port, path prefix.
fn parse(url: &str) -> Result<(bool, String, u16, String), String> {
    let bad = |why: &str| format!("{url}: {why} (a gateway's URL looks like https://gate.example.com:8001)");
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no scheme"))?;
    let tls = match scheme {
        "http" | "ws" => false,
        "https" | "wss" => true,
        _ => return Err(bad("its scheme is none of http, https, ws, wss")),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) || authority.contains('@') || path.contains(['?', '#']) {
        return Err(bad("it holds what no gateway's URL has"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(|| bad("an unclosed ["))?,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| bad("its port is no number from 1 to 65535"))?,
        None => {
            if tls {
                443
            } else {
                80
            }
        }
    };
    if host.is_empty() {
        return Err(bad("no host"));
    }
    Ok((tls, host.to_owned(), port, path.trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, tls, host, port, prefix) in [
            ("http://localhost:8001", false, "localhost", 8001, ""),
            ("wss://gate.example.com/", true, "gate.example.com", 443, ""),
            ("https://[::1]:9/a/b/", true, "::1", 9, "/a/b"),
            ("ws://10.0.0.1", false, "10.0.0.1", 80, ""),
        ] {
            assert_eq!(parse(url), Ok((tls, host.to_owned(), port, prefix.to_owned())), "{url}");
        }
        for url in ["localhost:8001", "ftp://x", "http://", "http://a b", "http://u@h", "http://h:0x1", "http://h/?q"] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
