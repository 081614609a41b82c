//! Which route a request takes.
//!
//! The most specific one that matches and counts on the listener: host exact before wildcard (the longer name first)
//! before none, path exact before the longest prefix before none, then more conditions, then the order of the
//! configuration. Where nothing of a host fits, less specific hosts are asked. With `routing: first` the order alone
//! decides. Hosts are compared in the form of `sniff::name`, paths in the form of `path`.
//!
//! However many routes there are, a look-up asks one index by host and one by element of the path, and allocates
//! nothing; only routes of the same host and path are gone through one by one.

use hashbrown::HashMap;

use super::path;
use crate::http1::target;
use crate::message::{Known, RequestHead};
use crate::snapshot::Routing;
use crate::snapshot::route::{HeaderMatch, PathMatch, Route};
use crate::sniff::name;

/// A path that leads one way as it was sent and another way to whoever reads it loosely (`path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoWays;

/// The routes of a configuration, ready to be searched.
pub struct Matcher {
    rules: Vec<Rule>,
    exact: HashMap<String, Paths>,
    /// By the name behind `*.`.
    wildcard: HashMap<String, Paths>,
    any: Paths,
    routing: Routing,
}

/// What a route wants besides host and path.
struct Rule {
    listeners: Box<[Box<str>]>,
    methods: Box<[Box<str>]>,
    headers: Box<[HeaderMatch]>,
}

/// The routes of one host, by path. Each list holds positions of rules, the one that counts first in front.
#[derive(Default)]
struct Paths {
    exact: HashMap<Vec<u8>, Vec<u32>>,
    /// A tree of path elements; the first node stands for `/`. Empty where no route has a prefix.
    tree: Vec<Node>,
    any: Vec<u32>,
}

/// A prefix, and what continues it.
#[derive(Default)]
struct Node {
    next: HashMap<Vec<u8>, u32>,
    rules: Vec<u32>,
    /// The nearest node above that has rules.
    up: Option<u32>,
}

/// What is looked for.
struct Wanted<'a> {
    listener: &'a str,
    host: Option<&'a str>,
    head: &'a RequestHead,
}

impl Matcher {
    /// Prepares routes. Those for TLS server names are `server_name`'s and left out.
    pub fn new(routes: &[Route], routing: Routing) -> Self {
        let (exact, wildcard) = (HashMap::new(), HashMap::new());
        let rules = routes.iter().map(Rule::new).collect();
        let mut matcher = Matcher { rules, exact, wildcard, any: Paths::default(), routing };
        let mut order: Vec<usize> = (0..routes.len()).filter(|i| routes[*i].sni.is_none()).collect();
        if routing == Routing::Specific {
            order.sort_by_key(|i| std::cmp::Reverse(conditions(&routes[*i])));
        }
        for i in order {
            let route = &routes[i];
            let paths = match route.host.as_deref() {
                None => &mut matcher.any,
                Some(host) => match host.strip_prefix("*.") {
                    Some(parent) => matcher.wildcard.entry_ref(parent).or_default(),
                    None => matcher.exact.entry_ref(host).or_default(),
                },
            };
            paths.list(route.path.as_ref()).push(u32::try_from(i).unwrap_or(u32::MAX));
        }
        let hosts = matcher.exact.values_mut().chain(matcher.wildcard.values_mut());
        hosts.chain([&mut matcher.any]).for_each(Paths::link);
        matcher
    }

