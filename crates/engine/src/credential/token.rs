//! Looks at the shape of a JWT (RFC 7519) and refuses what nobody needs to be asked about.
//!
//! Never more than that: what passes here may be forged. What is refused here was never worth the question.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::head::MAX_CREDENTIAL;
use crate::error::{Code, Error, Result};
use crate::snapshot::auth::VerifierSet;

/// The largest point in time that is one: every number below is exact in JSON.
const MAX_TIME: f64 = 9_007_199_254_740_992.0;

/// Refuses a token that cannot be good under `set` at `now`, in seconds since 1970.
///
/// # Errors
/// `expired_token` where that is all that is wrong with it, else `invalid_token`.
pub fn check(token: &str, set: &VerifierSet, now: f64) -> Result<()> {
    let invalid = |detail: &'static str| Error::new(Code::InvalidToken, detail);
    if token.len() > MAX_CREDENTIAL {
        return Err(invalid("it is longer than 16 KiB"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid("it has not three parts"));
    };
    if URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err(invalid("its signature is no base64url"));
    }
    let header = members(header, &["alg", "crit"]).ok_or_else(|| invalid("its header cannot be read"))?;
    let [algorithm, critical] = &header[..] else { return Err(invalid("")) };
    if critical.is_some() {
        return Err(invalid("its header has `crit`"));
    }
    match algorithm {
        Some(Value::Text(algorithm)) if set.algorithms.iter().any(|known| known == algorithm) => {}
        _ => return Err(invalid("its algorithm is not accepted")),
    }
    let claims = members(claims, &["exp", "nbf", "iat"]).ok_or_else(|| invalid("its claims cannot be read"))?;
    let time = |claim: &Option<Value>| match claim {
        None => Ok(None),
        Some(Value::Number(seconds)) if (0.0..=MAX_TIME).contains(seconds) => Ok(Some(seconds.trunc())),
        Some(_) => Err(invalid("exp, nbf or iat is no point in time")),
    };
    let mut times = claims.iter().map(time).collect::<Result<Vec<_>>>()?.into_iter();
    match times.next().flatten() {
        None if set.require_expiry => Err(invalid("it has no `exp`")),
        Some(expires) if expires + set.leeway <= now => Err(Error::new(Code::ExpiredToken, "")),
        _ => Ok(()),
    }
}

/// A member's value, as far as anybody here cares.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Number(f64),
    Other,
}

/// The members of these names of an object in base64url; none where it is no object, or one in which some member stands
/// twice, on whatever level: readers differ about which of the two counts.
fn members(part: &str, names: &[&str]) -> Option<Vec<Option<Value>>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    let mut found = vec![None; names.len()];
    let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
    deserializer.deserialize_map(Top { names, found: &mut found }).ok()?;
    deserializer.end().ok()?;
    Some(found)
}

struct Top<'a> {
    names: &'a [&'a str],
    found: &'a mut Vec<Option<Value>>,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Seen::default();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Any)?;
            if let Some(place) = self.names.iter().position(|name| *name == key) {
                self.found[place] = Some(value);
            }
            seen.first(key)?;
        }
        Ok(())
    }
}

/// Names of members that were there already.
#[derive(Default)]
struct Seen(std::collections::HashSet<String>);

impl Seen {
    fn first<E: de::Error>(&mut self, key: String) -> Result<(), E> {
        if self.0.insert(key) { Ok(()) } else { Err(E::custom("a member stands there twice")) }
    }
}

/// Reads any value and remembers it only where it is plain.
#[derive(Clone, Copy)]
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element_seed(Any)?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut seen = Seen::default();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Any)?;
            seen.first(key)?;
        }
        Ok(Value::Other)
    }
}
