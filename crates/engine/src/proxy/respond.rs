//! Turns an error into the answer that a downstream gets. The only place where that happens.
//!
//! Decides what is said and in which language; how it is written is the connection's, whatever HTTP it speaks.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::json;

use crate::error::{Code, Error, Side};
use crate::message::{Fields, ResponseHead, Version};
use crate::snapshot::ErrorPages;

const HTML: &str = include_str!("respond.html");

/// An answer of our own, whole. What a connection adds is its length and whether more requests may follow.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, 200 to 599.
    pub status: u16,
    /// Its fields, without those that frame the body or speak of the connection.
    pub fields: Fields,
    /// The body, empty where the status has none.
    pub body: Bytes,
}

impl Answer {
    /// An answer without a body. `Answer { body, ..Answer::new(200) }` has one.
    pub fn new(status: u16) -> Self {
        Answer { status, fields: Fields::new(), body: Bytes::new() }
    }

    /// True for the statuses whose answers end with the head and announce no length.
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// What is sent as the body: nothing to HEAD.
    pub fn sent(&self, is_head: bool) -> &[u8] {
        if is_head || self.is_bodiless() { &[] } else { &self.body }
    }

    /// Its head, for a version that says nothing of the connection.
    pub fn head(&self) -> ResponseHead {
        let mut head = ResponseHead::new();
        head.fields = self.fields.clone();
        head.set(self.status, b"", Version::Http2);
        if !self.is_bodiless() {
            head.fields.push(b"Content-Length", itoa::Buffer::new().format(self.body.len()).as_bytes());
        }
        head
    }

    /// The whole message in HTTP/1.
    pub fn to_http1(&self, version: Version, keep_alive: bool, is_head: bool) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        for lines in self.fields.lines() {
            bytes.extend_from_slice(lines);
        }
        if !self.is_bodiless() {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(match (keep_alive, version) {
            (false, _) => b"Connection: close\r\n\r\n",
            (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
            (true, _) => b"\r\n",
        });
        bytes.extend_from_slice(self.sent(is_head));
        bytes
    }
}

/// The bodies of answers to errors: built in, or the user's.
#[derive(Debug, Default)]
pub struct Pages {
    html: Option<Template>,
    json: Option<Template>,
}

impl Pages {
    /// The pages of a snapshot.
    pub fn new(from: &ErrorPages) -> Self {
        Pages { html: from.html.as_deref().map(Template::new), json: from.json.as_deref().map(Template::new) }
    }

    /// The answer to an error: HTML for whoever prefers that, else `{"error": MESSAGE}` with a `detail` where there is
    /// one for whoever asks: where an upstream is, and what was wrong with it, is for the log. The shape is compat.md
    /// §1.3; `x-tidegate-error` and the request id are ours.
    pub fn answer(&self, error: &Error, status: u16, request_id: u64, prefers_html: bool) -> Answer {
        self.fill(&Says { error, status, request_id, openly: false }, prefers_html)
    }

    /// The same for a program that has named the upstream itself, so that what is wrong with it is for that program.
    pub fn explain(&self, error: &Error, status: u16, request_id: u64) -> Answer {
        self.fill(&Says { error, status, request_id, openly: true }, false)
    }

    fn fill(&self, says: &Says<'_>, prefers_html: bool) -> Answer {
        let Says { error, status, .. } = *says;
        let (kind, body): (&[u8], String) = match prefers_html {
            true => {
                let body = self.html.as_ref().map(|page| page.fill(says, escape_html));
                let body = body.unwrap_or_else(|| Template::new(HTML).fill(says, escape_html));
                (b"text/html; charset=utf-8", body)
            }
            false => {
                let body = self.json.as_ref().map(|page| page.fill(says, escape_json));
                (b"application/json", body.unwrap_or_else(|| says.json()))
            }
        };
        let mut fields = Fields::new();
        fields.push(b"Content-Type", kind);
        fields.push(b"X-Content-Type-Options", b"nosniff");
        fields.push(b"Cache-Control", b"no-store");
        fields.push(b"x-tidegate-error", error.code.as_str().as_bytes());
        fields.push(b"x-tidegate-request-id", says.id().as_bytes());
        for (name, value) in &error.fields {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        if error.code == Code::MethodNotSupported && fields.find("allow").is_none() {
            fields.push(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        }
        Answer { status, fields, body: body.into() }
    }
}

/// True where HTML is preferred to JSON; JSON is for everybody who is indifferent.
pub fn prefers_html<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut html, mut json) = (Preference::default(), Preference::default());
    for range in accept.flat_map(crate::message::tokens) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="))).map_or(1000, weight);
        match &kind[..] {
            b"text/html" => html.note(3, weight),
            b"text/*" => html.note(2, weight),
            b"application/json" => json.note(3, weight),
            b"application/*" => json.note(2, weight),
            b"*/*" => {
                html.note(1, weight);
                json.note(1, weight);
            }
            _ => {}
        }
    }
    (html.weight, html.exactness) > (json.weight, json.exactness) && html.weight > 0
}

