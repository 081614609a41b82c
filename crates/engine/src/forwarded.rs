//! Who asks, how, and for which host, where proxies that are trusted stand in front of us.
//!
//! A trusted proxy is believed about the connection that it had itself. Its list is read from the right: whoever is
//! named there and is not trusted is the one who asks, and what stands further left was only said by that one. What is
//! sent on begins with it, so that no service takes a forged address for the first. Writing the fields is `headers`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::http1::target;
use crate::message::{Fields, Known, tokens};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The address and, where it connected to us itself, its port; else 0.
    pub client: SocketAddr,
    /// What it speaks: `http` or `https`.
    pub proto: &'static str,
    /// What a trusted proxy says about it; none where it connected to us itself.
    pub behind: Option<Box<Behind>>,
}

/// What a trusted proxy says about a visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The proxies on its way, the one that connected to us last.
    pub proxies: Vec<IpAddr>,
    /// The host that it asked for, where that was said.
    pub host: Option<Vec<u8>>,
}

impl Visitor {
    /// Somebody who connected to us, however.
    pub fn direct(client: SocketAddr, proto: &'static str) -> Self {
        Visitor { client, proto, behind: None }
    }

    /// Whoever `peer` asks for: itself, unless it is one of the trusted proxies.
    pub fn of(fields: &Fields, peer: SocketAddr, proto: &'static str, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        let direct = Visitor::direct(peer, proto);
        let peer = peer.ip().to_canonical();
        if trusted.is_empty() || !is_trusted(peer) {
            return direct;
        }
        let said = Said::of(fields);
        let mut way = Vec::new();
        let mut client = said.addresses.len().saturating_sub(1);
        for (place, address) in said.addresses.iter().enumerate().rev() {
            // What is no address ends what is known.
            let Some(address) = address else { break };
            way.push(*address);
            client = place;
            if !is_trusted(*address) {
                break;
            }
        }
        // Where nobody is named the proxy asks for itself.
        let asks = way.pop();
        way.reverse();
        way.extend(asks.map(|_| peer));
        let host = said.host(client).filter(|host| target::check_authority(host).is_ok());
        Visitor {
            client: asks.map_or(direct.client, |asks| SocketAddr::new(asks, 0)),
            proto: said.proto(client).unwrap_or(proto),
            behind: Some(Box::new(Behind { proxies: way, host: host.map(<[u8]>::to_vec) })),
        }
    }
}

/// What the fields of a trusted proxy say. `X-Forwarded-For` goes first: where a proxy writes it, `Forwarded` may have
/// come from a stranger, unread.
struct Said<'a> {
    addresses: Vec<Option<IpAddr>>,
    /// The elements of `Forwarded`, where that counts.
    elements: Option<Vec<&'a [u8]>>,
    fields: &'a Fields,
}

impl<'a> Said<'a> {
    fn of(fields: &'a Fields) -> Self {
        let has_list = fields.spelled(Known::XForwardedFor).next().is_some();
        if has_list || fields.spelled(Known::Forwarded).next().is_none() {
            let addresses = fields.spelled(Known::XForwardedFor).flat_map(tokens).map(address).collect();
            return Said { addresses, elements: None, fields };
        }
        let elements: Vec<&[u8]> = fields.spelled(Known::Forwarded).flat_map(|value| quoted(value, b',')).collect();
        let addresses = elements.iter().map(|element| address(parameter(element, b"for")?)).collect();
        Said { addresses, elements: Some(elements), fields }
    }

    /// The host that the proxy next to the client was asked for.
    fn host(&self, client: usize) -> Option<&'a [u8]> {
        match &self.elements {
            Some(elements) => parameter(elements.get(client)?, b"host"),
            None => self.only(Known::XForwardedHost),
        }
    }

    fn proto(&self, client: usize) -> Option<&'static str> {
        let proto = match &self.elements {
            Some(elements) => parameter(elements.get(client)?, b"proto")?,
            None => self.only(Known::XForwardedProto)?,
        };
        ["http", "https"].into_iter().find(|known| proto.eq_ignore_ascii_case(known.as_bytes()))
    }

    /// The value of a field that has exactly one: of several nobody says which proxy wrote which.
    fn only(&self, known: Known) -> Option<&'a [u8]> {
        let mut values = self.fields.spelled(known).flat_map(tokens);
        values.next().filter(|_| values.next().is_none())
    }
}

/// An address, with or without a port, in brackets where it has some.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = text.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address.or_else(bracketed).map(|address| address.to_canonical())
}

/// A parameter of an element of `Forwarded`, without its quotes.
fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut pairs = quoted(element, b';').filter_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        pair[..equals].trim_ascii().eq_ignore_ascii_case(name).then(|| pair[equals + 1..].trim_ascii())
    });
    let value = pairs.next()?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// The parts between separators that stand in no quotes.
