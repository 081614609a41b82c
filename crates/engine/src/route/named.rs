//! Which endpoint a request names by itself (step 2 of the routing order).
//!
//! Pure and literal: nothing is percent-decoded, folded or resolved, so that what is looked up here is what an
//! application further on sees. `/%5fpiko`, `//_piko` and `/_PIKO` are ordinary paths. Whether a name is permitted and
//! who offers it is decided elsewhere.

use std::borrow::Cow;

use crate::error::{Code, Error};
use crate::http1::target;
use crate::message::{Known, RequestHead};

/// The longest name of an endpoint or tenant.
pub const MAX_NAME: usize = 128;

/// What a request names, and what it wants there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// An endpoint, for this one request.
    Http(Cow<'a, str>),
    /// An endpoint, for a byte stream inside a WebSocket.
    Tcp(&'a str),
    /// An endpoint, for a flow of datagrams.
    Udp(&'a str),
}

/// The name, where `bytes` is a valid one: 1 to 128 bytes of `A-Za-z0-9._-`.
pub fn valid_name(bytes: &[u8]) -> Option<&str> {
    let valid = (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    if valid { std::str::from_utf8(bytes).ok() } else { None }
}

/// The endpoint that `head` names by path, header or Host.
pub fn endpoint_of(head: &RequestHead) -> Result<Named<'_>, Error> {
    let by_header = header(head)?;
    if let Some((name, datagrams)) = reserved(head.path())? {
        // Two ways to name one thing have to agree.
        return match by_header {
            Some(other) if other != name => Err(two_endpoints()),
            _ if datagrams => Ok(Named::Udp(name)),
            _ => Ok(Named::Tcp(name)),
        };
    }
    if let Some(name) = by_header {
        return Ok(Named::Http(Cow::Borrowed(name)));
    }
    let host = head.fields.get(Known::Host).unwrap_or_default();
    let Some(label) = first_label(host) else {
        return Err(Error::new(Code::MissingEndpoint, "send x-tidegate-endpoint, or a Host like NAME.example.com"));
    };
    let name = valid_name(label).ok_or_else(|| invalid("the first label of Host is no endpoint name"))?;
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Named::Http(Cow::Owned(name.to_ascii_lowercase())));
    }
    Ok(Named::Http(Cow::Borrowed(name)))
}

fn header(head: &RequestHead) -> Result<Option<&str>, Error> {
    let mut found: [Option<&[u8]>; 2] = [None, None];
    for field in head.fields.iter().filter(|field| matches!(field.known, Known::XTidegate | Known::XPiko)) {
        let place = if field.name.eq_ignore_ascii_case(b"x-tidegate-endpoint") {
            &mut found[0]
        } else if field.name.eq_ignore_ascii_case(b"x-piko-endpoint") {
            &mut found[1]
        } else {
            continue;
        };
        if place.replace(field.value).is_some() {
            return Err(two_endpoints());
        }
    }
    let name = match found {
        [Some(ours), Some(theirs)] if ours != theirs => return Err(two_endpoints()),
        [Some(name), _] | [None, Some(name)] => name,
        [None, None] => return Ok(None),
    };
    valid_name(name).map(Some).ok_or_else(|| invalid("a name is 1 to 128 of A-Z a-z 0-9 . _ -"))
}

/// The name in `/_piko/v1/tcp/NAME` or, for datagrams, `/_piko/v1/udp/NAME`; nothing else below `/_piko` and
/// `/_tidegate` is served.
fn reserved(path: &[u8]) -> Result<Option<(&str, bool)>, Error> {
    let below = |prefix: &[u8]| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    for (prefix, datagrams) in [(&b"/_piko/v1/tcp/"[..], false), (b"/_piko/v1/udp/", true)] {
        if let Some(name) = path.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains(&b'/')) {
            let name = valid_name(name).ok_or_else(|| invalid("the path names no valid endpoint"))?;
            return Ok(Some((name, datagrams)));
        }
    }
    if below(b"/_piko") || below(b"/_tidegate") {
        return Err(Error::new(Code::NoRoute, "a reserved path that is not served"));
    }
    Ok(None)
}

