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
