//! Turns an error into the answer that a downstream gets. The only place where that happens.

use serde_json::json;

use crate::error::{Code, Error};
use crate::message::Version;

/// An answer of our own, whole.
pub struct Answer {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// How many of them are the body.
    pub body: usize,
}

/// The whole answer: head and JSON body, `{"error": MESSAGE}` with a `detail` where there is one.
///
/// The shape is compat.md §1.3; `x-tidegate-error` and the request id are ours. A `head` answer has no body.
pub fn error(error: &Error, request_id: u64, version: Version, keep_alive: bool, head: bool) -> Answer {
    let body = match error.detail.is_empty() {
        true => json!({"error": error.code.message()}),
        false => json!({"error": error.code.message(), "detail": error.detail}),
    };
    let body = format!("{body}\n");
    let connection = match (keep_alive, version) {
        (false, _) => "Connection: close\r\n",
        (true, Version::Http10) => "Connection: keep-alive\r\n",
        (true, _) => "",
    };
    let allow = if error.code == Code::MethodNotSupported {
        "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    } else {
        ""
    };
    let sent = if head { "" } else { &body };
    let bytes = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Length: {length}\r\nx-tidegate-error: {code}\r\nx-tidegate-request-id: {request_id:016x}\r\n\
         {allow}{connection}\r\n{sent}",
        status = error.code.status(),
        reason = reason(error.code.status()),
        length = body.len(),
        code = error.code.as_str(),
    )
    .into_bytes();
    Answer { body: sent.len(), bytes }
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
        let bytes = error(&Error::new(Code::NoUpstream, ""), 0xab, Version::Http11, true, false);
        let text = String::from_utf8(bytes.bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
        assert!(head.contains("\r\nx-tidegate-error: no_upstream\r\nx-tidegate-request-id: 00000000000000ab"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert_eq!(body, "{\"error\":\"no available upstreams\"}\n");
    }

    #[test]
    fn every_code_that_is_sent_has_a_reason_phrase() {
        for code in Code::ALL {
            assert!(code.status() == 499 || !reason(code.status()).is_empty(), "{code:?}");
        }
    }
}