/// The first label of a host that has two at least and is no IP address.
fn first_label(host: &[u8]) -> Option<&[u8]> {
    let (name, _) = target::split(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let first_dot = name.iter().position(|byte| *byte == b'.')?;
    // Browsers take every host whose last label is a number for an IPv4 address; so do we.
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let number = last.iter().all(u8::is_ascii_digit)
        || (last.starts_with(b"0x") || last.starts_with(b"0X")) && last[2..].iter().all(u8::is_ascii_hexdigit);
    (!number && !name.starts_with(b"[")).then_some(&name[..first_dot])
}

fn two_endpoints() -> Error {
    invalid("the request names an endpoint twice; name it once")
}

fn invalid(detail: &'static str) -> Error {
    Error::new(Code::InvalidEndpoint, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Version;

    fn ask(target: &str, fields: &[(&str, &str)]) -> Result<String, Code> {
        let mut head = RequestHead::new();
        head.set(b"GET", target.as_bytes(), Version::Http11);
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        match endpoint_of(&head) {
            Ok(Named::Http(name)) => Ok(name.into_owned()),
            Ok(Named::Tcp(name)) => Ok(format!("tcp {name}")),
            Ok(Named::Udp(name)) => Ok(format!("udp {name}")),
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn case_36_a_host_names_an_endpoint_by_its_first_label_only() {
        for (host, expected) in [
            ("web.example.com", Ok("web")),
            ("WeB.Example.com:8000", Ok("web")),
            ("web.localhost.", Ok("web")),
            ("web.localhost.:80", Ok("web")),
            ("localhost", Err(Code::MissingEndpoint)),
            ("localhost.", Err(Code::MissingEndpoint)),
            ("localhost:8000", Err(Code::MissingEndpoint)),
            ("127.0.0.1:8000", Err(Code::MissingEndpoint)),
            ("127.1", Err(Code::MissingEndpoint)),
            ("0177.0.0.0x1", Err(Code::MissingEndpoint)),
            ("[::1]:8000", Err(Code::MissingEndpoint)),
            ("[::ffff:1.2.3.4]", Err(Code::MissingEndpoint)),
            (".example.com", Err(Code::InvalidEndpoint)),
            ("web%2eadmin.example.com", Err(Code::InvalidEndpoint)),
            ("", Err(Code::MissingEndpoint)),
        ] {
            assert_eq!(ask("/", &[("Host", host)]), expected.map(str::to_owned), "{host}");
        }
    }

    #[test]
    fn case_36_a_header_wins_over_host_and_may_not_contradict_another() {
        let host = ("Host", "web.example.com");
        assert_eq!(ask("/", &[host, ("X-Tidegate-Endpoint", "Api.1")]), Ok("Api.1".into()));
        assert_eq!(ask("/", &[host, ("x-piko-endpoint", "a"), ("x-tidegate-endpoint", "a")]), Ok("a".into()));
        assert_eq!(
            ask("/", &[host, ("x-piko-endpoint", "a"), ("x-tidegate-endpoint", "b")]),
            Err(Code::InvalidEndpoint)
        );
        assert_eq!(ask("/", &[host, ("x-piko-endpoint", "a"), ("x-piko-endpoint", "a")]), Err(Code::InvalidEndpoint));
        assert_eq!(ask("/", &[host, ("x-piko-endpoint", "")]), Err(Code::InvalidEndpoint));
        assert_eq!(ask("/", &[host, ("x-piko-endpoint", "a%2eb")]), Err(Code::InvalidEndpoint));
        assert_eq!(ask("/", &[host, ("x_piko_endpoint", "a")]), Ok("web".into()));
    }

    #[test]
    fn case_36_only_the_literal_reserved_paths_are_special() {
        for (target, expected) in [
            ("/_piko/v1/tcp/pg", Ok("tcp pg")),
            ("/_piko/v1/tcp/pg?x=/", Ok("tcp pg")),
            ("/_piko/v1/udp/dns", Ok("udp dns")),
            ("/_piko/v1/udp/a/b", Err(Code::NoRoute)),
            ("/_piko/v1/udp/a%2fb", Err(Code::InvalidEndpoint)),
            ("/_piko/v1/tcp/", Err(Code::NoRoute)),
            ("/_piko/v1/tcp/a/b", Err(Code::NoRoute)),
            ("/_piko/v1/tcp/a%2fb", Err(Code::InvalidEndpoint)),
            ("/_piko", Err(Code::NoRoute)),
            ("/_piko?x", Err(Code::NoRoute)),
            ("/_piko/v1/upstream/a", Err(Code::NoRoute)),
            ("/_tidegate/v1/node", Err(Code::NoRoute)),
            ("/_pikolo", Ok("web")),
            ("/%5fpiko/v1/tcp/pg", Ok("web")),
            ("//_piko/v1/tcp/pg", Ok("web")),
            ("/_PIKO/v1/tcp/pg", Ok("web")),
        ] {
            assert_eq!(ask(target, &[("Host", "web.example.com")]), expected.map(str::to_owned), "{target}");
        }
        assert_eq!(ask("/_piko/v1/tcp/pg", &[("x-piko-endpoint", "web")]), Err(Code::InvalidEndpoint));
    }
}
