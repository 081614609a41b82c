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
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}
