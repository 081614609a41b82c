//! Why a route does not take a request, in words: for whoever asks, never on the way of a request.
//!
//! Looks at one route after the other, without the indexes of `matcher`.

use super::matcher::{conditions, has_field};
use super::path;
use crate::message::RequestHead;
use crate::snapshot::Routing;
use crate::snapshot::route::{PathMatch, Route};
use crate::sniff::name;

/// What was asked, in the forms that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// The host in normal form; none where it is no name.
    pub host: Option<&'a str>,
    /// The path in normal form.
    pub path: &'a [u8],
    /// Everything else.
    pub head: &'a RequestHead,
}

/// Why a route does not match, and how near it came: the more of it fits, the higher. None where it matches.
pub fn why_not(route: &Route, asked: &Asked<'_>) -> Option<(u8, String)> {
    if let Some(name) = &route.sni {
        return Some((0, format!("it passes TLS connections for {name} through, and reads no request")));
    }
    let no_host = route.host.as_deref().filter(|host| !fits_host(host, asked.host));
    if let Some(host) = no_host {
        return Some((
            1,
            match host.strip_prefix("*.") {
                Some(parent) => format!("the host is not below {parent}"),
                None => format!("the host is not {host}"),
            },
        ));
    }
    match &route.path {
        Some(PathMatch::Exact(path)) if *path::normal(path.as_bytes()) != *asked.path => {
            return Some((2, format!("the path is not exactly {path}")));
        }
        Some(PathMatch::Prefix(prefix)) if !path::is_below(&path::normal(prefix.as_bytes()), asked.path) => {
            return Some((2, format!("the path is not {prefix} and not below it")));
        }
        _ => {}
    }
    if !route.methods.is_empty() && !route.methods.iter().any(|method| method.as_bytes() == asked.head.method()) {
        return Some((3, format!("the method is not {}", route.methods.join(" or "))));
    }
    for field in &route.headers {
        if !has_field(asked.head, &field.name, field.value.as_deref()) {
            return Some((
                4,
                match &field.value {
                    Some(value) if has_field(asked.head, &field.name, None) => format!("{} is not {value}", field.name),
                    _ => format!("there is no field {}", field.name),
                },
            ));
        }
    }
    if !route.listeners.is_empty() && !route.listeners.iter().any(|name| name == asked.listener) {
        return Some((5, format!("it counts on {} only", route.listeners.join(" and "))));
    }
    None
}

fn fits_host(wanted: &str, host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    match wanted.strip_prefix("*.") {
        Some(parent) => name::parents(host).any(|own| own == parent),
        None => wanted == host,
    }
}

/// Why `taken` counts before `other`, where both match.
pub fn why_first(taken: &Route, other: &Route, routing: Routing) -> &'static str {
    let host = |route: &Route| match route.host.as_deref() {
        None => 0,
        Some(host) if host.starts_with("*.") => host.len(),
        Some(_) => usize::MAX,
    };
    let path = |route: &Route| match &route.path {
        None => 0,
        Some(PathMatch::Prefix(prefix)) => 1 + path::without_slash(&path::normal(prefix.as_bytes())).len(),
        Some(PathMatch::Exact(_)) => usize::MAX,
    };
    if routing == Routing::First {
        "stands earlier, and the order decides"
    } else if host(taken) != host(other) {
        "has a more specific host"
    } else if path(taken) != path(other) {
        "has a more specific path"
    } else if conditions(taken) != conditions(other) {
        "has more conditions"
    } else {
        "stands earlier"
    }
}
