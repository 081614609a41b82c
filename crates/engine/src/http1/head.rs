//! Heads of HTTP/1 messages: found, checked, parsed and written.
//!
//! A head is searched for its end first, each byte once however it drips in, and parsed when it is whole. A parsed
//! request has one valid Host (none is possible in HTTP/1.0) and a target in origin form, whatever form it came in.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::refusal::HeadError::{self, Malformed, TooLarge};
use super::refusal::is_token;
use super::target;
use crate::io::Buffer;
use crate::message::{Fields, Known, RequestHead, ResponseHead, Version, tokens};

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes, from the first of the first line to the end of the empty line.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// Empty lines that are passed over before a request (RFC 9112 §2.2); old clients send one after a POST.
const LEADING_LINES: usize = 4;

/// Of an unfinished head so much of the first line is looked at: longer than any method, and bounded.
const FIRST_LOOK: usize = 64;

/// Names in Connection, all its fields together: each costs a comparison with every field of the head.
const CONNECTION_NAMES: usize = 32;

/// Fields that are parsed without allocating: more than `limits.head_fields` is by itself.
const FIELDS_ON_STACK: usize = 256;

/// Parses the request at the start of `input` and says how many bytes it takes; `None`: more are needed.
///
/// `scanned` is 0 for a new request and kept between calls for the same one.
pub fn parse_request(
    input: &[u8],
    scanned: &mut usize,
    head: &mut RequestHead,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    let mut start = 0;
    while input[start..].starts_with(b"\r\n") {
        start += 2;
        if start > 2 * LEADING_LINES {
            return Err(Malformed("too many empty lines before the request"));
        }
    }
    let Some(end) = find_end(input, start, scanned, limits, is_method_start)? else { return Ok(None) };
    head.clear();
    let mut config = ParserConfig::default();
    config.allow_multiple_spaces_in_request_line_delimiters(false);
    with_room(limits.fields, |room| {
        let mut parsed = httparse::Request::new(&mut []);
        let status = config.parse_request_with_uninit_headers(&mut parsed, &input[start..end], room);
        whole(status, end - start)?;
        let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return Err(NOT_HTTP) };
        head.set(method.as_bytes(), path.as_bytes(), version(parsed.version)?);
        take_fields(parsed.headers, &mut head.fields)
    })?;
    target::normalise(head)?;
    *scanned = 0;
    Ok(Some(end))
}

/// The same for a response.
pub fn parse_response(
    input: &[u8],
    scanned: &mut usize,
    head: &mut ResponseHead,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    let Some(end) = find_end(input, 0, scanned, limits, is_version_start)? else { return Ok(None) };
    head.clear();
    let config = ParserConfig::default();
    with_room(limits.fields, |room| {
        let mut parsed = httparse::Response::new(&mut []);
        let status = config.parse_response_with_uninit_headers(&mut parsed, &input[..end], room);
        whole(status, end)?;
        let status = parsed.code.filter(|code| *code >= 100).ok_or(Malformed("a status below 100"))?;
        head.set(status, parsed.reason.unwrap_or_default().as_bytes(), version(parsed.version)?);
        take_fields(parsed.headers, &mut head.fields)
    })?;
    *scanned = 0;
    Ok(Some(end))
}

/// Parses trailer fields: `input` starts behind the last chunk and ends with an empty line or is incomplete.
pub(super) fn parse_trailers(
    input: &[u8],
    scanned: &mut usize,
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    let Some(end) = find_end(input, 0, scanned, limits, |_| true)? else { return Ok(None) };
    let mut room = vec![httparse::EMPTY_HEADER; limits.fields];
    match httparse::parse_headers(&input[..end], &mut room).map_err(refusal)? {
        Status::Complete((n, headers)) if n == end => take_fields(headers, fields)?,
        _ => return Err(Malformed("trailer fields that end early")),
    }
    *scanned = 0;
    Ok(Some(end))
}

const NOT_HTTP: HeadError = Malformed("not an HTTP/1 message");

