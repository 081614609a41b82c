//! Turns an error into the answer that a downstream gets. The only place where that happens.

use serde_json::json;

use crate::error::{Code, Error};
use crate::message::{ResponseHead, Version};

/// An answer of our own, whole.
pub struct Answer {
    /// Its head, with everything that says how it is sent.
    pub head: ResponseHead,
    /// Its body; empty where it answers HEAD.
    pub body: Vec<u8>,
}

/// The whole answer: head and JSON body, `{"error": MESSAGE}` with a `detail` where there is one.
///
/// The shape is compat.md §1.3; `x-tidegate-error` and the request id are ours. A `head` answer has no body.
pub fn error(error: &Error, request_id: u64, version: Version, keep_alive: bool, head: bool) -> Answer {
    let body = match error.detail.is_empty() {
        true => json!({"error": error.code.message()}),
        false => json!({"error": error.code.message(), "detail": error.detail}),
    };
    let mut body = format!("{body}\n").into_bytes();
    let mut answer = ResponseHead::new();
    let status = error.code.status();
    answer.set(status, reason(status).as_bytes(), Version::Http11);
    let fields = &mut answer.fields;
    fields.push(b"Content-Type", b"application/json");
    fields.push(b"X-Content-Type-Options", b"nosniff");
    fields.push(b"Content-Length", itoa::Buffer::new().format(body.len()).as_bytes());
    fields.push(b"x-tidegate-error", error.code.as_str().as_bytes());
    fields.push(b"x-tidegate-request-id", format!("{request_id:016x}").as_bytes());
    if error.code == Code::MethodNotSupported {
        fields.push(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    match (keep_alive, version) {
        (_, Version::Http2) | (true, Version::Http11) => {}
        (false, _) => fields.push(b"Connection", b"close"),
        (true, Version::Http10) => fields.push(b"Connection", b"keep-alive"),
    }
    if head {
        body.clear();
    }
    Answer { head: answer, body }
}

/// The reason phrase of the statuses that we send.
pub fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_error_in_head_and_body() {
        let answer = error(&Error::new(Code::NoUpstream, ""), 0xab, Version::Http11, true, false);
        assert_eq!((answer.head.status, answer.head.reason()), (502, &b"Bad Gateway"[..]));
        let field = |name: &str| answer.head.fields.find(name).unwrap_or_default();
        assert_eq!(field("x-tidegate-error"), b"no_upstream");
        assert_eq!(field("x-tidegate-request-id"), b"00000000000000ab");
        assert_eq!(field("content-length"), answer.body.len().to_string().as_bytes());
        assert_eq!(answer.body, b"{\"error\":\"no available upstreams\"}\n");
    }

    #[test]
    fn every_code_that_is_sent_has_a_reason_phrase() {
        for code in Code::ALL {
            assert!(code.status() == 499 || !reason(code.status()).is_empty(), "{code:?}");
        }
    }
}