fn quoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut inside = false;
    let mut escaped = false;
    text.split(move |byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
        *byte == separator && !inside
    })
    .map(<[u8]>::trim_ascii)
    .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(peer: &str, fields: &[(&str, &str)]) -> (String, &'static str, String, String) {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().expect("a network")).collect();
        let mut said = Fields::new();
        for (name, value) in fields {
            said.push(name.as_bytes(), value.as_bytes());
        }
        let visitor = Visitor::of(&said, peer.parse().expect("an address"), "http", &trusted);
        let behind = visitor.behind.map(|behind| *behind).unwrap_or(Behind { proxies: vec![], host: None });
        let proxies = behind.proxies.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let host = String::from_utf8(behind.host.unwrap_or_default()).expect("text");
        (visitor.client.ip().to_string(), visitor.proto, host, proxies)
    }

    fn simple(peer: &str, name: &str, value: &str) -> String {
        asks(peer, &[(name, value)]).0
    }

    #[test]
    fn case_37_a_stranger_speaks_for_nobody() {
        let fields = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=1.1.1.1")];
        assert_eq!(asks("9.9.9.9:1", &fields), ("9.9.9.9".into(), "http", String::new(), String::new()));
    }

    #[test]
    fn case_37_what_a_stranger_spells_with_underscores_goes_for_nothing_behind_a_proxy() {
        let by_proxy = ("X-Forwarded-For", "1.1.1.1");
        let fields = [by_proxy, ("X_Forwarded_For", "6.6.6.6"), ("X_Forwarded-Proto", "https")];
        assert_eq!(asks("10.0.0.1:1", &fields), ("1.1.1.1".into(), "http", String::new(), "10.0.0.1".into()));
        assert_eq!(simple("10.0.0.1:1", "X_Forwarded_For", "6.6.6.6"), "10.0.0.1");
        assert_eq!(asks("10.0.0.1:1", &[("X_Forwarded_For", "6.6.6.6"), by_proxy]).0, "1.1.1.1");
    }

    #[test]
    fn who_asks_is_the_right_most_who_is_not_trusted() {
        let list = "X-Forwarded-For";
        for (value, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("1.1.1.1:4711, [fd00::2]:80", "1.1.1.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
            ("unknown", "10.0.0.1"),
            ("1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(simple("10.0.0.1:1", list, value), expected, "{value}");
        }
        assert_eq!(simple("[::ffff:10.0.0.1]:1", list, "1.1.1.1"), "1.1.1.1");
        let both = [(list, "6.6.6.6"), (list, "1.1.1.1, 10.0.0.2")];
        assert_eq!(asks("10.0.0.1:1", &both).3, "10.0.0.2 10.0.0.1");
    }

    #[test]
    fn a_trusted_proxy_tells_protocol_and_host_once() {
        let told = |fields: &[(&str, &str)]| {
            let (_, proto, host, _) = asks("10.0.0.1:1", &[&[("X-Forwarded-For", "1.1.1.1")], fields].concat());
            (proto, host)
        };
        assert_eq!(told(&[("x-forwarded-proto", "HTTPS")]), ("https", String::new()));
        assert_eq!(told(&[("x-forwarded-proto", "https, http")]), ("http", String::new()));
        assert_eq!(asks("10.0.0.1:1", &[("x-forwarded-proto", "https")]).1, "https");
        assert_eq!(told(&[("x-forwarded-proto", "gopher")]), ("http", String::new()));
        assert_eq!(told(&[("x-forwarded-host", "a.example:81")]), ("http", "a.example:81".into()));
        assert_eq!(told(&[("x-forwarded-host", "a b")]), ("http", String::new()));
    }

    #[test]
    fn forwarded_counts_where_there_is_no_list() {
        let value = "for=6.6.6.6;host=evil, For=\"[2001:db8::1]:47\";Host=\"a.example:81\";proto=https, for=10.0.0.2";
        let (client, proto, host, proxies) = asks("10.0.0.1:1", &[("Forwarded", value)]);
        assert_eq!((&*client, proto, &*host, &*proxies), ("2001:db8::1", "https", "a.example:81", "10.0.0.2 10.0.0.1"));
        assert_eq!(simple("10.0.0.1:1", "Forwarded", "for=_hidden"), "10.0.0.1");
        assert_eq!(simple("10.0.0.1:1", "Forwarded", "for=\"a,b\", for=1.1.1.1"), "1.1.1.1");
        let both = [("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "1.1.1.1")];
        assert_eq!(asks("10.0.0.1:1", &both).0, "1.1.1.1");
    }
}
