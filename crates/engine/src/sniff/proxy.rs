//! The PROXY protocol, versions 1 and 2: who is behind the proxy that connects (haproxy.org, `proxy-protocol.txt`).
//!
//! Strict in both: one spelling, bounded lengths, nothing skipped that is not understood but the additional fields of
//! version 2. Whose header is believed is `listener`'s to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header of version 1, with its end of line.
pub const MAX_V1: usize = 107;

/// The most bytes of version 2 behind its first 16: addresses, and additional fields, which are skipped.
pub const MAX_V2: usize = 4096;

/// What a header of version 2 begins with.
pub const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header of version 1 begins with.
pub const SIGNATURE_V1: &[u8; 6] = b"PROXY ";

/// What version 2 has before its addresses.
const FIXED_V2: usize = 16;

/// A header, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who connected to the proxy; none where it speaks for itself (`UNKNOWN`, `LOCAL`) or of no IP address.
    pub client: Option<SocketAddr>,
    /// The bytes it takes; what follows is the connection.
    pub length: usize,
}

/// Whether first bytes are those of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Not enough of them to tell.
    More,
    /// They are.
    Yes,
    /// They are not.
    No,
}

/// Whether a connection that begins with `bytes` begins with a header.
pub fn begins(bytes: &[u8]) -> Begins {
    let signatures: [&[u8]; 2] = [SIGNATURE_V1, SIGNATURE_V2];
    if signatures.iter().any(|signature| bytes.starts_with(signature)) {
        Begins::Yes
    } else if signatures.iter().any(|signature| signature.starts_with(bytes)) {
        Begins::More
    } else {
        Begins::No
    }
}

/// Reads the header that a connection begins with; none while it is not whole.
///
/// # Errors
/// Says what is wrong with it, or that there is none.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    match begins(bytes) {
        Begins::More => Ok(None),
        Begins::No => Err("no PROXY header"),
        Begins::Yes if bytes[0] == SIGNATURE_V1[0] => parse_v1(bytes),
        Begins::Yes => parse_v2(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let within = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if within.len() < MAX_V1 { Ok(None) } else { Err("a PROXY header of more than 107 bytes") };
    };
    let length = end + 2;
    let line = std::str::from_utf8(&within[SIGNATURE_V1.len()..end]).map_err(|_| "a PROXY header that is no text")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some(Header { client: None, length }));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[..] {
        ["TCP4", from, to, from_port, to_port] => addresses::<Ipv4Addr>([from, to], [from_port, to_port]),
        ["TCP6", from, to, from_port, to_port] => addresses::<Ipv6Addr>([from, to], [from_port, to_port]),
        _ => None,
    };
    client.map(|client| Some(Header { client: Some(client), length })).ok_or("a malformed PROXY header")
}

/// The first address, where both are good.
fn addresses<T: FromStr + Into<IpAddr>>([from, to]: [&str; 2], ports: [&str; 2]) -> Option<SocketAddr> {
    to.parse::<T>().ok()?;
    // `parse` would take `+1` and `01`.
    let port = |text: &str| {
        let plain = text == "0" || text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    port(ports[1])?;
    Some(SocketAddr::new(from.parse::<T>().ok()?.into(), port(ports[0])?))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some([command, family, high, low]) = bytes.get(SIGNATURE_V2.len()..FIXED_V2) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest > MAX_V2 {
        return Err("a PROXY header that is too long");
    }
    let speaks_for_itself = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("a PROXY header of an unknown version or command"),
    };
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err("a PROXY header of an unknown family");
    }
    let needed = match family >> 4 {
        _ if speaks_for_itself => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    if rest < needed {
        return Err("a PROXY header that is too short for its addresses");
    }
    let Some(content) = bytes.get(FIXED_V2..FIXED_V2 + rest) else { return Ok(None) };
    let port = |at: usize| u16::from_be_bytes([content[at], content[at + 1]]);
    let client = match (family, content.first_chunk::<4>(), content.first_chunk::<16>()) {
        _ if speaks_for_itself => None,
        (0x11, Some(ip), _) => Some(SocketAddr::new(IpAddr::from(*ip), port(8))),
        (0x21, _, Some(ip)) => Some(SocketAddr::new(IpAddr::from(*ip), port(32))),
        _ => None,
    };
    Ok(Some(Header { client, length: FIXED_V2 + rest }))
}

/// The header of version 1 or 2 that says who `client` is, and where it connected to. A client that is not known, by an
/// unspecified address, is said to be ourselves.
pub fn write(version: u8, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    if client.ip().is_unspecified() {
        return if version == 1 { b"PROXY UNKNOWN\r\n".to_vec() } else { [&SIGNATURE_V2[..], b"\x20\0\0\0"].concat() };
    }
    let (from_ip, to_ip) = match (client.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V6(from), IpAddr::V4(to)) => (from.into(), to.to_ipv6_mapped().into()),
        (IpAddr::V4(from), IpAddr::V6(to)) if !to.is_unspecified() => (from.to_ipv6_mapped().into(), to.into()),
        (IpAddr::V4(from), IpAddr::V6(_)) => (from.into(), Ipv4Addr::UNSPECIFIED.into()),
        same => same,
    };
    if version == 1 {
        let family = if from_ip.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {from_ip} {to_ip} {} {}\r\n", client.port(), to.port()).into_bytes();
    }
    let mut header = SIGNATURE_V2.to_vec();
    match (from_ip, to_ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(from.octets().into_iter().chain(to.octets()));
        }
        (from, to) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            header.extend([0x21, 0x21, 0, 36]);
            header.extend(octets(from).into_iter().chain(octets(to)));
        }
    }
    header.extend(client.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
    header
}
