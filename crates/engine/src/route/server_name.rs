//! Whose a TLS connection is, by the server name of its ClientHello: passed through undecrypted, or ended here.
//!
//! The most specific name that counts on the listener decides, exact before the longest wildcard: one of an `sni` route
//! passes the connection through, one of a `host` route ends it here, so that the route is not walked around. Where
//! both have the same name `sni` counts. Certificates decide nothing: only routes do. Names are in normal form
//! (`sniff::name`).

use hashbrown::HashMap;

use crate::snapshot::Route;
use crate::sniff::name;

/// What becomes of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is passed through, to where the route at this position leads.
    PassThrough(usize),
    /// Its TLS ends here, and its requests are routed each by itself.
    Terminate,
    /// Nobody here has its name: it is answered with `unrecognized_name`.
    Unknown,
}

/// The server names of all routes, ready to be searched.
pub struct ServerNames {
    exact: HashMap<String, Vec<Named>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<String, Vec<Named>>,
    /// The listeners of routes for every host.
    everywhere: Vec<Box<[String]>>,
    /// Some route passes connections through.
    passes: bool,
}

/// A route that has a name.
struct Named {
    /// The listeners it counts on; empty: every one.
    listeners: Box<[String]>,
    /// Its position, where it passes connections through.
    passes: Option<usize>,
}

impl ServerNames {
    /// Prepares the names of routes.
    pub fn new(routes: &[Route]) -> Self {
        let (exact, wildcard) = (HashMap::new(), HashMap::new());
        let mut names = ServerNames { exact, wildcard, everywhere: Vec::new(), passes: false };
        for (position, route) in routes.iter().enumerate() {
            let (name, passes) = match (&route.sni, &route.host) {
                (Some(name), _) => (name, Some(position)),
                (None, Some(name)) => (name, None),
                (None, None) => {
                    let listeners = &*route.listeners;
                    if !names.everywhere.iter().any(|known| **known == *listeners) {
                        names.everywhere.push(listeners.into());
                    }
                    continue;
                }
            };
            names.passes |= passes.is_some();
            let (map, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut names.wildcard, parent),
                None => (&mut names.exact, &**name),
            };
            let here = map.entry(name.into()).or_default();
            // Thousands of paths of one host say the same of its name.
            if passes.is_some() || !here.iter().any(|one| one.passes.is_none() && *one.listeners == route.listeners) {
                here.push(Named { listeners: route.listeners.clone().into(), passes });
            }
        }
        names
    }

    /// What becomes of a connection for `name` on a listener. `ends_here`: the listener has certificates.
    pub fn decide(&self, listener: &str, name: Option<&str>, ends_here: bool) -> Decision {
        let otherwise = if ends_here { Decision::Terminate } else { Decision::Unknown };
        let Some(name) = name else { return otherwise };
        let counts = |one: &&Named| {
            // A `host` route means nothing where TLS cannot be ended.
            (one.passes.is_some() || ends_here) && counts_on(listener, &one.listeners)
        };
        for routes in self.candidates(name) {
            let mut here = routes.iter().filter(counts).peekable();
            if here.peek().is_some() {
                return here.find_map(|one| one.passes).map_or(Decision::Terminate, Decision::PassThrough);
            }
        }
        otherwise
    }

    /// True when a route on the listener is for this host, or for every host.
    pub fn answers(&self, listener: &str, host: &str) -> bool {
        let here = |one: &Named| one.passes.is_none() && counts_on(listener, &one.listeners);
        self.everywhere.iter().any(|listeners| counts_on(listener, listeners))
            || self.candidates(host).flatten().any(here)
    }

    /// True when some route passes connections through, on whatever listener.
    pub fn pass_through(&self) -> bool {
        self.passes
    }

    /// What has this name, the most specific first.
    fn candidates(&self, name: &str) -> impl Iterator<Item = &Vec<Named>> {
        let exact = self.exact.get(name).into_iter();
        exact.chain(name::parents(name).filter_map(|parent| self.wildcard.get(parent)))
    }
}

