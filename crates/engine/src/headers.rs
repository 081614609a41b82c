//! What is removed from a head on its way through, and what is added.
//!
//! The order matters and is the same both ways: fields meant for this hop and whatever Connection names go first, then
//! what a stranger may not say, and only then ours are added, so that no peer can have them removed again. Fields that
//! carry our own messages (`x-tidegate-...`) are pushed by the caller, after this.

use std::io::Write;
use std::net::IpAddr;

use crate::http1::framing::Framing;
use crate::http1::refusal::is_token;
use crate::http1::target::MAX_HOST;
use crate::message::{Field, Fields, Known, RequestHead, ResponseHead, Version, tokens};
use crate::snapshot::HostHeader;

/// What is done about the fields that speak of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// A gateway: whatever came is dropped, ours is written.
    Rebuild {
        /// Who connected to us.
        client: IpAddr,
        /// What it spoke: `http` or `https`.
        proto: &'static str,
    },
    /// An agent: what the gateway wrote stays.
    Keep,
}

/// The way of a request through us.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// What is done about `X-Forwarded-...` and `Forwarded`.
    pub forwarding: Forwarding,
    /// What the upstream sees as Host.
    pub host: &'a HostHeader,
    /// The upstream's own host and port: for `rewrite`, and where a request of HTTP/1.0 has no Host.
    pub authority: &'a str,
    /// How the body is sent on.
    pub framing: Framing,
}

/// Makes a request ready for the upstream. True when it asks for another protocol, and so may be answered by 101.
pub fn to_upstream(head: &mut RequestHead, hop: &Hop<'_>) -> bool {
    let upgrade = upgrade_of(head).is_some();
    let trailers = !upgrade && head.fields.all(Known::Te).flat_map(tokens).any(|t| t.eq_ignore_ascii_case(b"trailers"));
    let named = Named::of(&head.fields);
    let mut host = Host::default();
    head.fields.retain(|field| match field.known {
        Known::Host => {
            host.copy(field.value);
            true
        }
        Known::Upgrade => upgrade,
        Known::Te => false,
        Known::XForwardedFor | Known::XForwardedHost | Known::XForwardedProto | Known::XForwarded => {
            hop.forwarding == Forwarding::Keep && !field.name.contains(&b'_')
        }
        Known::Forwarded => hop.forwarding == Forwarding::Keep,
        _ => passes(field, &named),
    });
    let fields = &mut head.fields;
    match hop.host {
        HostHeader::Keep if host.is_empty() => set_host(fields, hop.authority),
        HostHeader::Keep => {}
        HostHeader::Rewrite => set_host(fields, hop.authority),
        HostHeader::Set(name) => set_host(fields, name),
    }
    if upgrade {
        fields.push(b"Connection", b"Upgrade");
    } else if trailers {
        fields.push(b"TE", b"trailers");
        fields.push(b"Connection", b"TE");
    }
    match hop.forwarding {
        Forwarding::Rebuild { client, proto } => speak_of(client, proto, host.get(), fields),
        Forwarding::Keep => {
            if !host.is_empty() && fields.get(Known::XForwardedHost).is_none() {
                fields.push(b"X-Forwarded-Host", host.get());
            }
        }
    }
    hop.framing.announce(fields);
    upgrade
}

/// The protocol that a request asks to change to: one, by GET, in HTTP/1.1, without a body, and none that would make
/// another HTTP out of the connection behind our back (`h2c`, `HTTP/2.0`, `TLS/1.0`).
pub fn upgrade_of(head: &RequestHead) -> Option<&[u8]> {
    let asked = head.fields.get(Known::Upgrade)?;
    let connection = || head.fields.all(Known::Connection).flat_map(tokens);
    let fits = head.version == Version::Http11
        && head.method() == b"GET"
        && head.fields.count(Known::Upgrade) == 1
        && is_token(asked)
        && !asked.eq_ignore_ascii_case(b"h2c")
        && connection().any(|token| token.eq_ignore_ascii_case(b"upgrade"))
        && head.fields.get(Known::TransferEncoding).is_none()
        && head.fields.get(Known::ContentLength).is_none_or(|length| length == b"0");
    fits.then_some(asked)
}

/// The way of a response through us.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// The version the downstream speaks.
    pub version: Version,
    /// The connection may carry another request after this response.
    pub keep_alive: bool,
    /// How the body is sent on.
    pub framing: Framing,
}

