//! Reaches a gateway: what is known of one, and a tunnel to it of whatever it is made of.
//!
//! `websocket` dials by TCP, through a proxy and TLS where those are wanted, and `quic` by UDP; `request` is what is
//! said on either, and on the streams of a session. What is carried then is the caller's.

mod request;
mod quic;
mod websocket;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::shutdown::Drain;
use crate::snapshot::{self, Connect, Secret, Timeouts, Transport, TransportChoice};
use crate::tls;
use crate::tls::client::Connector;
use crate::tunnel::hello::{self, Ask, Told, Upgrade};
use crate::tunnel::{Config, Session, start};
use crate::worker::Worker;

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
    /// What is believed and shown over QUIC; an error says why it cannot be spoken.
    quic: Result<tls::quic::Client, &'static str>,
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

/// What is asked of a gateway.
pub struct Request<'a> {
    /// The path that names the endpoint.
    pub path: &'a str,
    /// The agent's id and the number of the tunnel.
    pub agent: Option<&'a str>,
    /// The program's version.
    pub version: &'a str,
    /// Streams may carry HTTP/2.
    pub h2: bool,
    /// Flows of datagrams are taken, and no streams.
    pub datagram: bool,
    /// Why a tunnel is no QUIC; empty where there is nothing to say.
    pub not_quic: &'a str,
}

/// What a tunnel is wanted for.
pub struct Wanted<'a> {
    /// What is asked.
    pub request: Request<'a>,
    /// Where QUIC is, if not at the URL's host and port: `host:port`.
    pub quic_at: Option<&'a str>,
    /// The gateway opens streams on it.
    pub serves: bool,
    /// There is another way than QUIC: whether it is answered is to be known within seconds.
    pub asks: bool,
    /// Deadlines.
    pub timeouts: &'a Timeouts,
    /// How the tunnel is watched.
    pub tunnel: &'a snapshot::Tunnel,
    /// Whoever drives it.
    pub worker: &'a Worker,
    /// Ends what serves it.
    pub drain: &'a Drain,
}

/// A tunnel that is up.
pub struct Tunnel {
    /// Its session.
    pub session: Session,
    /// Runs it: to be spawned.
    pub driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the gateway told us.
    pub told: Told,
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
            let failed = |why: String| format!("{url}: {why}");
            let proxy = connect.proxies.get(i).cloned().flatten();
            let spoken = match connect.transport {
                TransportChoice::WebSocket => Err("written: transport: websocket"),
                _ if !tls => Err("QUIC needs https:// (the URL begins with http://)"),
                // Whoever stands between is not walked around unless that is asked for.
                TransportChoice::Auto if proxy.is_some() => Err("an HTTP proxy stands between"),
                TransportChoice::Auto | TransportChoice::Quic => Ok(hello::QUIC_PROTOCOLS),
                TransportChoice::QuicTunnel => Ok(hello::QUIC_TUNNEL_PROTOCOLS),
            };
            let quic = match spoken {
                Ok(protocols) => Ok(tls::quic::client(&connect.tls, protocols).map_err(failed)?),
                Err(why) => Err(why),
            };
            let tls = if tls { Some(Connector::new(&connect.tls).map_err(failed)?) } else { None };
            Ok(Gateway {
                url: url.clone(),
                host,
                port,
                prefix,
                tls,
                quic,
                proxy,
                token: token.clone(),
                tenant: connect.tenant.clone(),
            })
        };
        let gateways = connect.urls.iter().enumerate().map(one).collect::<Result<_, String>>()?;
        Ok((gateways, token))
    }

    /// An error says why no tunnel of QUIC can be opened.
    pub fn may_be_quic(&self) -> Result<(), &'static str> {
        self.quic.as_ref().map(drop).map_err(|why| *why)
    }

    /// What a refusal by this gateway says, without its URL.
    pub fn bare<'a>(&self, reason: &'a str) -> &'a str {
        reason.strip_prefix(&self.url).map_or(reason, |rest| rest.trim_start_matches([':', ' ']))
    }

    /// What is said of QUIC at this gateway that is not answered.
    pub fn no_answer(&self, quic_at: Option<&str>) -> String {
        format!("{} {}", hello::NO_ANSWER, self.quic_place(quic_at).1)
    }

    /// Where QUIC is looked for.
    fn quic_place<'a>(&'a self, told: Option<&'a str>) -> (&'a str, u16) {
        let told = told.and_then(|at| {
            let (host, port) = at.rsplit_once(':')?;
            Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
        });
        told.unwrap_or((&self.host, self.port))
    }

    /// Opens a tunnel.
    pub async fn tunnel(&self, transport: Transport, wanted: &Wanted<'_>) -> Result<Tunnel, Refused> {
        if transport != Transport::WebSocket {
            return self.open_quic(transport, wanted).await;
        }
        let (io, early, told) = self.open(&wanted.request, wanted.timeouts).await?;
        let (session, driver) = start(io, early, Config::agent(wanted.tunnel));
        Ok(Tunnel { session, driver: Box::pin(driver), told })
    }

    /// The words of a request.
    fn request(&self, request: &Request<'_>, upgrade: Upgrade<'_>) -> Vec<u8> {
        let token = self.token.secret.load_full();
        hello::request(&Ask {
            authority: &self.authority(),
            path: &format!("{}{}", self.prefix, request.path),
            upgrade,
            token: token.as_deref().map(Secret::expose),
            tenant: &self.tenant,
            agent: request.agent,
            version: request.version,
            h2: request.h2,
            datagram: request.datagram,
            not_quic: &hello::visible(request.not_quic),
        })
    }

    fn silent(&self, within: Duration) -> Refused {
        Refused { reason: format!("{} did not answer within {within:?}", self.url), status: None }
    }

    fn broken(&self, why: impl std::fmt::Display) -> Refused {
        Refused { reason: format!("{}: {why}", self.url), status: None }
    }

    /// With the answer's own words, as far as they are in its JSON body.
    fn refused(&self, why: &str, status: u16, body: &[u8]) -> Refused {
        let json = body.iter().position(|b| *b == b'{').zip(body.iter().rposition(|b| *b == b'}'));
        let said = json
            .filter(|(open, close)| open < close)
            .and_then(|(open, close)| serde_json::from_slice::<serde_json::Value>(&body[open..=close]).ok())
            .and_then(|value| Some(value.get("error")?.as_str()?.chars().take(200).collect::<String>()));
        let reason = match said {
            Some(said) => format!("{} {why}: {said}", self.url),
            None => format!("{} {why}", self.url),
        };
        Refused { reason, status: Some(status) }
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
