//! What can go wrong, on whose side, and whether it may be tried again.
//!
//! One table: the code that logs, metrics and `x-tidegate-error` show, the status a downstream gets, and the words.
//! Turning an error into bytes is `proxy::respond`.

use std::borrow::Cow;
use std::fmt;

/// Whose side an error is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who connected to us.
    Downstream,
    /// Where we were sending.
    Upstream,
    /// Ourselves: routing, limits, draining.
    Gateway,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $side:ident, $status:literal, $message:literal;)+) => {
        /// The one list of error codes. `docs/reference/errors.md` is generated from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every code, in the order of the list.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The code as logs, metrics and `x-tidegate-error` show it.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// Whose side it is on.
            pub fn side(self) -> Side {
                match self { $(Code::$name => Side::$side,)+ }
            }

            /// The HTTP status a downstream gets; 499 is never sent, it stands in the access log.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)+ }
            }

            /// The `error` member of the answer (compat.md §1.3 where the predecessor had the same case).
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message,)+ }
            }

            /// What it means, for the reference.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

codes! {
    /// The request breaks RFC 9112 or is ambiguous, or a PROXY header is missing or malformed; nothing was sent on.
    MalformedRequest = "malformed_request", Downstream, 400, "malformed request";
    /// The request's head is larger than `limits.head_bytes` or has too many fields.
    HeadTooLarge = "head_too_large", Downstream, 431, "request head too large";
    /// The head did not arrive within `timeouts.head`, or no byte of the body for `timeouts.idle`.
    DownstreamTimeout = "downstream_timeout", Downstream, 408, "request timeout";
    /// The downstream left, or read no byte of the answer for `timeouts.idle`.
    DownstreamClosed = "downstream_closed", Downstream, 499, "downstream closed";
    /// The request names no endpoint.
    MissingEndpoint = "missing_endpoint", Downstream, 400, "missing endpoint id";
    /// The request names two different endpoints, or one that is no valid name.
    InvalidEndpoint = "invalid_endpoint", Downstream, 400, "invalid endpoint id";
    /// CONNECT, or a protocol upgrade this listener does not serve.
    MethodNotSupported = "method_not_supported", Downstream, 405, "method not supported";
    /// HTTP without TLS came to a port that speaks TLS: ask `https://`.
    TlsExpected = "tls_expected", Downstream, 400, "this port speaks TLS";
    /// The host has a certificate or route of its own: the request came by a TLS connection for another name. Or what
    /// the listener asks of connections has changed since this one was let in.
    Misdirected = "misdirected", Downstream, 421, "misdirected request";
    /// No credential was shown where one is needed.
    MissingAuthorization = "missing_authorization", Downstream, 401, "missing authorization";
    /// The credential cannot be read, is longer than 16 KiB, or is a wrong name or password.
    InvalidAuthorization = "invalid_authorization", Downstream, 401, "invalid authorization";
    /// A credential of a kind that is not taken here.
    UnsupportedAuthType = "unsupported_auth_type", Downstream, 401, "unsupported auth type";
    /// The token is not good here.
    InvalidToken = "invalid_token", Downstream, 401, "invalid token";
    /// The token was good and its time is over; what it had opened ends.
    ExpiredToken = "expired_token", Downstream, 401, "expired token";
    /// The tenant that is asked for is not known, or not that of the credential.
    UnknownTenant = "unknown_tenant", Downstream, 401, "unknown tenant";
    /// The credential is good, but not for this endpoint.
    EndpointNotPermitted = "endpoint_not_permitted", Downstream, 401, "endpoint not permitted";
    /// The address is denied, or not among those that are allowed.
    AddressDenied = "address_denied", Downstream, 403, "not from this address";
    /// More than a limit of the token or tenant allows.
    TooMany = "too_many", Downstream, 429, "too many";
    /// Whoever checks credentials gives no answer, for want of a key or of time.
    CredentialsUnavailable = "credentials_unavailable", Gateway, 503, "credentials cannot be checked now";
    /// No route matches, or a reserved path that is not served.
    NoRoute = "no_route", Gateway, 404, "no route";
    /// Nobody offers the endpoint, or this listener does not permit it.
    NoUpstream = "no_upstream", Gateway, 502, "no available upstreams";
    /// The upstream could not be reached: nothing was delivered.
    UpstreamUnreachable = "upstream_unreachable", Upstream, 502, "upstream unreachable";
    /// The upstream's response did not begin within `timeouts.response`, or then no byte moved for `timeouts.idle`.
    UpstreamTimeout = "upstream_timeout", Upstream, 504, "upstream timeout";
    /// The upstream closed before its response was whole.
    UpstreamClosed = "upstream_closed", Upstream, 502, "upstream closed the connection";
    /// The upstream's response breaks RFC 9112.
    UpstreamMalformed = "upstream_malformed", Upstream, 502, "upstream sent a malformed response";
    /// More than a limit of this gateway allows.
    Overload = "overload", Gateway, 503, "overloaded";
    /// The gateway is leaving.
    Draining = "draining", Gateway, 503, "draining";
}

/// An error on the way of a request or stream.
#[derive(Clone, Debug)]
pub struct Error {
    /// What it is.
    pub code: Code,
    /// True when it is certain that no byte of the request was acted upon by an upstream: it may be tried elsewhere.
    pub undelivered: bool,
    /// What a person needs besides the code; never a secret, never raw bytes of a peer.
    pub detail: Cow<'static, str>,
    /// Fields that the answer has because of it: what to show instead, when to come again.
    pub fields: Vec<(&'static str, String)>,
}

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of which nothing says that it may be tried again.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Error { code, undelivered: false, detail: detail.into(), fields: Vec::new() }
    }

    /// The same, where non-delivery is certain.
    pub fn undelivered(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Error { code, undelivered: true, detail: detail.into(), fields: Vec::new() }
    }

    /// The same, with a field in its answer.
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.fields.push((name, value));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.code.message())
        } else {
            write!(f, "{}: {}", self.code.message(), self.detail)
        }
    }
}

impl std::error::Error for Error {}