/// How much a kind of body is wanted, by the range that names it most exactly.
#[derive(Default)]
struct Preference {
    exactness: u8,
    weight: u16,
}

impl Preference {
    fn note(&mut self, exactness: u8, weight: u16) {
        if exactness > self.exactness {
            *self = Preference { exactness, weight };
        }
    }
}

/// A weight of RFC 9110 §12.4.2 in thousandths; 0 for what is none.
fn weight(text: &[u8]) -> u16 {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f32>().ok());
    number.filter(|number| (0.0..=1.0).contains(number)).map_or(0, |number| (number * 1000.0) as u16)
}

/// What there is to say about an error.
struct Says<'a> {
    error: &'a Error,
    status: u16,
    request_id: u64,
    /// Whoever asks knows where the upstream is.
    openly: bool,
}

impl Says<'_> {
    fn id(&self) -> String {
        format!("{:016x}", self.request_id)
    }

    fn detail(&self) -> &str {
        if self.error.code.side() == Side::Upstream && !self.openly { "" } else { &self.error.detail }
    }

    fn json(&self) -> String {
        let body = match self.detail() {
            "" => json!({"error": self.error.code.message()}),
            detail => json!({"error": self.error.code.message(), "detail": detail}),
        };
        format!("{body}\n")
    }

    fn word(&self, placeholder: Placeholder) -> String {
        match placeholder {
            Placeholder::Status => self.status.to_string(),
            Placeholder::Reason => reason(self.status).to_owned(),
            Placeholder::Code => self.error.code.as_str().to_owned(),
            Placeholder::Message => self.error.code.message().to_owned(),
            Placeholder::Detail => self.detail().to_owned(),
            Placeholder::RequestId => self.id(),
        }
    }
}

/// What a page can have filled in.
#[derive(Clone, Copy, Debug)]
enum Placeholder {
    Status,
    Reason,
    Code,
    Message,
    Detail,
    RequestId,
}

const PLACEHOLDERS: [(&str, Placeholder); 6] = [
    ("{status}", Placeholder::Status),
    ("{reason}", Placeholder::Reason),
    ("{code}", Placeholder::Code),
    ("{message}", Placeholder::Message),
    ("{detail}", Placeholder::Detail),
    ("{request_id}", Placeholder::RequestId),
];

/// A page: text, and a placeholder behind each piece of it but the last.
#[derive(Debug)]
struct Template {
    pieces: Vec<(String, Placeholder)>,
    last: String,
}

impl Template {
    /// Other braces than those of a placeholder are text.
    fn new(page: &str) -> Self {
        let (mut pieces, mut piece, mut rest) = (Vec::new(), String::new(), page);
        while let Some(at) = rest.find('{') {
            piece.push_str(&rest[..at]);
            rest = &rest[at..];
            match PLACEHOLDERS.iter().find(|(text, _)| rest.starts_with(text)) {
                Some((text, placeholder)) => {
                    pieces.push((std::mem::take(&mut piece), *placeholder));
                    rest = &rest[text.len()..];
                }
                None => {
                    piece.push('{');
                    rest = &rest[1..];
                }
            }
        }
        piece.push_str(rest);
        Template { pieces, last: piece }
    }

