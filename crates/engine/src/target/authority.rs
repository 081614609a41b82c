//! How the target of a CONNECT is written: `name:443`, `10.1.2.3:443`, `[fd00::1]:443`, and in no other way.
//!
//! Whatever a resolver or another hop might read differently is refused: numbers in other bases or with fewer parts,
//! users, zones, ports that are missing or too large.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sniff::name;

/// Somewhere to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, at least 1.
    pub port: u16,
}

/// The host of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name in its normal form, never one that stands for an address.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Reads a target.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(authority: &[u8]) -> Result<Target, &'static str> {
    if authority.contains(&b'@') {
        return Err("write HOST:PORT, without a user");
    }
    let end = authority.iter().rposition(|byte| *byte == b':').filter(|at| !authority[*at..].contains(&b']'));
    let Some(end) = end else { return Err("write HOST:PORT: the port is missing") };
    let (written, port) = (&authority[..end], &authority[end + 1..]);
    Ok(Target { host: host(written)?, port: number(port)? })
}

fn number(port: &[u8]) -> Result<u16, &'static str> {
    const WRONG: &str = "write HOST:PORT: the port is a number from 1 to 65535";
    if !(1..=5).contains(&port.len()) || !port.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let port = port.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(WRONG)
}

fn host(written: &[u8]) -> Result<Host, &'static str> {
    let text = std::str::from_utf8(written).map_err(|_| "write HOST:PORT: the host is a name or an address")?;
    if text.is_empty() {
        return Err("write HOST:PORT: the host is missing");
    }
    if let Some(inner) = text.strip_prefix('[') {
        let ip = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return ip.map(|ip| Host::Ip(ip.into())).ok_or("write [ADDRESS]:PORT: it is no IPv6 address without a zone");
    }
    if text.contains(':') {
        return Err("write [ADDRESS]:PORT: an IPv6 address goes in brackets");
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    match name::normal(written) {
        Some(_) if name::is_ip(written) => Err("write HOST:PORT: an IPv4 address is four decimal numbers"),
        Some(name) => Ok(Host::Name(name.into_owned())),
        None => Err("write HOST:PORT: the host is a name or an address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &str) -> Result<String, &'static str> {
        parse(written.as_bytes()).map(|target| target.to_string())
    }

    #[test]
    fn case_39_a_target_has_one_form() {
        for (written, read_as) in [
            ("10.1.2.3:443", "10.1.2.3:443"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::FFFF:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"),
            ("Kubelet.Corp.Example.:10250", "kubelet.corp.example:10250"),
            ("localhost:1", "localhost:1"),
            ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
            ("_srv.a:00080", "_srv.a:80"),
            ("1.2.3.4.example:1", "1.2.3.4.example:1"),
            ("0x.example:1", "0x.example:1"),
        ] {
            assert_eq!(read(written).as_deref(), Ok(read_as), "{written}");
        }
    }

    #[test]
    fn case_39_whatever_may_be_read_in_another_way_is_refused_with_what_is_wrong() {
        for (part, all) in [
            ("user", &["user@host:80", "a:b@host:80", "host@:80", "@host:80"][..]),
            ("port is missing", &["host", "", "[::1]", "10.1.2.3", "/"]),
            ("from 1 to 65535", &["host:", "host:0", "host:65536", "host:99999", "host:100000", "host:+80", "host:8o"]),
            ("from 1 to 65535", &["host:80/", "host:80 ", "host: 80", "host:-1", "host:0x50", "[::1]:"]),
            ("host is missing", &[":80"]),
            ("four decimal", &["0x7f.1:80", "2130706433:80", "1.2.3:80", "127.1:80", "0177.0.0.1:80", "0x7f000001:80"]),
            ("four decimal", &["1.2.3.4.:80", "1.2.3.04:80", "1.2.3.256:80", "a.0x7f:80", "0x:80", "1.2.3.4.5:80"]),
            ("without a zone", &["[fe80::1%eth0]:80", "[fe80::1%25eth0]:80"]),
            ("without a zone", &["[]:80", "[1.2.3.4]:80", "[::1:80", "[::1"]),
            ("goes in brackets", &["::1:80", "fe80::1:80"]),
            ("name or an address", &["a b:80", "a%41:80", "a..b:80", "*.a:80", "ä.example:80", "a,b:80", "a\\b:80"]),
        ] {
            for written in all {
                let why = read(written).expect_err(written);
                assert!(why.contains(part), "{written}: {why}");
            }
        }
        assert!(parse(b"\xff:80").is_err() && parse(b"a\0:80").is_err());
        assert!(read(&format!("{}.a:80", "a".repeat(64))).is_err());
    }
}
