//! What a request is for: its target and Host, checked and brought into one form.
//!
//! Nothing is decoded: a path stays as it was written, byte for byte.

use super::refusal::HeadError::{self, Malformed};
use super::refusal::{bytes_of, is_token};
use crate::message::{Known, RequestHead, Version};

/// The longest Host: a DNS name of 253 bytes and a port fit.
pub(crate) const MAX_HOST: usize = 264;

/// Which bytes the name in an authority is made of.
static NAME: [bool; 256] = bytes_of(b"-._~");

/// Checks method, target and Host; turns an absolute target into the origin form.
pub(crate) fn normalise(head: &mut RequestHead) -> Result<(), HeadError> {
    if !is_token(head.method()) {
        return Err(Malformed("an invalid method"));
    }
    if head.target().iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err(Malformed("a target with a space, a control byte or #"));
    }
    let mut hosts = head.fields.all(Known::Host);
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Malformed("more than one Host")),
        (Some(host), None) => check_authority(host)?,
        (None, None) if head.version == Version::Http11 => return Err(Malformed("no Host")),
        (None, None) => {}
    }
    drop(hosts);
    let target = head.target();
    match target.first() {
        // Whoever serves CONNECT reads it (`target::authority`); nobody else looks at it.
        Some(_) if head.method() == b"CONNECT" => Ok(()),
        Some(b'/') => Ok(()),
        Some(b'*') if target == b"*" && head.method() == b"OPTIONS" => Ok(()),
        _ => absolute(head),
    }
}

fn absolute(head: &mut RequestHead) -> Result<(), HeadError> {
    let target = head.target();
    let (rest, default) = if let Some(rest) = strip(target, b"http://") {
        (rest, &b":80"[..])
    } else if let Some(rest) = strip(target, b"https://") {
        (rest, &b":443"[..])
    } else {
        return Err(Malformed("a target that is neither a path nor an http URL"));
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    check_authority(authority)?;
    let without_default = |name: &[u8]| name.strip_suffix(default).unwrap_or(name).to_ascii_lowercase();
    match head.fields.get(Known::Host) {
        Some(host) if without_default(host) != without_default(authority) => {
            return Err(Malformed("a target for another host than Host"));
        }
        Some(_) => {}
        None => {
            let authority = authority.to_vec();
            head.fields.push(b"Host", &authority);
            return absolute(head);
        }
    }
    let origin = match path.first() {
        Some(b'/') => path.to_vec(),
        None if head.method() == b"OPTIONS" => b"*".to_vec(),
        _ => [b"/", path].concat(),
    };
    head.set_target(&origin);
    Ok(())
}

fn strip<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Accepts `name`, `1.2.3.4`, `[::1]`, each with an optional port. Stricter than RFC 3986: no `%`, no userinfo, no
/// empty name or port, because hops disagree on what those mean.
pub(crate) fn check_authority(authority: &[u8]) -> Result<(), HeadError> {
    const BAD: HeadError = Malformed("an invalid Host");
    if authority.len() > MAX_HOST {
        return Err(BAD);
    }
    let (name, port) = split(authority);
    let name_is_fine = match name.strip_prefix(b"[") {
        Some(inner) => inner
            .strip_suffix(b"]")
            .and_then(|ip| std::str::from_utf8(ip).ok())
            .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !name.is_empty() && name.iter().all(|byte| NAME[usize::from(*byte)]),
    };
    let port_is_fine = port.is_none_or(|port| {
        (1..=5).contains(&port.len())
            && port.iter().all(u8::is_ascii_digit)
            && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
    });
    if name_is_fine && port_is_fine { Ok(()) } else { Err(BAD) }
}

/// An authority's name (with brackets where it has some) and its port.
pub(crate) fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let name_end = match authority.first() {
        Some(b'[') => memchr::memrchr(b']', authority).map_or(0, |at| at + 1),
        _ => 0,
    };
    match memchr::memchr(b':', &authority[name_end..]) {
        Some(at) => (&authority[..name_end + at], Some(&authority[name_end + at + 1..])),
        None => (authority, None),
    }
}
