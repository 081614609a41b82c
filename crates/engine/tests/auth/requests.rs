//! Requests at listeners and routes that ask for a credential.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::gate::{
    Agent, Gate, SET, Service, Visitor, configuration, from_now, listener, master, route, signed, token, until,
};

fn gate(web: Value, changes: Value) -> Gate {
    let listeners = json!([listener("web", "http", web), listener("agents", "tunnel", json!({}))]);
    Gate::start(&configuration(listeners, changes))
}

fn upstream(service: &Service) -> Value {
    let address = json!({"host": "127.0.0.1", "port": service.address.port(), "weight": 1, "tls": null,
                         "protocol": "http1"});
    json!({"name": "shop", "addresses": [address], "balance": "round_robin", "health": null, "ejection": null,
           "resolve_interval": 30.0, "proxy_protocol": null})
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_request_gets_in_by_its_token_which_goes_no_further() {
    let (gate, service) = (gate(json!({"auth": {"set": SET}}), json!({})), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let host = ("Host", "web.local");
    let answer = gate.ask("web", "/", &[host]);
    assert_eq!((answer.status, answer.error()), (401, "missing_authorization"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"tidegate\""));
    let answer = gate.ask("web", "/", &[host, ("Authorization", &bearer(&signed(json!({"exp": from_now(9.0)}), "x")))]);
    assert_eq!((answer.status, answer.error()), (401, "invalid_token"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"tidegate\", error=\"invalid_token\""));
    assert_eq!(service.asked.load(Ordering::Relaxed), 0);

    let good = bearer(&master());
    let mut visitor = Visitor::connect(gate.address("web"));
    for _ in 0..3 {
        visitor.say("/", &[host, ("Authorization", &good)]);
        let answer = visitor.answer();
        assert_eq!(answer.status, 200);
        assert!(!answer.body.to_lowercase().contains("authorization"), "{}", answer.body);
    }
    assert_eq!(gate.questions(), 2);
    // Each request by itself, on a connection that had a good one, too.
    visitor.say("/", &[host]);
    assert_eq!(visitor.answer().status, 401);
    visitor.say("/", &[host, ("Authorization", &good)]);
    assert_eq!(visitor.answer().status, 200);
    // What was not the credential passes.
    let fields = [host, ("x-piko-authorization", &*good), ("Authorization", "Basic YTpi")];
    let answer = gate.ask("web", "/", &fields);
    assert!(answer.body.contains("Authorization: Basic YTpi") && !answer.body.contains("x-piko"), "{}", answer.body);
}

#[test]
fn case_36_what_is_not_permitted_is_as_if_nobody_offered_it() {
    let (gate, service) = (gate(json!({"auth": {"set": SET}}), json!({})), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let other = bearer(&token(json!({"exp": from_now(60.0), "reach": ["other", "we", "web2*"]})));
    let theirs = bearer(&token(json!({"exp": from_now(60.0), "tenant": "acme"})));
    for credential in [&other, &theirs] {
        for (target, fields) in [
            ("/", vec![("Host", "web.local")]),
            ("/", vec![("Host", "WEB.local.:80")]),
            ("/", vec![("Host", "other.local"), ("x-piko-endpoint", "web")]),
            ("/_piko/v1/tcp/web", vec![("Host", "other.local")]),
            ("/", vec![("Host", "web.local"), ("Connection", "x-piko-authorization, authorization")]),
        ] {
            let all: Vec<_> = fields.iter().copied().chain([("Authorization", &**credential)]).collect();
            let answer = gate.ask("web", target, &all);
            assert_eq!((answer.status, answer.error()), (502, "no_upstream"), "{target} {fields:?}");
        }
    }
    assert_eq!(service.asked.load(Ordering::Relaxed), 0);
    let tenant = [("Host", "web.local"), ("Authorization", &*other), ("x-piko-tenant-id", "acme")];
    assert_eq!(gate.ask("web", "/", &tenant).error(), "unknown_tenant");
}

#[test]
fn a_route_asks_for_what_its_listener_does_or_for_its_own_or_for_nothing() {
    let service = Service::start();
    let to = json!({"endpoint": {"tenant": "", "endpoint": "web"}});
    let routes = json!([
        route("inherits.local", to.clone(), json!({})),
        route("open.local", to.clone(), json!({"auth": null})),
        route("own.local", to.clone(), json!({"auth": {"basic": "users-1", "realm": "the \"Shop\""}})),
        route("passes.local", to, json!({"auth": {"set": SET, "pass": true}})),
    ]);
    let gate = gate(json!({"auth": {"set": SET}, "dynamic_endpoints": {"allow": []}}), json!({"routes": routes}));
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let ask = |host: &str, credential: &str| {
        let fields = [("Host", host), ("Authorization", credential)];
        gate.ask("web", "/", if credential.is_empty() { &fields[..1] } else { &fields })
    };
    let good = bearer(&master());
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    assert_eq!(ask("inherits.local", "").status, 401);
    assert_eq!(ask("inherits.local", &good).status, 200);
    assert_eq!(ask("open.local", "").status, 200);
    assert!(ask("open.local", "Basic YTpi").body.contains("Basic YTpi"));
    let answer = ask("own.local", "");
    assert_eq!(answer.field("www-authenticate"), Some("Basic realm=\"the \\\"Shop\\\"\", charset=\"UTF-8\""));
    assert_eq!(ask("own.local", &good).error(), "unsupported_auth_type");
    assert_eq!(ask("own.local", &basic("ann:wrong")).error(), "invalid_authorization");
    assert_eq!(ask("own.local", &basic("ann:secret")).status, 200);
    assert!(ask("passes.local", &good).body.contains(&good));
    let other = bearer(&token(json!({"exp": from_now(60.0), "reach": []})));
    assert_eq!(ask("passes.local", &other).error(), "endpoint_not_permitted");
    // Whoever shows nothing is not told that nothing is there.
    assert_eq!(ask("nowhere.local", "").status, 401);
    assert_eq!(ask("nowhere.local", &good).status, 404);
}

#[test]
fn every_401_says_what_would_be_taken_instead_by_each_route_its_own() {
    let service = Service::start();
    let to = json!({"endpoint": {"tenant": "", "endpoint": "web"}});
    let all = json!({"set": SET, "basic": "users-1", "certificate": "people-1", "realm": "all"});
    let routes = json!([
        route("inherits.local", to.clone(), json!({})),
        route("all.local", to.clone(), json!({"auth": all})),
        route("certificate.local", to, json!({"auth": {"certificate": "people-1"}})),
        route("acme.local", json!({"upstream": "shop"}), json!({"auth": all, "tenant": "acme"})),
    ]);
    let changes = json!({"routes": routes, "upstreams": [upstream(&service)]});
    let gate = gate(json!({"auth": {"set": SET}}), changes);
    let ask = |host: &str, credential: &str| {
        let answer = gate.ask("web", "/", &[("Host", host), ("Authorization", credential)]);
        let lines = answer.head.lines().filter_map(|line| line.strip_prefix("WWW-Authenticate: "));
        (answer.error().to_owned(), lines.map(str::to_owned).collect::<Vec<_>>())
    };
    let none = bearer(&token(json!({"exp": from_now(60.0), "reach": []})));
    let globex = bearer(&token(json!({"exp": from_now(60.0), "tenant": "globex"})));
    let every = [r#"Bearer realm="all""#, r#"Basic realm="all", charset="UTF-8""#, r#"Certificate realm="all""#];
    let usual = [r#"Bearer realm="tidegate""#];
    // The second time the verdict is known.
    for _ in 0..2 {
        assert_eq!(ask("inherits.local", &none), ("endpoint_not_permitted".into(), usual.map(str::to_owned).into()));
        assert_eq!(ask("all.local", &none), ("endpoint_not_permitted".into(), every.map(str::to_owned).into()));
        assert_eq!(ask("acme.local", &globex), ("unknown_tenant".into(), every.map(str::to_owned).into()));
    }
    let only = [r#"Certificate realm="tidegate""#];
    assert_eq!(ask("certificate.local", &none), ("missing_authorization".into(), only.map(str::to_owned).into()));
}

#[test]
fn a_route_of_a_tenant_is_not_taken_by_a_token_of_another_one() {
    let service = Service::start();
    let redirect = json!({"redirect": {"status": 302, "to": "https://example.com/"}});
    let respond = json!({"respond": {"status": 204, "body": "", "headers": []}});
    let routes = json!([
        route("address.local", json!({"upstream": "shop"}), json!({})),
        route("redirect.local", json!({}), json!({"action": redirect})),
        route("respond.local", json!({}), json!({"action": respond})),
        route("globex.local", json!({"upstream": "shop"}), json!({"tenant": "globex"})),
    ]);
    let changes = json!({"routes": routes, "upstreams": [upstream(&service)]});
    let gate = gate(json!({"auth": {"set": SET}, "tenant": "acme"}), changes);
    let of = |tenant: &str| bearer(&token(json!({"exp": from_now(60.0), "tenant": tenant})));
    let ask = |host: &str, tenant: &str| {
        let answer = gate.ask("web", "/", &[("Host", host), ("Authorization", &of(tenant))]);
        (answer.status, answer.error().to_owned())
    };
    let other = (401, "unknown_tenant".to_owned());
    for (host, status) in [("address.local", 200), ("redirect.local", 302), ("respond.local", 204)] {
        assert_eq!((ask(host, "acme").0, ask(host, "").0, ask(host, "globex")), (status, status, other.clone()));
    }
    assert_eq!((ask("globex.local", "globex").0, ask("globex.local", "acme")), (200, other));
}

#[test]
fn many_requests_with_one_new_credential_ask_once() {
    let (gate, service) = (gate(json!({"auth": {"set": SET}}), json!({})), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    gate.silent.store(true, Ordering::Relaxed);
    let good = bearer(&master());
    let mut visitors: Vec<_> = (0..40).map(|_| Visitor::connect(gate.address("web"))).collect();
    for visitor in &mut visitors {
        visitor.say("/", &[("Host", "web.local"), ("Authorization", &good)]);
    }
    until("all wait", || gate.role.metrics().contains("tidegate_credentials_waiting 40"));
    gate.silent.store(false, Ordering::Relaxed);
    assert!(visitors.iter_mut().all(|visitor| visitor.answer().status == 200));
    assert_eq!(gate.questions(), 1);
}

#[test]
fn made_up_credentials_fill_a_queue_and_no_more_while_known_ones_pass() {
    let (gate, service) = (gate(json!({"auth": {"set": SET}}), json!({})), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let good = bearer(&master());
    assert_eq!(gate.ask("web", "/", &[("Host", "web.local"), ("Authorization", &good)]).status, 200);
    gate.silent.store(true, Ordering::Relaxed);
    let mut visitors: Vec<_> = (0..256).map(|_| Visitor::connect(gate.address("web"))).collect();
    for (number, visitor) in visitors.iter_mut().enumerate() {
        let forged = bearer(&signed(json!({"exp": from_now(60.0), "n": number}), "bad"));
        visitor.say("/", &[("Host", "web.local"), ("Authorization", &forged)]);
    }
    until("all wait", || gate.role.metrics().contains("tidegate_credentials_waiting 256"));
    let answer =
        gate.ask("web", "/", &[("Host", "web.local"), ("Authorization", &bearer(&master()).replace('.', ".e30."))]);
    assert_eq!(answer.error(), "invalid_token");
    let another = bearer(&token(json!({"exp": from_now(60.0), "n": 257})));
    assert_eq!(gate.ask("web", "/", &[("Host", "web.local"), ("Authorization", &another)]).error(), "overload");
    assert_eq!(gate.ask("web", "/", &[("Host", "web.local"), ("Authorization", &good)]).status, 200);
    gate.silent.store(false, Ordering::Relaxed);
    assert!(visitors.iter_mut().all(|visitor| visitor.answer().error() == "invalid_token"));
}

#[test]
fn case_35_what_a_token_has_opened_ends_with_it_and_other_things_go_on() {
    let service = Service::start();
    let routes = json!([route("open.local", json!({"endpoint": {"endpoint": "web"}}), json!({"auth": null}))]);
    let gate = gate(json!({"auth": {"set": SET}}), json!({"routes": routes}));
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    let _other = Agent::start(gate.address("agents"), "other", service.address, None);
    until("they are there", || gate.endpoints().len() == 2);
    let expires = from_now(2.0);
    let short = bearer(&token(json!({"exp": expires})));
    let begin = |fields: &[(&str, &str)]| {
        let mut visitor = Visitor::connect(gate.address("web"));
        visitor.say("/endless", fields);
        assert_eq!(visitor.answer().status, 200);
        visitor
    };
    let mut short = begin(&[("Host", "other.local"), ("Authorization", &short)]);
    let mut revoked = begin(&[
        ("Host", "other.local"),
        ("Authorization", &bearer(&token(json!({"exp": from_now(60.0), "key": "2"})))),
    ]);
    let open = begin(&[("Host", "open.local")]);
    assert!(short.is_reset());
    let late = from_now(0.0) - expires;
    assert!((-1.0..1.5).contains(&late), "{late}");
    assert_eq!(gate.role.revoke(&[format!("{SET}/2")]), 1);
    let began = Instant::now();
    assert!(revoked.is_reset() && began.elapsed() < Duration::from_secs(1));
    open.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut byte = [0];
    assert_eq!(std::io::Read::read(&mut &open.stream, &mut byte).unwrap(), 1);
}

#[test]
fn a_token_and_its_tenant_have_so_many_requests_a_second() {
    let tenants = json!({"acme": {"requests": 5}});
    let (gate, service) = (gate(json!({"auth": {"set": SET}}), json!({"tenants": tenants})), Service::start());
    let of = |claims: Value| bearer(&token(claims));
    let ask = |credential: &str| gate.ask("web", "/", &[("Host", "web.local"), ("Authorization", credential)]);
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let own = of(json!({"exp": from_now(60.0), "limits": {"requests": 3}}));
    let statuses: Vec<u16> = (0..5).map(|_| ask(&own).status).collect();
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
    let answer = (0..50).map(|_| ask(&own)).find(|answer| answer.status == 429).unwrap();
    assert_eq!((answer.error(), answer.field("retry-after")), ("too_many", Some("1")));
}

#[test]
fn a_tenant_has_so_many_requests_whoever_asks_for_its_endpoints() {
    let db = json!({"tenant": "acme", "to": {"endpoint": {"endpoint": "web"}}});
    let listeners = json!([
        listener("web", "http", json!({"tenant": "acme"})),
        listener("db", "tcp", db),
        listener("agents", "tunnel", json!({"tenant": "acme"})),
    ]);
    let changes = json!({"tenants": {"acme": {"streams": 1}}});
    let (gate, service) = (Gate::start(&configuration(listeners, changes)), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || gate.endpoints() == [("acme".into(), "web".into(), 1)]);
    let other = [("Host", "web.local")];
    // Its endpoint is named by the TCP listener, so that a route would have to lead there.
    assert_eq!(gate.ask("web", "/", &other).status, 502);
    let mut raw = Visitor::connect(gate.address("db"));
    raw.say("/endless", &other);
    assert_eq!(raw.answer().status, 200);
    assert!(Visitor::connect(gate.address("db")).is_reset());
    assert!(gate.role.metrics().contains(r#"tidegate_tenant_refused_total{tenant="acme",limit="streams"} 1"#));
}

#[test]
fn only_from_where_it_is_permitted_by_a_trusted_proxys_word_too() {
    let service = Service::start();
    let to = json!({"endpoint": {"endpoint": "web"}});
    let routes = json!([
        route("inside.local", to.clone(), json!({"allow": ["10.0.0.0/8"], "deny": ["10.9.0.0/16"]})),
        route("all.local", to, json!({})),
    ]);
    let gate = gate(json!({"deny": ["192.0.2.0/24"]}), json!({"routes": routes, "trusted_proxies": ["127.0.0.0/8"]}));
    let _agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    let ask = |host: &str, from: &str| gate.ask("web", "/", &[("Host", host), ("X-Forwarded-For", from)]);
    assert_eq!(ask("inside.local", "10.1.1.1").status, 200);
    for from in ["10.9.1.1", "11.1.1.1", "192.0.2.1"] {
        let answer = ask("inside.local", from);
        assert_eq!((answer.status, answer.error()), (403, "address_denied"), "{from}");
        assert!(answer.body.contains("not from this address"));
    }
    assert_eq!((ask("all.local", "11.1.1.1").status, ask("all.local", "192.0.2.1").status), (200, 403));
}
