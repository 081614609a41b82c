//! Finds the credential and the tenant that a head shows (compat.md §1.1).
//!
//! Names are compared as they are spelled, but for case: a field with an underscore is no credential.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Code, Error, Result};
use crate::message::{Fields, Known};
use crate::route::valid_name;

/// The longest credential that is looked at.
pub const MAX_CREDENTIAL: usize = 16 * 1024;

/// The longest name and password together.
const MAX_PASSWORD: usize = 1024;

/// A credential as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// What it is.
    pub credential: Credential<'a>,
    /// It stood in `Authorization`, which an upstream might see.
    pub in_authorization: bool,
}

/// Whom a credential is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A gateway in the place of the service: `x-tidegate-authorization`, `x-piko-authorization`, `Authorization`.
    ToService,
    /// A proxy: `Proxy-Authorization`, and nothing else.
    ToProxy,
}

/// What vouches for somebody.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A bearer token.
    Token(&'a str),
    /// A name and a password.
    Password {
        /// The name.
        user: Cow<'a, str>,
        /// The password.
        password: Cow<'a, str>,
    },
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Token(_) => "Token(***)",
            Credential::Password { .. } => "Password(***)",
        })
    }
}

/// The credential of a head that is shown to us in this way; none where there is none.
///
/// # Errors
/// 400 where the same field stands there twice, 401 for what cannot be read or is of another kind.
pub fn find(fields: &Fields, by: Shows) -> Result<Option<Shown<'_>>> {
    let mut found: [Option<&[u8]>; 3] = [None; 3];
    for field in fields.iter() {
        let place = match (by, field.known) {
            (Shows::ToProxy, Known::ProxyAuthorization) => 0,
            (Shows::ToProxy, _) => continue,
            (_, Known::XTidegate) if field.name.eq_ignore_ascii_case(b"x-tidegate-authorization") => 0,
            (_, Known::XPiko) if field.name.eq_ignore_ascii_case(b"x-piko-authorization") => 1,
            (_, Known::Authorization) => 2,
            _ => continue,
        };
        if found[place].replace(field.value).is_some() {
            return Err(Error::new(Code::MalformedRequest, "a credential stands there twice"));
        }
    }
    let Some(place) = found.iter().position(Option::is_some) else { return Ok(None) };
    let credential = read(found[place].unwrap_or_default())?;
    Ok(Some(Shown { credential, in_authorization: place == 2 }))
}

fn read(value: &[u8]) -> Result<Credential<'_>> {
    let unreadable = |detail: &'static str| Error::new(Code::InvalidAuthorization, detail);
    if value.len() > MAX_CREDENTIAL {
        return Err(unreadable("it is longer than 16 KiB"));
    }
    let value = std::str::from_utf8(value).map_err(|_| unreadable("it is no text"))?;
    let (scheme, rest) = value.split_once(' ').ok_or_else(|| unreadable("it is not `Bearer TOKEN`"))?;
    let rest = rest.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        // RFC 6750 §2.1; a comma would be a list of credentials.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if rest.is_empty() || !rest.bytes().all(fits) {
            return Err(unreadable("the token has characters that no token has"));
        }
        return Ok(Credential::Token(rest));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Error::new(Code::UnsupportedAuthType, ""));
    }
    let decoded = STANDARD.decode(rest).map_err(|_| unreadable("name and password are no base64"))?;
    let decoded = String::from_utf8(decoded).map_err(|_| unreadable("name and password are no UTF-8"))?;
    let (user, password) = decoded.split_once(':').ok_or_else(|| unreadable("no `:` between name and password"))?;
    if decoded.len() > MAX_PASSWORD || decoded.chars().any(char::is_control) {
        return Err(unreadable("name or password is too long, or holds control characters"));
    }
    Ok(Credential::Password { user: user.to_owned().into(), password: password.to_owned().into() })
}

