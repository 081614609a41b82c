//! Routes: nothing panics, the fast answer is one that the slow words agree with, and no rewritten target names a host.
//!
//! An input is lines: `HOST PATH FLAGS` for each route, an empty line, then `METHOD HOST TARGET`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::message::{Known, RequestHead, Version};
use tidegate_engine::route::matcher::Matcher;
use tidegate_engine::route::path;
use tidegate_engine::route::redirect::{self, location};
use tidegate_engine::route::why::{Asked, why_not};
use tidegate_engine::snapshot::Routing;
use tidegate_engine::snapshot::auth::RouteAuth;
use tidegate_engine::snapshot::route::{Action, HeaderMatch, PathMatch, Respond, Route};
use tidegate_engine::sniff::name;

fuzz_target!(|input: &[u8]| {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let (routes, asked) = input.split_once("\n\n").unwrap_or(("", input));
    let routes: Vec<Route> = routes.lines().take(64).map(route).collect();
    let mut words = asked.splitn(3, ' ');
    let [Some(method), Some(host), Some(target)] = [words.next(), words.next(), words.next()] else { return };
    // What a codec lets through.
    if !target.starts_with('/') && target != "*" {
        return;
    }
    if target.bytes().chain(host.bytes()).chain(method.bytes()).any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#')
    {
        return;
    }
    let mut head = RequestHead::new();
    head.set(method.as_bytes(), target.as_bytes(), Version::Http11);
    head.fields.push(b"Host", host.as_bytes());
    for routing in [Routing::Specific, Routing::First] {
        check(&routes, routing, &head);
    }
    rewrite(&routes, &head);
    let asked = redirect::Asked { scheme: "https", host: b"a.b", target: head.target() };
    let own = location("{path}{query}", &asked).expect("the host is not wanted");
    assert!(own.starts_with(b"/") && !own.starts_with(b"//") && own.iter().all(|byte| byte.is_ascii_graphic()));
    let other = location("https://{host}{path}", &asked).expect("there is a host");
    assert!(other.starts_with(b"https://a.b/"));
});

fn route(line: &str) -> Route {
    let mut words = line.split(' ');
    let mut word = || words.next().filter(|word| !word.is_empty() && *word != "-").map(str::to_owned);
    let (host, path, flags) = (word(), word().filter(|path| path.starts_with('/')), word().unwrap_or_default());
    let has = |flag: char| flags.contains(flag);
    Route {
        name: line.to_owned(),
        listeners: if has('o') { vec!["other".to_owned()] } else { vec![] },
        sni: if has('s') { host.clone() } else { None },
        host,
        path: path.map(|path| if has('x') { PathMatch::Exact(path) } else { PathMatch::Prefix(path) }),
        methods: if has('p') { vec!["POST".to_owned(), "PUT".to_owned()] } else { vec![] },
        headers: if has('h') { vec![HeaderMatch { name: "host".to_owned(), value: None }] } else { vec![] },
        tenant: String::new(),
        allow: vec![],
        deny: vec![],
        auth: RouteAuth::Inherit,
        action: Action::Respond(Respond { status: 204, body: String::new(), headers: vec![] }),
    }
}

fn check(routes: &[Route], routing: Routing, head: &RequestHead) {
    let authority = head.fields.get(Known::Host).unwrap_or_default();
    // An address of IPv6 begins with a bracket; a codec lets no other host through that has one.
    let bracketed = authority.first() == Some(&b'[');
    let end = authority.iter().rposition(|byte| *byte == b']').filter(|_| bracketed).unwrap_or(0);
    let port = authority[end..].iter().position(|byte| *byte == b':').map_or(authority.len(), |at| end + at);
    let host = name::host(&authority[..port]);
    let path = path::normal(head.path());
    let asked = Asked { listener: "web", host: host.as_deref(), path: &path, head };
    let fits = |route: &Route| why_not(route, &asked).is_none();
    match Matcher::new(routes, routing).find("web", head) {
        Ok(Some(found)) => {
            assert!(fits(&routes[found]), "{:?}", routes[found]);
            if routing == Routing::First {
                assert!(!routes[..found].iter().any(fits));
            }
        }
        Ok(None) => assert!(!routes.iter().any(fits)),
        Err(_) => assert!(path::loose(&path).is_some()),
    }
}

fn rewrite(routes: &[Route], head: &RequestHead) {
    let path = path::normal(head.path());
    for route in routes {
        let (matched, fits) = match &route.path {
            None => (Vec::new(), true),
            Some(PathMatch::Exact(wanted)) => {
                let wanted = path::normal(wanted.as_bytes());
                (wanted.to_vec(), wanted == path)
            }
            Some(PathMatch::Prefix(wanted)) => {
                let wanted = path::normal(wanted.as_bytes());
                (path::without_slash(&wanted).to_vec(), path::is_below(&wanted, &path))
            }
        };
        if !fits || head.target().first() != Some(&b'/') {
            continue;
        }
        for by in [&b""[..], b"/new", b"/"] {
            let target = path::replaced(head.target(), &matched, by).expect("it was matched");
            assert!(target.starts_with(b"/"), "{}", String::from_utf8_lossy(&target));
            assert!(!target.starts_with(b"//") && !target.starts_with(b"/\\"), "{}", String::from_utf8_lossy(&target));
        }
    }
}
