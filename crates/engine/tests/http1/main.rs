//! HTTP/1 as a peer meets it: what is accepted, what is refused, and that neither depends on how the bytes were cut.

mod body;
mod differential;
mod head;
mod headers;
mod splits;

use tidegate_engine::http1::framing::{Framing, request_framing, response_framing};
use tidegate_engine::http1::head::{HeadLimits, parse_request, parse_response};
use tidegate_engine::http1::refusal::HeadError;
use tidegate_engine::io::Buffer;
use tidegate_engine::message::{Fields, RequestHead, ResponseHead};

pub(crate) const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 100 };

/// The request that is `bytes`, whole.
pub(crate) fn request(bytes: &[u8]) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::new();
    match parse_request(bytes, &mut 0, &mut head, &LIMITS)? {
        Some(n) if n == bytes.len() => Ok(head),
        other => panic!("{} of {} bytes were taken", other.unwrap_or_default(), bytes.len()),
    }
}

/// The response that is `bytes`, whole.
pub(crate) fn response(bytes: &[u8]) -> Result<ResponseHead, HeadError> {
    let mut head = ResponseHead::new();
    match parse_response(bytes, &mut 0, &mut head, &LIMITS)? {
        Some(n) if n == bytes.len() => Ok(head),
        other => panic!("{} of {} bytes were taken", other.unwrap_or_default(), bytes.len()),
    }
}

/// The framing of a POST with these field lines.
pub(crate) fn framing_with(lines: &str) -> Result<Framing, HeadError> {
    request(format!("POST / HTTP/1.1\r\nHost: a.b\r\n{lines}\r\n").as_bytes()).and_then(|head| request_framing(&head))
}

/// The framing of an answer to `method` that starts with these lines.
pub(crate) fn answer_framing(method: &str, lines: &str) -> Result<Framing, HeadError> {
    response(format!("{lines}\r\n").as_bytes()).and_then(|head| response_framing(&head, method.as_bytes()))
}

/// Everything that `write` appends.
pub(crate) fn written(write: impl FnOnce(&mut Buffer)) -> Vec<u8> {
    let mut out = Buffer::new();
    write(&mut out);
    out.chunk().to_vec()
}

/// Names and values, to be compared and printed.
pub(crate) fn pairs(fields: &Fields) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (String::from_utf8_lossy(field.name).into_owned(), field.value.to_vec())).collect()
}

/// The fields as lines.
pub(crate) fn lines(fields: &Fields) -> Vec<String> {
    let line = |(name, value): (String, Vec<u8>)| format!("{name}: {}", String::from_utf8_lossy(&value));
    pairs(fields).into_iter().map(line).collect()
}