/// The tenant that a head asks for; none where it asks for none.
///
/// # Errors
/// 400 where it asks for two, 401 for what is no tenant's name.
pub fn tenant(fields: &Fields) -> Result<Option<&str>> {
    let mut found: [Option<&[u8]>; 2] = [None; 2];
    for field in fields.iter() {
        let place = match field.known {
            Known::XTidegate if field.name.eq_ignore_ascii_case(b"x-tidegate-tenant-id") => 0,
            Known::XPiko if field.name.eq_ignore_ascii_case(b"x-piko-tenant-id") => 1,
            _ => continue,
        };
        if found[place].replace(field.value).is_some() {
            return Err(Error::new(Code::MalformedRequest, "the tenant stands there twice"));
        }
    }
    let tenant = match found {
        [Some(ours), Some(theirs)] if ours != theirs => {
            return Err(Error::new(Code::MalformedRequest, "two different tenants"));
        }
        [Some(tenant), _] | [None, Some(tenant)] => tenant,
        [None, None] => return Ok(None),
    };
    valid_name(tenant).map(Some).ok_or_else(|| Error::new(Code::UnknownTenant, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn told(list: &[(&str, &str)]) -> Result<Option<(String, bool)>, Code> {
        let fields = fields(list);
        let shown = find(&fields, Shows::ToService).map_err(|error| error.code)?;
        Ok(shown.map(|shown| {
            let text = match shown.credential {
                Credential::Token(token) => token.to_owned(),
                Credential::Password { user, password } => format!("{user}/{password}"),
            };
            (text, shown.in_authorization)
        }))
    }

    #[test]
    fn ours_goes_before_pikos_and_pikos_before_authorization() {
        let all = [
            ("Authorization", "Bearer a"),
            ("x-piko-authorization", "bearer b"),
            ("X-Tidegate-Authorization", "BEARER c"),
        ];
        assert_eq!(told(&all), Ok(Some(("c".into(), false))));
        assert_eq!(told(&all[..2]), Ok(Some(("b".into(), false))));
        assert_eq!(told(&all[..1]), Ok(Some(("a".into(), true))));
        assert_eq!(told(&[("x_piko_authorization", "Bearer a"), ("Cookie", "a")]), Ok(None));
    }

    #[test]
    fn a_proxy_is_shown_one_field_and_no_other_is_for_it() {
        let all = [("Authorization", "Bearer a"), ("x-tidegate-authorization", "Bearer b")];
        assert!(find(&fields(&all), Shows::ToProxy).expect("read").is_none());
        let own = [("Proxy-Authorization", "Bearer c"), all[0]];
        let shown_to =
            |by| find(&fields(&own), by).expect("read").expect("shown").credential.clone() == Credential::Token("c");
        assert!(shown_to(Shows::ToProxy) && !shown_to(Shows::ToService));
        assert!(find(&fields(&[own[0], own[0]]), Shows::ToProxy).is_err());
    }

    #[test]
    fn case_36_the_same_field_twice_is_malformed_whatever_it_says() {
        for name in ["Authorization", "x-piko-authorization", "x-tidegate-authorization"] {
            assert_eq!(told(&[(name, "Bearer a"), (name, "Bearer a")]), Err(Code::MalformedRequest), "{name}");
        }
        let twice = [("x-piko-authorization", "Bearer a"), ("authorization", "x y"), ("AUTHORIZATION", "x y")];
        assert_eq!(told(&twice), Err(Code::MalformedRequest));
    }

    #[test]
    fn what_cannot_be_read_is_told_apart_from_what_is_not_taken() {
        for (value, expected) in [
            ("Bearer", Code::InvalidAuthorization),
            ("Bearer ", Code::InvalidAuthorization),
            ("abc", Code::InvalidAuthorization),
            ("", Code::InvalidAuthorization),
            ("Bearer a b", Code::InvalidAuthorization),
            ("Bearer a,b", Code::InvalidAuthorization),
            ("Bearer\ta", Code::InvalidAuthorization),
            ("Basic !", Code::InvalidAuthorization),
            ("Basic YWJj", Code::InvalidAuthorization),
            ("Basic YToKYg==", Code::InvalidAuthorization),
            ("Digest a", Code::UnsupportedAuthType),
            ("Negotiate a", Code::UnsupportedAuthType),
        ] {
            assert_eq!(told(&[("Authorization", value)]), Err(expected), "{value}");
        }
        assert_eq!(told(&[("Authorization", "basic YTpiOmM=")]), Ok(Some(("a/b:c".into(), true))));
        let long = format!("Bearer {}", ".".repeat(1 << 20));
        assert_eq!(told(&[("Authorization", &long)]), Err(Code::InvalidAuthorization));
    }

    #[test]
    fn a_tenant_is_named_once_and_like_a_name() {
        let ask = |list: &[(&str, &str)]| tenant(&fields(list)).map(|name| name.map(str::to_owned)).map_err(|e| e.code);
        let (ours, theirs) = ("x-tidegate-tenant-id", "X-Piko-Tenant-Id");
        assert_eq!(ask(&[]), Ok(None));
        assert_eq!(ask(&[(theirs, "acme")]), Ok(Some("acme".into())));
        assert_eq!(ask(&[(ours, "acme"), (theirs, "acme")]), Ok(Some("acme".into())));
        assert_eq!(ask(&[(ours, "acme"), (theirs, "Acme")]), Err(Code::MalformedRequest));
        assert_eq!(ask(&[(ours, "acme"), (ours, "acme")]), Err(Code::MalformedRequest));
        for odd in ["", "a/b", "a%2eb", "a b"] {
            assert_eq!(ask(&[(ours, odd)]), Err(Code::UnknownTenant), "{odd}");
        }
    }
}
