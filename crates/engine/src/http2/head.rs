//! Heads of HTTP/2 to ours and back.
//!
//! `h2` has checked what a field may be made of and refused what belongs to a connection; what two hops could read in
//! two ways is refused here, by the same rules as in HTTP/1 (RFC 9113 §8.2 and §8.3).

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode};

use crate::http1::body::may_trail;
use crate::http1::framing::{self, Framing};
use crate::http1::head::HeadLimits;
use crate::http1::refusal::HeadError::{self, Malformed, TooLarge};
use crate::http1::target;
use crate::message::{Fields, Known, RequestHead, ResponseHead, Version};

/// Reads the head of a request. What comes out has one Host, like one of HTTP/1.
pub fn request_from(from: &http::request::Parts, head: &mut RequestHead, limits: &HeadLimits) -> Result<(), HeadError> {
    head.clear();
    let authority = from.uri.authority().map(Authority::as_str);
    let path = from.uri.path_and_query().map(PathAndQuery::as_str);
    let size = from.method.as_str().len() + authority.map_or(0, str::len) + path.map_or(0, str::len);
    within(&from.headers, size, limits)?;
    let (target, path) = match (&from.method, authority, path) {
        (&Method::CONNECT, Some(authority), _) => (authority, None),
        (&Method::CONNECT, None, _) => return Err(Malformed("CONNECT without :authority")),
        (_, _, Some(path)) => (path, Some(path)),
        (.., None) => return Err(Malformed("no :path")),
    };
    if path.is_some_and(|path| !path.starts_with('/') && path != "*") {
        return Err(Malformed("a :path that does not begin with /"));
    }
    head.set(from.method.as_str().as_bytes(), target.as_bytes(), Version::Http2);
    if let Some(authority) = authority {
        head.fields.push(b"host", authority.as_bytes());
    }
    fields_from(&from.headers, &mut head.fields)?;
    one_host(&mut head.fields, if authority.is_some() { 2 } else { 1 })?;
    if head.fields.get(Known::Host).is_none() {
        return Err(Malformed("neither :authority nor Host"));
    }
    target::normalise(head)
}

/// Reads the head of a response.
pub fn response_from(
    from: &http::response::Parts,
    head: &mut ResponseHead,
    limits: &HeadLimits,
) -> Result<(), HeadError> {
    head.clear();
    within(&from.headers, 0, limits)?;
    head.set(from.status.as_u16(), b"", Version::Http2);
    fields_from(&from.headers, &mut head.fields)
}

/// Reads trailer fields: those that may be passed on.
pub fn trailers_from(from: &HeaderMap, limits: &HeadLimits) -> Result<Fields, HeadError> {
    within(from, 0, limits)?;
    let mut fields = Fields::new();
    fields_from(from, &mut fields)?;
    fields.retain(may_trail);
    Ok(fields)
}

/// How the body of a request is known to end; `ended`: none follows the head.
pub fn request_framing(head: &RequestHead, ended: bool) -> Result<Framing, HeadError> {
    Ok(match framing::request_framing(head)? {
        Framing::None if !ended => Framing::Chunked,
        framing => framing,
    })
}

fn within(fields: &HeaderMap, size: usize, limits: &HeadLimits) -> Result<(), HeadError> {
    if fields.len() > limits.fields {
        return Err(TooLarge("the head has too many fields"));
    }
    // As many bytes as the lines would have in HTTP/1.
    let size = fields.iter().fold(size, |size, (name, value)| size + name.as_str().len() + value.len() + 4);
    if size > limits.bytes { Err(TooLarge("the head has too many bytes")) } else { Ok(()) }
}

