//! What is removed from a head on its way through, and what is added.
//!
//! The order matters and is the same both ways: fields meant for this hop and whatever Connection names go first, then
//! what a stranger may not say, and only then ours are added, so that no peer can have them removed again. Fields that
//! carry our own messages (`x-tidegate-...`) are pushed by the caller, after this.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};

use crate::forwarded::Visitor;
use crate::http1::framing::Framing;
use crate::http1::refusal::is_token;
use crate::http1::target::MAX_HOST;
use crate::message::{Field, Fields, Known, RequestHead, ResponseHead, Version, is_value, tokens};
use crate::snapshot::HostHeader;
use crate::snapshot::route::Edits;

/// What is done about the fields that speak of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding<'a> {
    /// A gateway: whatever came is dropped, ours is written, with what was believed of it.
    Rebuild(&'a Visitor),
    /// An agent: what the gateway wrote stays.
    Keep,
}

/// The way of a request through us.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// What is done about `X-Forwarded-...` and `Forwarded`.
    pub forwarding: Forwarding<'a>,
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
        Forwarding::Rebuild(visitor) => speak_of(visitor, host.get(), fields),
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

/// Writes who asks, how, and for which host, and which trusted proxies stand between. What strangers wrote was dropped.
fn speak_of(visitor: &Visitor, host: &[u8], fields: &mut Fields) {
    let client = Text::of(visitor.client.ip());
    let behind = visitor.behind.as_deref();
    let proxies: &[IpAddr] = behind.map_or(&[], |behind| &behind.proxies);
    let host = behind.and_then(|behind| behind.host.as_deref()).unwrap_or(host);
    let proto = visitor.proto.as_bytes();
    let (open, close): (&[u8], &[u8]) = if client.is_ipv6 { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    let (before_host, behind_host): (&[u8], &[u8]) = match host {
        [] => (b"", b""),
        host if is_token(host) => (b";host=", b""),
        _ => (b";host=\"", b"\""),
    };
    let (mut list, mut forwarded) = (Vec::new(), Vec::new());
    for proxy in proxies.iter().map(|proxy| Text::of(*proxy)) {
        let (open, close): (&[u8], &[u8]) = if proxy.is_ipv6 { (b", for=\"[", b"]\"") } else { (b", for=", b"") };
        list.extend_from_slice(&[b", ", proxy.get()].concat());
        forwarded.extend_from_slice(&[open, proxy.get(), close].concat());
    }
    fields.push_known(Known::XForwardedFor, b"X-Forwarded-For", &[client.get(), &list]);
    if !host.is_empty() {
        fields.push_known(Known::XForwardedHost, b"X-Forwarded-Host", &[host]);
    }
    fields.push_known(Known::XForwardedProto, b"X-Forwarded-Proto", &[proto]);
    let own = [open, client.get(), close, before_host, host, behind_host, b";proto=", proto, &forwarded];
    fields.push_known(Known::Forwarded, b"Forwarded", &own);
}

/// An address as text, without allocating.
struct Text {
    bytes: [u8; 48],
    length: usize,
    is_ipv6: bool,
}

impl Text {
    fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let mut bytes = [0; 48];
        let mut rest = &mut bytes[..];
        // The longest address has 45 characters.
        let _ = match address {
            // Every request that a gateway sends on has one: a tenth of the cost of formatting.
            IpAddr::V4(ip) => write_ipv4(ip, &mut rest),
            IpAddr::V6(ip) => write!(rest, "{ip}"),
        };
        let length = 48 - rest.len();
        Text { bytes, length, is_ipv6: address.is_ipv6() }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn write_ipv4(ip: Ipv4Addr, mut out: impl Write) -> io::Result<()> {
    let mut number = itoa::Buffer::new();
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            out.write_all(b".")?;
        }
        out.write_all(number.format(octet).as_bytes())?;
    }
    Ok(())
}

/// Takes fields out, sets and adds them, as a route wants it. Its names were found editable before.
pub fn edit(fields: &mut Fields, edits: &Edits) {
    if !edits.remove.is_empty() || !edits.set.is_empty() {
        let set = || edits.set.iter().map(|(name, _)| name);
        let goes =
            |name: &[u8]| edits.remove.iter().chain(set()).any(|gone| name.eq_ignore_ascii_case(gone.as_bytes()));
        fields.retain(|field| !goes(field.name));
    }
    for (name, value) in edits.set.iter().chain(&edits.add) {
        fields.push(name.as_bytes(), value.as_bytes());
    }
}

/// Why a field may not be written by the configuration, where that is so.
pub fn refuse_edit(name: &str, value: &str) -> Option<&'static str> {
    match Known::of(name.as_bytes()) {
        _ if !is_token(name.as_bytes()) => Some("is no name of a field"),
        _ if !is_value(value.as_bytes()) => Some("has a value with control characters"),
        Known::Host => Some("is set by `host_header`"),
        Known::XTidegate | Known::XPiko => Some("is only written by tidegate itself"),
        Known::Connection
        | Known::ContentLength
        | Known::Expect
        | Known::Http2Settings
        | Known::KeepAlive
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Te
        | Known::Trailer
        | Known::TransferEncoding
        | Known::Upgrade => Some("belongs to a single connection"),
        _ => None,
    }
}
