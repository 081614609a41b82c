//! Where the body of a message ends, and whether its connection may carry another (RFC 9112 §6 and §9.3).
//!
//! One rule more than the RFC has: whatever two readers could understand differently is refused, also where the RFC
//! would let a recipient repair it.

use super::refusal::HeadError::{self, Malformed};
use crate::message::{Fields, Known, RequestHead, ResponseHead, Version, tokens};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By a last chunk, or by what HTTP/2 has instead; trailers may follow.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Framing {
    /// The framing with which a body that came like this is sent on to a downstream of `version`.
    pub fn towards(self, version: Version) -> Framing {
        match (self, version) {
            // A body whose end was only a close gets an end that cannot be mistaken for a broken connection.
            (Framing::UntilClose, Version::Http11 | Version::Http2) => Framing::Chunked,
            (Framing::Chunked, Version::Http10) => Framing::UntilClose,
            _ => self,
        }
    }

    /// Makes the fields say this framing, and nothing else about it. `None` leaves a Content-Length: of an answer to
    /// HEAD and of a 304 it describes the body that was not sent.
    pub fn announce(self, fields: &mut Fields) {
        let mut length = itoa::Buffer::new();
        let length = match self {
            Framing::Length(n) => length.format(n).as_bytes(),
            _ => b"",
        };
        let speaks = |known| matches!(known, Known::ContentLength | Known::TransferEncoding | Known::Trailer);
        let mut said = fields.of(speaks);
        // Mostly they say just this, or say nothing where there is nothing to say.
        match (self, said.next(), said.next()) {
            (Framing::None | Framing::UntilClose, None, _) => return,
            (Framing::Length(_), Some(one), None) if one.known == Known::ContentLength && one.value == length => return,
            _ => drop(said),
        }
        let mut announced = false;
        fields.retain(|field| match (field.known, self) {
            (Known::ContentLength, Framing::None) => true,
            (Known::ContentLength, Framing::Length(_)) => {
                let keep = !announced && field.value == length;
                announced |= keep;
                keep
            }
            (Known::TransferEncoding, Framing::Chunked) => !std::mem::replace(&mut announced, true),
            (Known::Trailer, Framing::Chunked) => true,
            (Known::ContentLength | Known::TransferEncoding | Known::Trailer, _) => false,
            _ => true,
        });
        match self {
            Framing::Length(_) if !announced => fields.push(b"Content-Length", length),
            Framing::Chunked if !announced => fields.push(b"Transfer-Encoding", b"chunked"),
            _ => {}
        }
    }
}

/// How the body of a request ends.
pub fn request_framing(head: &RequestHead) -> Result<Framing, HeadError> {
    Ok(declared(&head.fields, head.version)?.unwrap_or(Framing::None))
}

/// How the body of a response to a request with this method ends.
pub fn response_framing(head: &ResponseHead, request_method: &[u8]) -> Result<Framing, HeadError> {
    let declared = declared(&head.fields, head.version)?;
    let bodiless = match head.status {
        100..=199 | 204 | 304 => true,
        200..=299 => request_method == b"CONNECT" || request_method == b"HEAD",
        _ => request_method == b"HEAD",
    };
    if bodiless {
        return Ok(Framing::None);
    }
    Ok(declared.unwrap_or(match head.version {
        Version::Http2 => Framing::Chunked,
        Version::Http10 | Version::Http11 => Framing::UntilClose,
    }))
}

fn declared(fields: &Fields, version: Version) -> Result<Option<Framing>, HeadError> {
    let mut lengths = fields.all(Known::ContentLength);
    let mut codings = fields.all(Known::TransferEncoding);
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed("both Content-Length and Transfer-Encoding")),
        (Some(length), None) => {
            // Two that agree are refused too: nobody honest needs them, and hops differ on which they read.
            if lengths.next().is_some() {
                return Err(Malformed("more than one Content-Length"));
            }
            decimal(length).map(|n| Some(Framing::Length(n))).ok_or(Malformed("an invalid Content-Length"))
        }
        (None, Some(coding)) => {
            if version == Version::Http10 {
                return Err(Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("a Transfer-Encoding other than chunked"));
            }
            Ok(Some(Framing::Chunked))
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// True when the downstream wants to use the connection again after this request.
pub fn keeps_alive_request(head: &RequestHead) -> bool {
    keeps_alive(&head.fields, head.version)
}

/// True when the upstream lets the connection be used again after this response.
pub fn keeps_alive_response(head: &ResponseHead, framing: Framing) -> bool {
    framing != Framing::UntilClose && head.status != 101 && keeps_alive(&head.fields, head.version)
}

fn keeps_alive(fields: &Fields, version: Version) -> bool {
    let says =
        |wanted: &[u8]| fields.all(Known::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(wanted));
    !says(b"close") && (version != Version::Http10 || says(b"keep-alive"))
}
