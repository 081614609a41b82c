//! Who may offer and who may reach, as far as the engine needs to know: never how a credential is verified.
//!
//! The id of a verifier set, user list or certificate rule is `MEMBER,...;REST`, and that of a key `MEMBER/KEY`. An id
//! changes with everything that decides about a credential except its keys, so that a verdict under an old id is worth
//! nothing; what it has opened ends when no id has the key's member any more.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// What a token has to look like before anybody is asked about it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct VerifierSet {
    /// What questions and policies call it.
    pub id: String,
    /// Values of `alg` that are accepted, spelled exactly so.
    pub algorithms: Vec<String>,
    /// A token without `exp` is refused.
    pub require_expiry: bool,
    /// Seconds that clocks may differ.
    #[serde(default)]
    pub leeway: f64,
}

/// What one token, or all tokens of a tenant together, may have. None: as much as there is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Allowed {
    /// Sessions of agents at once.
    pub sessions: Option<u64>,
    /// Requests and byte streams at once.
    pub streams: Option<u64>,
    /// Requests and byte streams that begin, a second.
    pub requests: Option<u64>,
    /// Bytes of bodies and streams, both directions together, a second.
    pub bytes: Option<u64>,
}

/// Which credentials open a listener or route. At least one of the first four is there.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Auth {
    /// The verifier set that bearer tokens are good under.
    #[serde(default)]
    pub set: Option<String>,
    /// The verifier set of each tenant, picked by the tenant that is asked for.
    #[serde(default)]
    pub by_tenant: Option<BTreeMap<String, String>>,
    /// The list of users that names and passwords are good under.
    #[serde(default)]
    pub basic: Option<String>,
    /// How a client certificate is read.
    #[serde(default)]
    pub certificate: Option<String>,
    /// What people are told they enter a password for.
    #[serde(default = "realm")]
    pub realm: String,
    /// The upstream sees `Authorization` although it was the credential.
    #[serde(default)]
    pub pass: bool,
    /// A tunnel ends with its token.
    #[serde(default = "yes")]
    pub disconnect_on_expiry: bool,
}

/// Which credentials open a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RouteAuth {
    /// Whatever its listener asks for.
    #[default]
    Inherit,
    /// Nothing is asked for.
    Open,
    /// These.
    Own(Box<Auth>),
}

/// Addresses that may come in. What is denied stays out, whatever is allowed; nothing allowed means everybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbours {
    /// Networks that may.
    pub allow: Vec<IpNet>,
    /// Networks that may not.
    pub deny: Vec<IpNet>,
}

impl Neighbours {
    /// True when `ip` may come in.
    pub fn admit(&self, ip: std::net::IpAddr) -> bool {
        if self.allow.is_empty() && self.deny.is_empty() {
            return true;
        }
        let ip = ip.to_canonical();
        let holds = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        !holds(&self.deny) && (self.allow.is_empty() || holds(&self.allow))
    }
}

/// Those whose keys vouch under an id.
pub fn members(id: &str) -> impl Iterator<Item = &str> {
    id.split(';').next().unwrap_or_default().split(',')
}

/// Whose key that is.
pub fn member_of(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(member, _)| member)
}

impl Auth {
    /// True when something may come in for a tenant that this key has vouched for.
    pub fn takes(&self, key: &str, tenant: &str) -> bool {
        let own = self.by_tenant.as_ref().and_then(|sets| sets.get(tenant));
        let mut ids = [&self.set, &self.basic, &self.certificate].into_iter().flatten().chain(own);
        ids.any(|id| members(id).any(|member| member == member_of(key)))
    }

    /// Every id that its verdicts may be given under.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let by_tenant = self.by_tenant.iter().flat_map(|sets| sets.values());
        [&self.set, &self.basic, &self.certificate].into_iter().flatten().chain(by_tenant).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for RouteAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Own(Box<Auth>),
        }
        match Option::<Written>::deserialize(deserializer)? {
            None => Ok(RouteAuth::Open),
            Some(Written::Word(word)) if word == "inherit" => Ok(RouteAuth::Inherit),
            Some(Written::Word(word)) => Err(serde::de::Error::custom(format!("auth is \"{word}\""))),
            Some(Written::Own(auth)) => Ok(RouteAuth::Own(auth)),
        }
    }
}

fn realm() -> String {
    "tidegate".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn what_is_denied_stays_out_whatever_is_allowed() {
        let admits = |allow: &[&str], deny: &[&str], ip: &str| {
            let neighbours = Neighbours { allow: networks(allow), deny: networks(deny) };
            neighbours.admit(ip.parse().expect("an address"))
        };
        assert!(admits(&[], &[], "192.0.2.1"));
        assert!(admits(&["10.0.0.0/8"], &[], "10.1.2.3") && admits(&["10.0.0.0/8"], &[], "::ffff:10.1.2.3"));
        assert!(!admits(&["10.0.0.0/8"], &[], "11.1.2.3") && !admits(&["10.0.0.0/8"], &[], "::1"));
        assert!(!admits(&["10.0.0.0/8"], &["10.9.0.0/16"], "10.9.1.1"));
        assert!(admits(&[], &["10.9.0.0/16"], "10.8.1.1") && !admits(&[], &["fd00::/8"], "fd00::1"));
    }

    #[test]
    fn a_route_asks_for_what_its_listener_does_unless_it_says_otherwise() {
        let of = |text: &str| serde_json::from_str::<RouteAuth>(text);
        assert_eq!(of("\"inherit\"").expect("read"), RouteAuth::Inherit);
        assert_eq!(of("null").expect("read"), RouteAuth::Open);
        let RouteAuth::Own(auth) = of(r#"{"set": "main-1"}"#).expect("read") else { panic!("its own") };
        assert_eq!(
            (auth.ids().collect::<Vec<_>>(), auth.disconnect_on_expiry, auth.pass),
            (vec!["main-1"], true, false)
        );
        assert!(of("\"none\"").is_err());
    }
}