/// Makes a response ready for the downstream.
pub fn to_downstream(head: &mut ResponseHead, way: &Return) {
    let upgraded = head.status == 101;
    let bodiless = head.is_informational() || head.status == 204;
    let named = Named::of(&head.fields);
    head.fields.retain(|field| match field.known {
        Known::Upgrade => upgraded,
        Known::Te => false,
        Known::ContentLength if bodiless => false,
        _ => passes(field, &named),
    });
    let fields = &mut head.fields;
    way.framing.announce(fields);
    if upgraded {
        fields.push(b"Connection", b"Upgrade");
    } else if head.status < 200 || way.version == Version::Http2 {
        // Nothing is said about the connection before the last response, nor in HTTP/2.
    } else if !way.keep_alive || way.framing == Framing::UntilClose {
        fields.push(b"Connection", b"close");
    } else if way.version == Version::Http10 {
        fields.push(b"Connection", b"keep-alive");
    }
}

/// False for what belongs to the hop it came by, for what only gateways say, and for what Connection names.
fn passes(field: Field<'_>, named: &Named) -> bool {
    match field.known {
        Known::Connection
        | Known::KeepAlive
        | Known::Http2Settings
        | Known::ProxyConnection
        | Known::ProxyAuthorization
        | Known::ProxyAuthenticate
        | Known::XTidegate
        | Known::XPiko => false,
        // Connection speaks for a hop. Names that mean the message itself stay, or a stranger could take the framing,
        // the host or the credentials out of a request that was judged with them.
        Known::Other | Known::Accept | Known::Expect | Known::Upgrade | Known::Te => !named.contains(field.name),
        _ => true,
    }
}

/// The names in Connection, those left out that are always dealt with. Mostly none: then it holds no memory.
struct Named(Vec<u8>);

impl Named {
    fn of(fields: &Fields) -> Named {
        let usual = |token: &[u8]| {
            [&b"close"[..], b"keep-alive", b"upgrade", b"te"].iter().any(|name| token.eq_ignore_ascii_case(name))
        };
        let mut names = Vec::new();
        for token in fields.all(Known::Connection).flat_map(tokens).filter(|token| !usual(token)) {
            names.extend_from_slice(token);
            names.push(b',');
        }
        Named(names)
    }

    fn contains(&self, name: &[u8]) -> bool {
        tokens(&self.0).any(|token| token.eq_ignore_ascii_case(name))
    }
}

/// A copy of the Host that came, without allocating.
struct Host {
    bytes: [u8; MAX_HOST],
    length: usize,
}

impl Default for Host {
    fn default() -> Self {
        Host { bytes: [0; MAX_HOST], length: 0 }
    }
}

impl Host {
    fn copy(&mut self, host: &[u8]) {
        // One that is too long was refused by the codec.
        if let Some(room) = self.bytes.get_mut(..host.len()) {
            room.copy_from_slice(host);
            self.length = host.len();
        }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

fn set_host(fields: &mut Fields, host: &str) {
    if !fields.replace(Known::Host, host.as_bytes()) {
        fields.push(b"Host", host.as_bytes());
    }
}

/// Writes who connected, how, and to which host. Only the address that we saw: trusted proxies in front of us are not
/// known, so whatever they or anybody else wrote was dropped.
fn speak_of(client: IpAddr, proto: &str, host: &[u8], fields: &mut Fields) {
    let client = client.to_canonical();
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    // The longest address has 45 characters.
    let _ = write!(rest, "{client}");
    let left = rest.len();
    let client_text = &text[..text.len() - left];
    fields.push(b"X-Forwarded-For", client_text);
    if !host.is_empty() {
        fields.push(b"X-Forwarded-Host", host);
    }
    fields.push(b"X-Forwarded-Proto", proto.as_bytes());
    let (open, close): (&[u8], &[u8]) = if client.is_ipv6() { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    let (before_host, behind_host): (&[u8], &[u8]) = match host {
        [] => (b"", b""),
        host if is_token(host) => (b";host=", b""),
        _ => (b";host=\"", b"\""),
    };
    let parts = [open, client_text, close, before_host, host, behind_host, b";proto=", proto.as_bytes()];
    fields.push_parts(b"Forwarded", &parts);
}
