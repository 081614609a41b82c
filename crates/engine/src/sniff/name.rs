//! The one normal form of host names, for routes, server names, certificates and logs.
//!
//! Lower case, without the one trailing dot that makes a name absolute, in ASCII (names beyond it arrive as punycode).
//! What is no name here is nobody's: it matches no route by name.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The longest name, without a trailing dot (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 253;

/// The longest part of a name between two dots.
const MAX_LABEL: usize = 63;

/// The normal form of a DNS name: labels of 1 to 63 letters, digits, `-` and `_`. None where it is no name; an IP
/// address is not told apart.
pub fn normal(name: &[u8]) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.len() > MAX_NAME {
        return None;
    }
    let (mut label, mut upper) = (0, false);
    for byte in name {
        match byte {
            b'.' if label == 0 => return None,
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => (label, upper) = (label + 1, true),
            _ => return None,
        }
        if label > MAX_LABEL {
            return None;
        }
    }
    if label == 0 {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// The normal form of what a request calls its host, without the port: a name, an IPv4 address, or an IPv6 address in
/// brackets.
pub fn host(host: &[u8]) -> Option<Cow<'_, str>> {
    let Some(inner) = host.strip_prefix(b"[") else { return normal(host) };
    let address: Ipv6Addr = std::str::from_utf8(inner.strip_suffix(b"]")?).ok()?.parse().ok()?;
    Some(Cow::Owned(format!("[{address}]")))
}

/// True for what stands for an IPv4 address: browsers take every host whose last label is a number for one.
pub fn is_ip(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let hex = last.strip_prefix(b"0x").or(last.strip_prefix(b"0X"));
    !last.is_empty() && last.iter().all(u8::is_ascii_digit) || hex.is_some_and(|x| x.iter().all(u8::is_ascii_hexdigit))
}

/// What is left of a name after each of its dots, the longest first: a wildcard `*.` and one of these covers the name.
pub fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_30_a_name_has_one_form_whatever_its_case_and_trailing_dot() {
        let long = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        assert_eq!(long.len(), MAX_NAME);
        for (name, expected) in [
            ("example.com", Some("example.com")),
            ("WWW.Example.COM", Some("www.example.com")),
            ("example.com.", Some("example.com")),
            ("example.com..", None),
            (".", None),
            ("", None),
            (".example.com", None),
            ("a..b", None),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("_acme_.example.com", Some("_acme_.example.com")),
            ("*.example.com", None),
            ("a b", None),
            ("a\0.example.com", None),
            ("a%2eb", None),
            ("b\u{fc}cher.example", None),
            ("a:443", None),
            ("localhost", Some("localhost")),
            (&long, Some(&long)),
            (&format!("{long}."), Some(&long)),
            (&format!("{long}d"), None),
            (&format!("{}.com", "a".repeat(64)), None),
        ] {
            assert_eq!(normal(name.as_bytes()).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn an_address_as_a_host_has_one_form_too() {
        assert_eq!(host(b"127.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(host(b"[0:0::1]").as_deref(), Some("[::1]"));
        assert_eq!(host(b"[::1"), None);
        assert_eq!(host(b"[example.com]"), None);
        for (name, ip) in [("127.0.0.1", true), ("127.1.", true), ("1.0x7F", true), ("1.a", false), ("0.0xg", false)] {
            assert_eq!(is_ip(name.as_bytes()), ip, "{name}");
        }
    }

    #[test]
    fn a_name_is_covered_by_the_wildcards_of_all_its_parents() {
        assert_eq!(parents("a.b.example.com").collect::<Vec<_>>(), ["b.example.com", "example.com", "com"]);
        assert_eq!(parents("localhost").count(), 0);
    }
}