    /// The position of the route that a request takes on a listener.
    pub fn find(&self, listener: &str, head: &RequestHead) -> Result<Option<usize>, TwoWays> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let (host, _) = target::split(head.fields.get(Known::Host).unwrap_or_default());
        let host = name::host(host);
        let wanted = Wanted { listener, host: host.as_deref(), head };
        let path = path::normal(head.path());
        let found = self.look_up(&wanted, &path);
        match path::loose(&path) {
            Some(other) if self.look_up(&wanted, &other) != found => Err(TwoWays),
            _ => Ok(found.map(|position| position as usize)),
        }
    }

    fn look_up(&self, wanted: &Wanted<'_>, path: &[u8]) -> Option<u32> {
        let fits = |position: &u32| self.rules.get(*position as usize).is_some_and(|rule| rule.fits(wanted));
        let mut first: Option<u32> = None;
        for paths in self.hosts(wanted.host) {
            for list in paths.lists(path) {
                let Some(found) = list.iter().copied().find(fits) else { continue };
                if self.routing == Routing::Specific {
                    return Some(found);
                }
                first = Some(first.map_or(found, |first| first.min(found)));
            }
        }
        first
    }

    /// What counts for a host, the most specific first.
    fn hosts<'a>(&'a self, host: Option<&'a str>) -> impl Iterator<Item = &'a Paths> {
        let exact = host.and_then(|host| self.exact.get(host));
        let parents = host.filter(|_| !self.wildcard.is_empty()).into_iter().flat_map(name::parents);
        let wildcards = parents.filter_map(|parent| self.wildcard.get(parent));
        exact.into_iter().chain(wildcards).chain([&self.any])
    }
}

/// The number of conditions besides host and path: of two routes for the same place, the one with more counts first.
pub fn conditions(route: &Route) -> usize {
    usize::from(!route.methods.is_empty()) + route.headers.len()
}

impl Rule {
    fn new(route: &Route) -> Self {
        Rule {
            listeners: route.listeners.iter().map(|name| name.as_str().into()).collect(),
            methods: route.methods.iter().map(|method| method.as_str().into()).collect(),
            headers: route.headers.clone().into(),
        }
    }

    fn fits(&self, wanted: &Wanted<'_>) -> bool {
        (self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *wanted.listener))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method.as_bytes() == wanted.head.method()))
            && self.headers.iter().all(|header| has_field(wanted.head, &header.name, header.value.as_deref()))
    }
}

/// True when a request has a field of this name and, where that is given, of this value.
pub fn has_field(head: &RequestHead, name: &str, value: Option<&str>) -> bool {
    head.fields.iter().any(|field| {
        field.name.eq_ignore_ascii_case(name.as_bytes()) && value.is_none_or(|value| value.as_bytes() == field.value)
    })
}

impl Paths {
    /// The list of a path, made where there is none.
    fn list(&mut self, path: Option<&PathMatch>) -> &mut Vec<u32> {
        let prefix = match path {
            None => return &mut self.any,
            Some(PathMatch::Exact(path)) => return self.exact.entry_ref(&*path::normal(path.as_bytes())).or_default(),
            Some(PathMatch::Prefix(prefix)) => path::normal(prefix.as_bytes()),
        };
        if self.tree.is_empty() {
            self.tree.push(Node::default());
        }
        let mut at = 0;
        for element in elements(path::without_slash(&prefix)) {
            let next = self.tree.len();
            let known = *self.tree[at].next.entry_ref(element).or_insert(u32::try_from(next).unwrap_or(u32::MAX));
            at = known as usize;
            if at == next {
                self.tree.push(Node::default());
            }
        }
        &mut self.tree[at].rules
    }

    /// Ties each node to the nearest one above that has rules; a node stands behind the one it continues.
    fn link(&mut self) {
        for at in 0..self.tree.len() {
            let node = &self.tree[at];
            let up = if node.rules.is_empty() { node.up } else { u32::try_from(at).ok() };
            for below in node.next.values().copied().collect::<Vec<_>>() {
                self.tree[below as usize].up = up;
            }
        }
    }

    /// The lists that fit a path, the most specific first.
    fn lists<'a>(&'a self, path: &[u8]) -> impl Iterator<Item = &'a Vec<u32>> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(path) };
        let nodes = std::iter::successors(self.deepest(path), |node| self.tree.get(node.up? as usize));
        exact.into_iter().chain(nodes.map(|node| &node.rules)).chain([&self.any])
    }

    /// The longest prefix that the tree knows of a path.
    fn deepest(&self, path: &[u8]) -> Option<&Node> {
        let mut node = self.tree.first().filter(|_| path.first() == Some(&b'/'))?;
        for element in elements(path) {
            let Some(next) = node.next.get(element) else { break };
            node = self.tree.get(*next as usize)?;
        }
        Some(node)
    }
}

/// What stands behind each slash of a path that begins with one; nothing in the empty path.
fn elements(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.strip_prefix(b"/").into_iter().flat_map(|inside| inside.split(|byte| *byte == b'/'))
}