/// Finds the end of a head that begins at `start`, and refuses NUL, CR and LF where only CRLF may stand.
fn find_end(
    input: &[u8],
    start: usize,
    scanned: &mut usize,
    limits: &HeadLimits,
    plausible: fn(&[u8]) -> bool,
) -> Result<Option<usize>, HeadError> {
    let window = &input[..input.len().min(start.saturating_add(limits.bytes))];
    let mut at = start.max(*scanned);
    while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, window.get(at..).unwrap_or_default()) {
        at += found;
        match (window[at], window.get(at + 1)) {
            (b'\r', Some(b'\n')) if window[start..at].ends_with(b"\r\n") => return Ok(Some(at + 2)),
            (b'\r', Some(b'\n')) if at == start && !plausible(b"\r") => return Err(NOT_HTTP),
            // No first line: the empty end of a trailer section.
            (b'\r', Some(b'\n')) if at == start => return Ok(Some(at + 2)),
            (b'\r', Some(b'\n')) => at += 2,
            (b'\r', None) => break,
            (b'\r', _) => return Err(Malformed("a CR without LF in the head")),
            (b'\n', _) => return Err(Malformed("a LF without CR in the head")),
            _ => return Err(Malformed("a NUL byte in the head")),
        }
    }
    let first = &window[start..];
    if !plausible(&first[..first.len().min(FIRST_LOOK)]) {
        return Err(NOT_HTTP);
    }
    if input.len() - start >= limits.bytes {
        return Err(TooLarge("the head has too many bytes"));
    }
    // A last CR waits for its LF.
    *scanned = if window.ends_with(b"\r") { window.len() - 1 } else { window.len() };
    Ok(None)
}

fn is_method_start(bytes: &[u8]) -> bool {
    let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    let more = method.len() == bytes.len();
    // An unfinished line may be a lone CR: the first half of an empty one.
    (!method.is_empty() || more) && (is_token(method) || bytes == b"\r" || bytes.is_empty())
}

fn is_version_start(bytes: &[u8]) -> bool {
    let n = bytes.len().min(7);
    bytes[..n] == b"HTTP/1."[..n]
}

/// Calls `parse` with room for `fields` fields.
fn with_room<'b, T>(fields: usize, parse: impl FnOnce(&mut [MaybeUninit<Header<'b>>]) -> T) -> T {
    if fields <= FIELDS_ON_STACK {
        parse(&mut [const { MaybeUninit::uninit() }; FIELDS_ON_STACK][..fields])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); fields])
    }
}

fn whole(outcome: httparse::Result<usize>, length: usize) -> Result<(), HeadError> {
    match outcome.map_err(refusal)? {
        Status::Complete(n) if n == length => Ok(()),
        _ => Err(NOT_HTTP),
    }
}

fn refusal(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => Malformed("an invalid field name"),
        httparse::Error::HeaderValue => Malformed("an invalid field value"),
        httparse::Error::NewLine => Malformed("an invalid line end"),
        httparse::Error::Status => Malformed("an invalid status line"),
        httparse::Error::Token => Malformed("an invalid request line"),
        httparse::Error::TooManyHeaders => TooLarge("the head has too many fields"),
        httparse::Error::Version => Malformed("not HTTP/1.0 or HTTP/1.1"),
    }
}

fn version(minor: Option<u8>) -> Result<Version, HeadError> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(NOT_HTTP),
    }
}

fn take_fields(headers: &[Header<'_>], fields: &mut Fields) -> Result<(), HeadError> {
    for header in headers {
        if header.name.is_empty() {
            return Err(Malformed("an empty field name"));
        }
        fields.push(header.name.as_bytes(), header.value.trim_ascii());
    }
    let names = fields.all(Known::Connection).flat_map(tokens);
    if names.take(CONNECTION_NAMES + 1).count() > CONNECTION_NAMES {
        return Err(TooLarge("Connection names too many fields"));
    }
    Ok(())
}

/// Writes a request of ours: always HTTP/1.1, whatever version it came with.
pub fn write_request(head: &RequestHead, out: &mut Buffer) {
    out.extend(head.method());
    out.extend(b" ");
    out.extend(head.target());
    out.extend(b" HTTP/1.1\r\n");
    write_fields(&head.fields, out);
}

/// Writes a response of ours: always HTTP/1.1 (RFC 9110 §6.2), whatever version the request had.
pub fn write_response(head: &ResponseHead, out: &mut Buffer) {
    out.extend(b"HTTP/1.1 ");
    out.extend(itoa::Buffer::new().format(head.status).as_bytes());
    out.extend(b" ");
    out.extend(head.reason());
    out.extend(b"\r\n");
    write_fields(&head.fields, out);
}

/// Writes fields and the empty line behind them.
pub(super) fn write_fields(fields: &Fields, out: &mut Buffer) {
    for lines in fields.lines() {
        out.extend(lines);
    }
    out.extend(b"\r\n");
}
