//! Which route a request takes, against a slow and obvious answer to the same question.

use proptest::prelude::*;
use proptest::sample::select;
use tidegate_engine::message::{RequestHead, Version};
use tidegate_engine::route::matcher::{Matcher, TwoWays};
use tidegate_engine::route::why::{Asked, why_not};
use tidegate_engine::snapshot::Routing;
use tidegate_engine::snapshot::auth::RouteAuth;
use tidegate_engine::snapshot::route::{Action, HeaderMatch, PathMatch, Redirect, Route};
use tidegate_engine::sniff::name;

fn route(host: Option<&str>, path: Option<PathMatch>) -> Route {
    Route {
        name: String::new(),
        listeners: vec![],
        sni: None,
        host: host.map(str::to_owned),
        path,
        methods: vec![],
        headers: vec![],
        tenant: String::new(),
        allow: vec![],
        deny: vec![],
        auth: RouteAuth::Inherit,
        action: Action::Redirect(Redirect { status: 308, to: String::new() }),
    }
}

fn prefix(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Prefix(path.to_owned()))
}

fn exact(path: &str) -> Option<PathMatch> {
    Some(PathMatch::Exact(path.to_owned()))
}

fn asked(method: &str, host: &str, target: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new();
    head.set(method.as_bytes(), target.as_bytes(), Version::Http11);
    head.fields.push(b"Host", host.as_bytes());
    for (name, value) in fields {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

/// The route that is taken on the listener `web`, by position.
fn taken(routes: &[Route], host: &str, target: &str) -> Result<Option<usize>, TwoWays> {
    Matcher::new(routes, Routing::Specific).find("web", &asked("GET", host, target, &[]))
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_none() {
    let hosts = [None, Some("*.example.com"), Some("*.b.example.com"), Some("a.b.example.com")];
    let routes: Vec<Route> = hosts.map(|host| route(host, None)).into();
    for (host, expected) in [
        ("a.b.example.com", 3),
        ("A.B.EXAMPLE.com.:8080", 3),
        ("x.b.example.com", 2),
        ("y.x.b.example.com", 2),
        ("b.example.com", 1),
        ("example.com", 0),
        ("badexample.com", 0),
        ("a..b.example.com", 0),
        ("[::1]:80", 0),
        ("127.0.0.1", 0),
    ] {
        assert_eq!(taken(&routes, host, "/"), Ok(Some(expected)), "{host}");
    }
}

#[test]
fn an_ipv6_host_is_the_same_in_every_notation() {
    let routes = [route(Some("[::1]"), None)];
    for host in ["[::1]", "[0:0:0:0:0:0:0:1]:80", "[::0001]"] {
        assert_eq!(taken(&routes, host, "/"), Ok(Some(0)), "{host}");
    }
    assert_eq!(taken(&routes, "[::2]", "/"), Ok(None));
}

#[test]
fn a_prefix_ends_at_an_element_and_an_exact_path_and_the_longest_prefix_go_first() {
    let routes = [
        route(None, prefix("/")),
        route(None, prefix("/api")),
        route(None, prefix("/api/v2/")),
        route(None, exact("/api/v2")),
        route(None, None),
    ];
    for (target, expected) in [
        ("/", 0),
        ("/apix", 0),
        ("/api", 1),
        ("/api/", 1),
        ("/api?x=/api/v2", 1),
        ("/api/v2", 3),
        ("/api/v2/", 2),
        ("/api/v2/x", 2),
        ("/api/v22", 1),
        ("/API", 0),
        ("*", 4),
    ] {
        assert_eq!(taken(&routes, "a.b", target), Ok(Some(expected)), "{target}");
    }
}

#[test]
fn a_host_whose_routes_do_not_fit_falls_to_less_specific_ones() {
    let routes = [
        route(Some("a.example.com"), prefix("/only")),
        route(Some("*.example.com"), exact("/exact")),
        route(None, prefix("/any")),
    ];
    assert_eq!(taken(&routes, "a.example.com", "/only/x"), Ok(Some(0)));
    assert_eq!(taken(&routes, "a.example.com", "/exact"), Ok(Some(1)));
    assert_eq!(taken(&routes, "a.example.com", "/any"), Ok(Some(2)));
    assert_eq!(taken(&routes, "a.example.com", "/none"), Ok(None));
}

#[test]
fn more_conditions_go_first_and_then_the_order_of_the_file() {
    let header =
        |name: &str, value: Option<&str>| HeaderMatch { name: name.to_owned(), value: value.map(str::to_owned) };
    let routes = [
        route(None, None),
        Route { methods: vec!["POST".into(), "PUT".into()], ..route(None, None) },
        Route { headers: vec![header("x-version", Some("2"))], ..route(None, None) },
        Route { headers: vec![header("x-version", None), header("x-beta", None)], ..route(None, None) },
        route(None, None),
    ];
    let matcher = Matcher::new(&routes, Routing::Specific);
    for (method, fields, expected) in [
        ("GET", &[][..], 0),
        ("POST", &[], 1),
        ("post", &[], 0),
        ("GET", &[("X-Version", "2")], 2),
        ("GET", &[("X-Version", "3")], 0),
        ("POST", &[("x-version", "1"), ("x-version", "2")], 1),
        ("POST", &[("x-version", "2"), ("x-beta", "")], 3),
    ] {
        let head = asked(method, "a.b", "/", fields);
        assert_eq!(matcher.find("web", &head), Ok(Some(expected)), "{method} {fields:?}");
    }
}

#[test]
fn a_route_counts_on_its_listeners_only() {
    let routes = [Route { listeners: vec!["secure".into()], ..route(Some("a.b"), None) }, route(None, None)];
    let matcher = Matcher::new(&routes, Routing::Specific);
    let head = asked("GET", "a.b", "/", &[]);
    assert_eq!(matcher.find("secure", &head), Ok(Some(0)));
    assert_eq!(matcher.find("web", &head), Ok(Some(1)));
}

#[test]
fn with_routing_first_the_order_of_the_file_alone_decides() {
    let routes =
        [route(None, prefix("/api")), route(Some("a.b"), exact("/api/x")), route(Some("*.b"), None), route(None, None)];
    let matcher = Matcher::new(&routes, Routing::First);
    for (target, expected) in [("/api/x", 0), ("/other", 2)] {
        assert_eq!(matcher.find("web", &asked("GET", "a.b", target, &[])), Ok(Some(expected)), "{target}");
    }
}

#[test]
fn case_36_no_spelling_of_a_path_walks_around_a_route() {
    let routes = [route(None, None), route(None, prefix("/admin")), route(None, exact("/a b"))];
    for target in ["/%61dmin", "/admi%6E/x", "/admin/x%2Fy", "/admin/../admin", "/admin//x", "/admin/;a"] {
        assert_eq!(taken(&routes, "a.b", target), Ok(Some(1)), "{target}");
    }
    assert_eq!(taken(&routes, "a.b", "/a%20b"), Ok(Some(2)));
    for target in [
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2E/admin",
        "/x%2f..%2Fadmin",
        "/x\\..\\admin",
        "/admin;x",
        "/admin%2fx",
        "/admin/..",
        "/x/..;/admin",
        "/admin/%2e%2e/x",
        "/.//admin",
    ] {
        assert_eq!(taken(&routes, "a.b", target), Err(TwoWays), "{target}");
    }
    // Where all readings take the same route the path is nobody's concern.
    for target in ["//x", "/x/../y", "/a%2Fb", "/%2561dmin", "/x;admin"] {
        assert_eq!(taken(&routes, "a.b", target), Ok(Some(0)), "{target}");
    }
}

#[test]
fn routes_for_tls_server_names_take_no_request() {
    let routes = [Route { sni: Some("a.b".into()), ..route(None, None) }];
    assert_eq!(taken(&routes, "a.b", "/"), Ok(None));
}

/// The obvious answer: every route is looked at, and the best one kept. For paths that have one reading.
fn obvious(routes: &[Route], routing: Routing, listener: &str, head: &RequestHead) -> Option<usize> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let host = text(head.fields.find("host").unwrap_or_default()).to_lowercase();
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_owned();
    let path = text(head.path());
    let fitting = routes.iter().enumerate().filter(|(_, route)| {
        let host_fits = match route.host.as_deref() {
            None => true,
            Some(wanted) if wanted.starts_with("*.") => host.ends_with(&wanted[1..]) && host.len() >= wanted.len(),
            Some(wanted) => host == wanted,
        };
        let path_fits = match &route.path {
            None => true,
            Some(PathMatch::Exact(wanted)) => path == *wanted,
            Some(PathMatch::Prefix(wanted)) => {
                let wanted = wanted.strip_suffix('/').unwrap_or(wanted);
                path == wanted || path.starts_with(&format!("{wanted}/"))
            }
        };
        let headers_fit = route.headers.iter().all(|wanted| {
            let found = head.fields.find(&wanted.name).map(text);
            found.is_some() && (wanted.value.is_none() || found == wanted.value)
        });
        host_fits
            && path_fits
            && headers_fit
            && (route.methods.is_empty() || route.methods.contains(&text(head.method())))
            && (route.listeners.is_empty() || route.listeners.iter().any(|name| name == listener))
    });
    let rank = |route: &Route| {
        let host = match route.host.as_deref() {
            None => 0,
            Some(host) if host.starts_with("*.") => host.len(),
            Some(_) => usize::MAX,
        };
        let path = match &route.path {
            None => 0,
            Some(PathMatch::Prefix(prefix)) => 1 + prefix.strip_suffix('/').unwrap_or(prefix).len(),
            Some(PathMatch::Exact(_)) => usize::MAX,
        };
        (host, path, usize::from(!route.methods.is_empty()) + route.headers.len())
    };
    match routing {
        Routing::First => fitting.map(|(position, _)| position).min(),
        Routing::Specific => fitting.max_by_key(|(i, route)| (rank(route), std::cmp::Reverse(*i))).map(|(i, _)| i),
    }
}

const HOSTS: [&str; 7] = ["a.test", "b.test", "*.test", "*.a.test", "x.a.test", "y.x.a.test", "*.x.a.test"];
const PATHS: [&str; 9] = ["/", "//", "/a", "/a/", "/a/b", "/a/bc", "/a/b/c", "/ab", "/b"];

fn any_route() -> impl Strategy<Value = Route> {
    let path = prop_oneof![Just(None), select(&PATHS[..]).prop_map(prefix), select(&PATHS[..]).prop_map(exact),];
    let header = (select(&["x-a", "x-b"][..]), proptest::option::of(select(&["1", "2"][..])))
        .prop_map(|(name, value)| HeaderMatch { name: name.to_owned(), value: value.map(str::to_owned) });
    (
        proptest::option::of(select(&HOSTS[..])),
        path,
        proptest::collection::vec(select(&["GET", "POST"][..]), 0..2),
        proptest::collection::vec(header, 0..2),
        proptest::collection::vec(select(&["web", "other"][..]), 0..2),
    )
        .prop_map(|(host, path, methods, headers, listeners)| Route {
            methods: methods.into_iter().map(str::to_owned).collect(),
            listeners: listeners.into_iter().map(str::to_owned).collect(),
            headers,
            ..route(host, path)
        })
}

fn any_request() -> impl Strategy<Value = RequestHead> {
    let host =
        select(&["a.test", "B.test:80", "c.test.", "x.A.test", "y.x.a.test", "z.y.x.a.test", "test", "d.c.test"][..]);
    let field = (select(&["X-A", "x-b"][..]), select(&["1", "2"][..]));
    (
        select(&["GET", "POST"][..]),
        host,
        (
            select(&["/", "/a", "/a/b", "/a/b/c", "/ab", "/abc", "/a/bcd", "/c"][..]),
            select(&["", "/", "?/a", "/x/y"][..]),
        ),
        proptest::option::of(field),
    )
        .prop_map(|(method, host, (path, more), field)| {
            let target =
                if path == "/" { format!("/{}", more.trim_start_matches('/')) } else { format!("{path}{more}") };
            asked(method, host, &target, field.as_slice())
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_answer_is_the_obvious_one(
        routes in proptest::collection::vec(any_route(), 0..24),
        requests in proptest::collection::vec(any_request(), 1..16),
        first in any::<bool>(),
    ) {
        let routing = if first { Routing::First } else { Routing::Specific };
        let matcher = Matcher::new(&routes, routing);
        for head in &requests {
            let expected = obvious(&routes, routing, "web", head);
            let found = matcher.find("web", head);
            prop_assert_eq!(found, Ok(expected), "{:?} {:?}", head.path(), head.fields.find("host"));
            // What is told of a route agrees with what is done.
            let host = head.fields.find("host").unwrap_or_default();
            let host = name::host(host.strip_suffix(b":80").unwrap_or(host));
            let asked = Asked { listener: "web", host: host.as_deref(), path: head.path(), head };
            let matching = |route: &Route| why_not(route, &asked).is_none();
            prop_assert_eq!(routes.iter().any(matching), expected.is_some());
            prop_assert!(expected.is_none_or(|taken| matching(&routes[taken])));
        }
    }
}
