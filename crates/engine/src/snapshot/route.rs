//! Routes of a snapshot: what a request or a TLS connection must be, and where that leads.
//!
//! Names of hosts arrive in the one normal form that matching uses (`sniff::name`): lower case, no trailing dot,
//! punycode. Which of several routes counts is `route::matcher`.

use std::fmt;

use ipnet::IpNet;
use serde::Deserialize;

use super::EndpointRef;
use super::auth::RouteAuth;

/// A match and where it leads.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Route {
    /// What logs, metrics and status call it; unique.
    pub name: String,
    /// Listeners it counts on; empty: every one of kind http.
    pub listeners: Vec<String>,
    /// The TLS server name, exact or `*.` and a name: such a connection is passed through, not decrypted. Then nothing
    /// of what follows is set, and `action` is `forward`.
    pub sni: Option<String>,
    /// The host, exact or `*.` and a name, which stands for one label or more; none: every host.
    pub host: Option<String>,
    /// The path; none: every path.
    pub path: Option<PathMatch>,
    /// The methods; empty: every one.
    pub methods: Vec<String>,
    /// Fields that must be there.
    pub headers: Vec<HeaderMatch>,
    /// Whose it is; empty: whosever its listener is. What it leads to may be another one's.
    #[serde(default)]
    pub tenant: String,
    /// Addresses that may take it; empty: all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// Addresses that may not.
    #[serde(default)]
    pub deny: Vec<IpNet>,
    /// Which credentials open it.
    #[serde(default)]
    pub auth: RouteAuth,
    /// What is done.
    pub action: Action,
}

impl Route {
    /// What it is for, in words.
    pub fn wanted(&self) -> String {
        if let Some(name) = &self.sni {
            return format!("TLS for {name}");
        }
        let mut text = match &self.path {
            Some(PathMatch::Prefix(path)) => format!("{}{path}", self.host.as_deref().unwrap_or("*")),
            Some(PathMatch::Exact(path)) => format!("{}{path} exactly", self.host.as_deref().unwrap_or("*")),
            None => self.host.clone().unwrap_or_else(|| "every host".to_owned()),
        };
        if !self.methods.is_empty() {
            text = format!("{} {text}", self.methods.join(" "));
        }
        for field in &self.headers {
            text += &match &field.value {
                Some(value) => format!(", {}: {value}", field.name),
                None => format!(", with {}", field.name),
            };
        }
        text
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Forward(forward) => match &forward.to {
                Destination::Endpoint(to) if to.tenant.is_empty() => write!(f, "endpoint {}", to.endpoint),
                Destination::Endpoint(to) => write!(f, "endpoint {} of {}", to.endpoint, to.tenant),
                Destination::Upstream(name) => write!(f, "upstream {name}"),
            },
            Action::Redirect(redirect) => write!(f, "redirect {} to {}", redirect.status, redirect.to),
            Action::Respond(respond) => write!(f, "respond {}", respond.status),
        }
    }
}

/// What a path must be. Compared byte for byte with what was sent, without the query.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// This path, and what stands below it: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(String),
    /// Exactly this path.
    Exact(String),
}

/// A field that a request must have.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct HeaderMatch {
    /// Its name, in lower case.
    pub name: String,
    /// Its value, byte for byte; none: any.
    pub value: Option<String>,
}

/// What is done with a request that matches.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes to an upstream.
    Forward(Box<Forward>),
    /// It is sent elsewhere.
    Redirect(Redirect),
    /// It gets this answer.
    Respond(Respond),
}

/// How a request is sent on.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Forward {
    /// Where.
    pub to: Destination,
    /// What becomes of the matched path.
    pub path: PathRewrite,
    /// What the upstream sees as Host.
    pub host_header: super::HostHeader,
    /// Edits of the request's fields, after ours have been removed and added.
    pub request_headers: Edits,
    /// Edits of the response's fields.
    pub response_headers: Edits,
    /// Instead of `timeouts.response`, in seconds.
    #[serde(deserialize_with = "super::optional_seconds")]
    pub response_timeout: Option<std::time::Duration>,
    /// Instead of `timeouts.idle`, in seconds.
    #[serde(deserialize_with = "super::optional_seconds")]
    pub idle_timeout: Option<std::time::Duration>,
}

/// Where a route or a TCP listener leads.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// An endpoint that agents offer.
    Endpoint(EndpointRef),
    /// An upstream of the snapshot, by its name.
    Upstream(String),
}

/// What becomes of the part of a path that a route matched.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PathRewrite {
    /// Nothing.
    Keep,
    /// It is cut off; what is left begins with `/`.
    Strip,
    /// This stands in its place.
    Replace(String),
}

/// Fields that are taken out, set and added, in this order.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Edits {
    /// Names, in lower case.
    pub remove: Vec<String>,
    /// Names and values that take the place of all fields of that name.
    pub set: Vec<(String, String)>,
    /// Names and values that stand beside those that are there.
    pub add: Vec<(String, String)>,
}

/// An answer that sends the downstream elsewhere.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Redirect {
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The new URL; `{scheme}`, `{host}`, `{path}` and `{query}` stand for those of the request; `{query}` has its `?`.
    pub to: String,
}

/// An answer of the configuration's own.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Respond {
    /// The status, 200 to 599.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Fields, `Content-Type` among them.
    pub headers: Vec<(String, String)>,
}