    fn fill(&self, says: &Says<'_>, escape: fn(&str, &mut String)) -> String {
        let mut page = String::new();
        for (piece, placeholder) in &self.pieces {
            page.push_str(piece);
            escape(&says.word(*placeholder), &mut page);
        }
        page.push_str(&self.last);
        page
    }
}

fn escape_html(text: &str, page: &mut String) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            _ => page.push(character),
        }
    }
}

/// What may stand between the quotes of a JSON string.
fn escape_json(text: &str, page: &mut String) {
    let quoted = serde_json::Value::from(text).to_string();
    // Writing to a String cannot fail.
    let _ = page.write_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
}

/// The reason phrase of a status; empty for one that has no name.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        418 => "I'm a Teapot",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer, is_head: bool) -> String {
        String::from_utf8(answer.to_http1(Version::Http11, true, is_head)).expect("text")
    }

    #[test]
    fn an_answer_names_the_error_in_head_and_body() {
        let answer = Pages::default().answer(&Error::new(Code::NoUpstream, ""), 502, 0xab, false);
        let text = text(&answer, false);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
        assert!(head.contains("\r\nx-tidegate-error: no_upstream\r\nx-tidegate-request-id: 00000000000000ab"));
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));
        assert_eq!(body, "{\"error\":\"no available upstreams\"}\n");
    }

    #[test]
    fn no_answer_says_where_an_upstream_is() {
        let pages = Pages::new(&ErrorPages { html: Some("<p>{detail}</p>".to_owned()), json: None });
        for code in Code::ALL.iter().filter(|code| code.side() == Side::Upstream) {
            let error = Error::new(*code, "nothing listens on inside:1");
            let json = Pages::default().answer(&error, 502, 1, false);
            assert_eq!(json.body, format!("{{\"error\":\"{}\"}}\n", code.message()));
            assert_eq!(&pages.answer(&error, 502, 1, true).body[..], b"<p></p>");
        }
    }

    #[test]
    fn an_answer_to_head_has_the_length_and_no_body_and_204_has_neither() {
        let error = Error::new(Code::NoRoute, "");
        let whole = Pages::default().answer(&error, 404, 1, true);
        let (with, without) = (text(&whole, false), text(&whole, true));
        assert!(with.len() > without.len() && with.starts_with(&without) && without.ends_with("\r\n\r\n"));
        let nothing = text(&Answer { body: Bytes::from_static(b"x"), ..Answer::new(204) }, false);
        assert_eq!(nothing, "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_page_of_the_user_is_filled_in_and_escaped_for_its_language() {
        let error = Error::new(Code::NoUpstream, "<b>\"&'");
        let pages = Pages::new(&ErrorPages {
            html: Some("{<p>{detail}</p>{status}{nothing}{code}".to_owned()),
            json: Some("{\"d\": \"{detail}\", \"r\": \"{reason}\"}".to_owned()),
        });
        let html = pages.answer(&error, 404, 1, true);
        assert_eq!(&html.body[..], b"{<p>&lt;b&gt;&quot;&amp;&#39;</p>404{nothing}no_upstream");
        let json = pages.answer(&error, 404, 1, false);
        assert_eq!(&json.body[..], br#"{"d": "<b>\"&'", "r": "Not Found"}"#);
    }

    #[test]
    fn browsers_get_html_and_everybody_else_json() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html", true),
            ("TEXT/HTML;level=1 ; q=0.5, application/json;q=0.4", true),
            ("text/html, */*", true),
            ("text/*", true),
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("application/json, text/html", false),
            ("text/html;q=0.3, application/json", false),
            ("text/html;q=0", false),
            ("text/html;q=nan", false),
            ("text/html;q=7, */*", false),
            ("application/json, text/plain, */*", false),
            ("image/avif,image/webp,*/*;q=0.8", false),
        ] {
            assert_eq!(prefers_html([accept.as_bytes()].into_iter()), html, "{accept}");
        }
    }

    #[test]
    fn every_code_that_is_sent_has_a_reason_phrase() {
        for code in Code::ALL {
            assert!(code.status() == 499 || !reason(code.status()).is_empty(), "{code:?}");
        }
    }
}