fn fields_from(from: &HeaderMap, fields: &mut Fields) -> Result<(), HeadError> {
    for name in from.keys() {
        let known = Known::of(name.as_str().as_bytes());
        let name = name.as_str();
        let mut values = from.get_all(name).iter().map(HeaderValue::as_bytes);
        if known == Known::Cookie {
            // Crumbs (RFC 9113 §8.2.3): one field for everybody who knows only one.
            let crumbs: Vec<&[u8]> = values.collect();
            fields.push(name.as_bytes(), &crumbs.join(&b"; "[..]));
            continue;
        }
        if matches!(
            known,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Http2Settings
        ) {
            return Err(Malformed("a field of HTTP/2 that speaks of the connection"));
        }
        values.try_for_each(|value| {
            let space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
            if space(value.first()) || space(value.last()) {
                return Err(Malformed("a field value with white space around it"));
            }
            fields.push(name.as_bytes(), value);
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes out the Host that says the same as `:authority`; refuses any other and more than `most` of both together.
fn one_host(fields: &mut Fields, most: usize) -> Result<(), HeadError> {
    let Some(first) = fields.get(Known::Host).map(<[u8]>::to_vec) else { return Ok(()) };
    let (mut hosts, mut same) = (0, true);
    fields.retain(|field| {
        if field.known != Known::Host {
            return true;
        }
        hosts += 1;
        same &= field.value.eq_ignore_ascii_case(&first);
        hosts == 1
    });
    if same && hosts <= most { Ok(()) } else { Err(Malformed("a Host that is not :authority")) }
}

/// A request of ours for an upstream that speaks HTTP/2.
pub fn request_to(head: &RequestHead, tls: bool) -> Result<Request<()>, HeadError> {
    const UNSAYABLE: HeadError = Malformed("a target that HTTP/2 cannot carry");
    let mut uri = http::uri::Parts::default();
    let host = head.fields.get(Known::Host).unwrap_or_default();
    uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::from_maybe_shared(Bytes::copy_from_slice(host)).map_err(|_| UNSAYABLE)?);
    let path = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(head.target())).map_err(|_| UNSAYABLE)?;
    // What is sent is what was judged, or nothing.
    if path.as_str().as_bytes() != head.target() {
        return Err(UNSAYABLE);
    }
    uri.path_and_query = Some(path);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method()).map_err(|_| UNSAYABLE)?;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| UNSAYABLE)?;
    *request.version_mut() = http::Version::HTTP_2;
    fields_to(&head.fields, request.headers_mut());
    Ok(request)
}

/// A response of ours for a downstream that speaks HTTP/2.
pub fn response_to(head: &ResponseHead) -> Result<Response<()>, HeadError> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Malformed("a status beyond 999"))?;
    *response.version_mut() = http::Version::HTTP_2;
    fields_to(&head.fields, response.headers_mut());
    Ok(response)
}

/// Trailers of ours.
pub fn trailers_to(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    fields_to(fields, &mut map);
    map
}

