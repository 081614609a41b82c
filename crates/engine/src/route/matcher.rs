//! Which route a request takes.
//!
//! The most specific one that matches and counts on the listener: host exact before wildcard before none, path exact
//! before the longest prefix, then more conditions, then the order of the configuration. With `routing: first` the
//! order alone decides. Hosts and server names are compared in their normal form, paths byte for byte.

use crate::http1::target;
use crate::message::{Known, RequestHead};
use crate::snapshot::Routing;
use crate::snapshot::route::{PathMatch, Route};

/// The routes of a configuration, ready to be searched.
pub struct Matcher {
    routes: Vec<Route>,
    /// Positions in `routes`, the one that counts first in front.
    order: Vec<usize>,
}

impl Matcher {
    /// Prepares routes.
    pub fn new(routes: &[Route], routing: Routing) -> Self {
        let routes = routes.to_vec();
        let mut order: Vec<usize> = (0..routes.len()).filter(|i| routes[*i].sni.is_none()).collect();
        if routing == Routing::Specific {
            order.sort_by_key(|i| std::cmp::Reverse(specificity(&routes[*i])));
        }
        Matcher { routes, order }
    }

    /// True when there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The position of the route that a request takes on a listener.
    pub fn find(&self, listener: &str, head: &RequestHead) -> Option<usize> {
        let (host, _) = target::split(head.fields.get(Known::Host).unwrap_or_default());
        let host = host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase();
        self.order.iter().copied().find(|i| matches(&self.routes[*i], listener, &host, head))
    }
}

type Specificity = (u8, u8, usize, usize);

fn specificity(route: &Route) -> Specificity {
    let host = match route.host.as_deref() {
        None => (0, 0),
        Some(host) if host.starts_with("*.") => (1, host.len()),
        Some(_) => (2, 0),
    };
    let path = match &route.path {
        None => (0, 0),
        Some(PathMatch::Prefix(prefix)) => (1, prefix.len()),
        Some(PathMatch::Exact(_)) => (2, 0),
    };
    let conditions = usize::from(!route.methods.is_empty()) + route.headers.len();
    (host.0, path.0, host.1 * 0x1_0000 + path.1, conditions)
}

fn matches(route: &Route, listener: &str, host: &[u8], head: &RequestHead) -> bool {
    let on_listener = route.listeners.is_empty() || route.listeners.iter().any(|name| name == listener);
    let host_fits = match route.host.as_deref().map(str::as_bytes) {
        None => true,
        Some([b'*', suffix @ ..]) => host.len() > suffix.len() && host.ends_with(suffix),
        Some(exact) => exact == host,
    };
    let path_fits = match &route.path {
        None => true,
        Some(PathMatch::Exact(path)) => head.path() == path.as_bytes(),
        Some(PathMatch::Prefix(prefix)) => below(prefix.as_bytes(), head.path()),
    };
    let header_fits = |wanted: &crate::snapshot::route::HeaderMatch| {
        let mut found = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(wanted.name.as_bytes()));
        match &wanted.value {
            None => found.next().is_some(),
            Some(value) => found.any(|field| field.value == value.as_bytes()),
        }
    };
    on_listener
        && host_fits
        && path_fits
        && (route.methods.is_empty() || route.methods.iter().any(|method| method.as_bytes() == head.method()))
        && route.headers.iter().all(header_fits)
}

/// True for the prefix itself and for what stands below it.
fn below(prefix: &[u8], path: &[u8]) -> bool {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
