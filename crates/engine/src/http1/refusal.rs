//! Why a message is refused, and the smallest rule of all: what a token is.

use std::fmt;

use crate::error::{Code, Error};

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It breaks RFC 9112 or can be read in two ways.
    Malformed(&'static str),
    /// It exceeds a limit.
    TooLarge(&'static str),
}

impl HeadError {
    /// What is wrong, for a person.
    pub fn detail(&self) -> &'static str {
        match self {
            HeadError::Malformed(detail) | HeadError::TooLarge(detail) => detail,
        }
    }

    /// The error of a downstream whose request is refused.
    pub fn of_request(self) -> Error {
        let code = match self {
            HeadError::TooLarge(_) => Code::HeadTooLarge,
            HeadError::Malformed(_) => Code::MalformedRequest,
        };
        Error::new(code, self.detail())
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for HeadError {}

/// True when `bytes` is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Which bytes a token is made of: looked up, not searched for, because every request's method and host go by here.
static TOKEN: [bool; 256] = bytes_of(b"!#$%&'*+-.^_`|~");

/// Letters, digits and `others`.
pub(crate) const fn bytes_of(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}