/// Everything but what HTTP/2 says elsewhere or not at all.
fn fields_to(fields: &Fields, map: &mut HeaderMap) {
    map.reserve(fields.len());
    // One allocation for all values.
    let mut values = Vec::with_capacity(fields.iter().map(|field| field.value.len()).sum());
    fields.iter().for_each(|field| values.extend_from_slice(field.value));
    let mut values = Bytes::from(values);
    for field in fields.iter() {
        let value = values.split_to(field.value.len());
        if matches!(
            field.known,
            Known::Host
                | Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Http2Settings
        ) {
            continue;
        }
        // Our fields hold only what a field may hold, and more than a map takes was refused when it came.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field.name), HeaderValue::from_maybe_shared(value)) {
            let _ = map.try_append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http1::head::parse_request;
    use crate::io::Buffer;

    const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 32 };

    fn parts(method: &str, authority: Option<&str>, path: &str, fields: &[(&str, &str)]) -> http::request::Parts {
        let mut uri = http::uri::Parts::default();
        uri.scheme = authority.map(|_| Scheme::HTTP);
        uri.authority = authority.map(|authority| authority.parse().expect("an authority"));
        uri.path_and_query = (!path.is_empty()).then(|| path.parse().expect("a path"));
        let mut request = Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).expect("a request").into_parts().0;
        parts.uri = Uri::from_parts(uri).expect("a URI");
        parts
    }

    fn read(parts: &http::request::Parts) -> Result<RequestHead, HeadError> {
        let mut head = RequestHead::new();
        request_from(parts, &mut head, &LIMITS).map(|()| head)
    }

    #[test]
    fn case_9_hosts_and_targets_that_can_be_read_in_two_ways_are_refused() {
        let refused = |authority, path, fields: &[_]| read(&parts("GET", authority, path, fields)).is_err();
        assert!(!refused(Some("a.b"), "/", &[]));
        assert!(!refused(Some("a.b"), "/", &[("host", "A.B")]));
        assert!(!refused(None, "/", &[("host", "a.b")]));
        assert!(refused(Some("a.b"), "/", &[("host", "c.d")]));
        assert!(refused(Some("a.b"), "/", &[("host", "a.b"), ("host", "a.b")]));
        assert!(refused(None, "/", &[("host", "a.b"), ("host", "a.b")]));
        assert!(refused(None, "/", &[]));
        assert!(refused(Some("user@a.b"), "/", &[]));
        assert!(refused(Some("a.b"), "*", &[]));
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            assert!(refused(Some("a.b"), "/", &[(name, "x")]), "{name}");
        }
        assert!(refused(Some("a.b"), "/", &[("x-a", " b")]));
        assert!(refused(Some("a.b"), "/", &[("x-a", "b\t")]));
    }

    #[test]
    fn case_14_a_head_is_too_large_by_what_was_decoded() {
        let many: Vec<(String, String)> = (0..33).map(|n| (format!("x-{n}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
        let long = "v".repeat(LIMITS.bytes);
        for fields in [&many[..], &[("x-long", &*long)]] {
            assert!(matches!(read(&parts("GET", Some("a.b"), "/", fields)), Err(TooLarge(_))));
        }
    }

    #[test]
    fn crumbs_become_one_cookie_and_other_fields_keep_their_number() {
        let fields = [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("x-a", "2")];
        let head = read(&parts("GET", Some("a.b"), "/", &fields)).expect("a head");
        assert_eq!(head.fields.all(Known::Cookie).collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!(head.fields.iter().filter(|field| field.name == b"x-a").count(), 2);
    }

    #[test]
    fn what_speaks_of_a_connection_does_not_go_out() {
        let mut head = RequestHead::new();
        head.set(b"POST", b"/a?b", Version::Http11);
        for (name, value) in [("Host", "a.b:80"), ("TE", "trailers"), ("Connection", "TE"), ("X-A", "1")] {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head.fields.push(b"Transfer-Encoding", b"chunked");
        let request = request_to(&head, true).expect("a request");
        assert_eq!(request.uri(), "https://a.b:80/a?b");
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["te", "x-a"]);
        head.set_target(b"/<script>");
        assert!(request_to(&head, false).is_err());
    }

    #[test]
    fn the_end_of_a_body_is_known_with_and_without_a_length() {
        let framing = |fields: &[_], ended| {
            request_framing(&read(&parts("POST", Some("a.b"), "/", fields)).expect("a head"), ended)
        };
        assert_eq!(framing(&[], true), Ok(Framing::None));
        assert_eq!(framing(&[], false), Ok(Framing::Chunked));
        assert_eq!(framing(&[("content-length", "5")], false), Ok(Framing::Length(5)));
        assert!(framing(&[("content-length", "5"), ("content-length", "5")], false).is_err());
    }

    proptest! {
        /// Whatever passes is the same head when HTTP/1 writes and reads it, and comes back as it was.
        #[test]
        fn what_a_head_of_http2_says_is_what_http1_says(
            method in "[A-Z]{1,8}",
            path in "/[ -~]{0,20}",
            host in "[a-z.:@0-9-]{1,12}",
            fields in prop::collection::vec(("[a-z-]{1,12}", "[ -~\t]{0,12}"), 0..8),
        ) {
            let request = Request::builder().method(&*method).uri(format!("http://{host}{path}"));
            let request = fields.iter().fold(request, |request, (name, value)| request.header(name, value));
            let Ok(request) = request.body(()) else { return Ok(()) };
            let parts = request.into_parts().0;
            let Ok(head) = read(&parts) else { return Ok(()) };

            let mut out = Buffer::new();
            crate::http1::head::write_request(&head, &mut out);
            let mut again = RequestHead::new();
            let length = parse_request(out.chunk(), &mut 0, &mut again, &LIMITS);
            prop_assert_eq!(length, Ok(Some(out.len())));
            again.version = Version::Http2;
            prop_assert_eq!(&again, &head);

            let back = request_to(&head, false).map(|request| request.into_parts().0);
            let back = back.expect("what came can go");
            prop_assert_eq!(read(&back), Ok(head));
        }
    }
}