/// True where a route of these listeners counts on `listener`; of none: on every one.
fn counts_on(listener: &str, listeners: &[String]) -> bool {
    listeners.is_empty() || listeners.iter().any(|name| name == listener)
}

#[cfg(test)]
mod tests {
    use super::Decision::{PassThrough, Terminate, Unknown};
    use super::*;
    use crate::snapshot::EndpointRef;
    use crate::snapshot::auth::RouteAuth;
    use crate::snapshot::route::{Action, Destination, Edits, Forward, PathRewrite};

    /// A route `sni:NAME` or `host:NAME`, on some listeners.
    fn route(what: &str, listeners: &[&str]) -> Route {
        let (key, name) = what.split_once(':').expect("a key");
        let of = |wanted: &str| (key == wanted).then(|| name.to_owned());
        let to = Destination::Endpoint(EndpointRef { tenant: String::new(), endpoint: "x".into() });
        Route {
            name: what.into(),
            listeners: listeners.iter().map(|name| (*name).to_owned()).collect(),
            sni: of("sni"),
            host: of("host"),
            path: None,
            methods: Vec::new(),
            headers: Vec::new(),
            tenant: String::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            auth: RouteAuth::Inherit,
            action: Action::Forward(Box::new(Forward {
                to,
                path: PathRewrite::Keep,
                host_header: crate::snapshot::HostHeader::Keep,
                request_headers: Edits::default(),
                response_headers: Edits::default(),
                response_timeout: None,
                idle_timeout: None,
            })),
        }
    }

    fn decide(routes: &[Route], name: &str, ends_here: bool) -> Decision {
        let name = (!name.is_empty()).then_some(name);
        ServerNames::new(routes).decide("secure", name, ends_here)
    }

    #[test]
    fn the_most_specific_name_decides_whatever_the_order() {
        let mut routes = vec![
            route("sni:*.example.com", &[]),
            route("host:app.example.com", &[]),
            route("sni:vault.app.example.com", &[]),
            route("host:*.app.example.com", &[]),
        ];
        for reversed in [false, true] {
            let at = |position: usize| PassThrough(if reversed { 3 - position } else { position });
            for (name, expected) in [
                ("a.example.com", at(0)),
                ("b.a.example.com", at(0)),
                ("app.example.com", Terminate),
                ("vault.app.example.com", at(2)),
                ("x.app.example.com", Terminate),
                ("a.vault.app.example.com", Terminate),
                ("example.com", Terminate),
                ("badexample.com", Terminate),
                ("", Terminate),
            ] {
                assert_eq!(decide(&routes, name, true), expected, "{name}");
            }
            routes.reverse();
        }
    }

    #[test]
    fn without_certificates_only_names_to_pass_through_count() {
        let routes = [route("sni:*.example.com", &[]), route("host:app.example.com", &[])];
        assert_eq!(decide(&routes, "app.example.com", false), PassThrough(0));
        assert_eq!(decide(&routes, "example.com", false), Unknown);
        assert_eq!(decide(&routes, "", false), Unknown);
    }

    #[test]
    fn a_host_is_answered_where_a_route_is_for_it_or_for_every_host() {
        let mut routes = vec![route("sni:a.example.com", &[]), route("host:*.example.org", &[])];
        let names = ServerNames::new(&routes);
        assert!(names.pass_through() && names.answers("secure", "x.example.org"));
        assert!(!names.answers("secure", "a.example.com") && !names.answers("secure", "example.org"));
        routes.push(Route { host: None, ..route("host:", &["web"]) });
        let names = ServerNames::new(&routes);
        assert!(names.answers("web", "example.net") && !names.answers("secure", "example.net"));
    }

    #[test]
    fn a_route_counts_only_on_its_listeners() {
        let routes = [
            route("sni:a.example.com", &["other"]),
            route("host:b.example.com", &["other"]),
            route("sni:*.example.com", &["secure"]),
        ];
        assert_eq!(decide(&routes, "a.example.com", true), PassThrough(2));
        assert_eq!(decide(&routes, "b.example.com", true), PassThrough(2));
    }
}
