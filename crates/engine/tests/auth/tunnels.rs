//! Agents at a tunnel listener that asks for a credential.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::gate::{
    Agent, Gate, SET, Service, UPGRADE, Visitor, configuration, from_now, listener, master, signed, token, until,
};

fn gate(auth: Value, changes: Value) -> Gate {
    let listeners = json!([listener("web", "http", json!({})), listener("agents", "tunnel", json!({"auth": auth}))]);
    Gate::start(&configuration(listeners, changes))
}

fn main_only() -> Gate {
    gate(json!({"set": SET}), json!({}))
}

/// What an agent gets that shows these fields for an endpoint.
fn refused(gate: &Gate, endpoint: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let all: Vec<_> = UPGRADE.iter().chain(fields).copied().collect();
    let answer = gate.ask("agents", &format!("/piko/v1/upstream/{endpoint}"), &all);
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    (answer.status, body["error"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn an_agent_gets_in_by_its_token_and_is_asked_about_once() {
    let (gate, service) = (main_only(), Service::start());
    let token = token(json!({"exp": from_now(60.0).trunc(), "listen": ["web", "team-*"]}));
    let _agents: Vec<Agent> = ["web", "team-a", "team-b"]
        .map(|name| Agent::start(gate.address("agents"), name, service.address, Some(&token)))
        .into();
    until("all three are there", || gate.endpoints().len() == 3);
    assert_eq!(gate.questions(), 1);
    let question = gate.asked.lock().unwrap()[0].clone();
    assert_eq!(
        (&question["kind"], &question["set"], &question["token"]),
        (&json!("token"), &json!(SET), &json!(token))
    );
    assert_eq!(gate.ask("web", "/", &[("Host", "web.local")]).status, 200);
}

#[test]
fn a_refusal_is_pikos_in_status_and_words() {
    let gate = main_only();
    let bearer = |token: &str| format!("Bearer {token}");
    let over = bearer(&token(json!({"exp": from_now(-1.0)})));
    let forged = bearer(&signed(json!({"exp": from_now(60.0)}), "bad"));
    let other = bearer(&token(json!({"exp": from_now(60.0), "listen": ["other"]})));
    let unknown = bearer(&signed(json!({"exp": from_now(60.0)}), "unknown"));
    let good = bearer(&master());
    let auth = |value| ("Authorization", value);
    for (fields, status, words) in [
        (vec![], 401, "missing authorization"),
        (vec![auth("Bearer")], 401, "invalid authorization"),
        (vec![auth("Basic YTpi")], 401, "unsupported auth type"),
        (vec![auth("Digest x")], 401, "unsupported auth type"),
        (vec![auth("Bearer abc")], 401, "invalid token"),
        (vec![auth(&forged)], 401, "invalid token"),
        (vec![auth(&over)], 401, "expired token"),
        (vec![auth(&other)], 401, "endpoint not permitted"),
        (vec![auth(&good), ("x-piko-tenant-id", "acme")], 401, "unknown tenant"),
        (vec![auth(&good), ("x-piko-authorization", &*forged)], 401, "invalid token"),
        (vec![auth(&good), auth(&good)], 400, "malformed request"),
        (vec![auth(&unknown)], 503, "credentials cannot be checked now"),
    ] {
        assert_eq!(refused(&gate, "web", &fields), (status, words.to_owned()));
    }
    // Nothing is said about the endpoint to whoever shows nothing.
    assert_eq!(refused(&gate, "a%2eb", &[]).1, "missing authorization");
    assert_eq!(refused(&gate, "a%2eb", &[auth(&good)]).0, 400);
    assert!(gate.endpoints().is_empty());
}

#[test]
fn a_verdict_is_worth_nothing_under_another_tenant_or_set() {
    let auth = json!({"by_tenant": {"acme": "acme-1", "globex": "globex-1"}});
    let sets = json!([{"id": "acme-1", "algorithms": ["HS256"], "require_expiry": true},
                      {"id": "globex-1", "algorithms": ["HS256"], "require_expiry": true}]);
    let gate = gate(auth, json!({"verifier_sets": sets}));
    let acme = format!("Bearer {}", token(json!({"exp": from_now(60.0), "tenant": "acme", "listen": ["x"]})));
    let of = |tenant| [("Authorization", &*acme), ("x-piko-tenant-id", tenant)];
    assert_eq!(refused(&gate, "web", &of("acme")).1, "endpoint not permitted");
    assert_eq!(refused(&gate, "web", &of("acme")).1, "endpoint not permitted");
    assert_eq!(gate.questions(), 1);
    assert_eq!(refused(&gate, "web", &of("globex")).1, "unknown tenant");
    assert_eq!(gate.questions(), 2);
    assert_eq!(gate.asked.lock().unwrap()[1]["set"], "globex-1");
    assert_eq!(refused(&gate, "web", &of("nobody")).1, "unknown tenant");
    assert_eq!(refused(&gate, "web", &of("acme")[..1]).1, "unknown tenant");
    assert_eq!(gate.questions(), 2);
}

#[test]
fn tenants_with_the_same_names_have_endpoints_of_their_own() {
    let web = |name: &str, tenant: &str| listener(name, "http", json!({"tenant": tenant}));
    let listeners =
        json!([web("a", "acme"), web("g", "globex"), listener("agents", "tunnel", json!({"auth": {"set": SET}}))]);
    let gate = Gate::start(&configuration(listeners, json!({})));
    let (ours, theirs) = (Service::start(), Service::start());
    let of = |tenant: &str| token(json!({"exp": from_now(60.0), "tenant": tenant}));
    let _ours = Agent::start(gate.address("agents"), "web", ours.address, Some(&of("acme")));
    until("the first is there", || gate.endpoints() == [("acme".into(), "web".into(), 1)]);
    assert_eq!(gate.ask("g", "/", &[("Host", "web.local")]).status, 502);
    let _theirs = Agent::start(gate.address("agents"), "web", theirs.address, Some(&of("globex")));
    until("both are there", || gate.endpoints().len() == 2);
    assert_eq!(gate.ask("a", "/", &[("Host", "web.local")]).status, 200);
    assert_eq!(gate.ask("g", "/", &[("Host", "web.local")]).status, 200);
    assert_eq!((ours.asked.load(Ordering::Relaxed), theirs.asked.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn case_35_a_session_ends_with_its_token_and_is_told_before() {
    let (gate, service) = (main_only(), Service::start());
    let expires = from_now(3.0);
    let agent = Agent::start(gate.address("agents"), "web", service.address, Some(&token(json!({"exp": expires}))));
    until("it is there", || !gate.endpoints().is_empty());
    let mut visitor = Visitor::connect(gate.address("web"));
    visitor.say("/endless", &[("Host", "web.local")]);
    assert!(visitor.is_reset());
    let late = from_now(0.0) - expires.trunc();
    assert!((0.0..2.0).contains(&late), "ended {late} s after its time");
    until("nobody offers it any more", || gate.endpoints().is_empty());
    // The agent knew before, tried again with what it has, and was told that this is over.
    until("the agent was refused", || agent.told().contains("expired token"));
}

#[test]
fn an_agent_shows_the_token_that_it_was_given_last() {
    let (gate, service) = (main_only(), Service::start());
    let expires = from_now(3.0);
    let agent = Agent::start(gate.address("agents"), "web", service.address, Some(&token(json!({"exp": expires}))));
    until("it is there", || !gate.endpoints().is_empty());
    agent.role.set_token(master()).unwrap();
    // Announced, so that the successor is there before the first session ends.
    until("it shows the other one", || gate.questions() == 2);
    until("the first one is over", || from_now(0.0) > expires + 1.0);
    assert_eq!(gate.ask("web", "/", &[("Host", "web.local")]).status, 200);
}

#[test]
fn an_agent_whose_token_is_over_waits_for_the_next_one_where_there_may_be_one() {
    let (gate, service) = (main_only(), Service::start());
    let short = token(json!({"exp": from_now(2.0)}));
    let agent = Agent::start(gate.address("agents"), "renewed", service.address, Some(&short));
    until("it is there", || !gate.endpoints().is_empty());
    until("its time is over", || agent.told().contains("expired token"));
    agent.role.set_token(master()).unwrap();
    until("it is there again", || !gate.endpoints().is_empty());
}

#[test]
fn a_session_outlives_its_token_where_that_is_configured_but_not_its_key() {
    let gate = gate(json!({"set": SET, "disconnect_on_expiry": false}), json!({}));
    let service = Service::start();
    let expires = from_now(2.0);
    let of = |key: &str| token(json!({"exp": expires, "key": key}));
    let _one = Agent::start(gate.address("agents"), "one", service.address, Some(&of("1")));
    let _two = Agent::start(gate.address("agents"), "two", service.address, Some(&of("2")));
    until("both are there", || gate.endpoints().len() == 2);
    until("their time is over", || from_now(0.0) > expires + 1.0);
    assert_eq!(gate.endpoints().len(), 2);
    assert_eq!(gate.role.revoke(&[format!("{SET}/1")]), 1);
    until("one is gone", || gate.endpoints().len() == 1);
    assert_eq!(gate.endpoints()[0].1, "two");
}

#[test]
fn sessions_of_other_verifiers_end_when_the_configuration_changes() {
    let (gate, service) = (main_only(), Service::start());
    let _agent = Agent::start(gate.address("agents"), "web", service.address, Some(&master()));
    until("it is there", || !gate.endpoints().is_empty());
    let apply = |set: &str| {
        let listeners =
            json!([listener("web", "http", json!({})), listener("agents", "tunnel", json!({"auth": {"set": set}}))]);
        let sets = json!([{"id": set, "algorithms": ["HS256"], "require_expiry": true}]);
        let whole = configuration(listeners, json!({"verifier_sets": sets}));
        gate.role.apply(tidegate_engine::roles::read(whole.to_string().as_bytes()).unwrap()).unwrap();
    };
    apply(SET);
    assert_eq!(gate.questions(), 1);
    apply("main-2");
    // It comes back, and is asked about anew.
    until("it was asked about again", || gate.questions() == 2);
    until("it is there again", || gate.endpoints().len() == 1);
    assert_eq!(gate.asked.lock().unwrap()[1]["set"], "main-2");
}

#[test]
fn sessions_end_whose_verifiers_their_listener_takes_no_more_although_another_one_does() {
    let sets = json!([{"id": SET, "algorithms": ["HS256"], "require_expiry": true},
                      {"id": "ops-1", "algorithms": ["HS256"], "require_expiry": true}]);
    let whole = |set: &str| {
        let web = listener("web", "http", json!({"auth": {"set": SET}}));
        let listeners = json!([web, listener("agents", "tunnel", json!({"auth": {"set": set}}))]);
        configuration(listeners, json!({"verifier_sets": sets}))
    };
    let (gate, service) = (Gate::start(&whole(SET)), Service::start());
    let agent = Agent::start(gate.address("agents"), "web", service.address, Some(&master()));
    until("it is there", || !gate.endpoints().is_empty());
    gate.role.apply(tidegate_engine::roles::read(whole("ops-1").to_string().as_bytes()).unwrap()).unwrap();
    until("it was asked about again", || gate.questions() == 2);
    assert_eq!(gate.asked.lock().unwrap()[1]["set"], "ops-1");
    until("it is there again", || gate.endpoints().len() == 1);
    // What is as it was ends nothing.
    gate.role.apply(tidegate_engine::roles::read(whole("ops-1").to_string().as_bytes()).unwrap()).unwrap();
    assert_eq!(gate.questions(), 2);
    drop(agent);
}

#[test]
fn a_tenant_has_so_many_sessions_also_where_only_the_listener_says_whose_they_are() {
    for auth in [Value::Null, json!({"set": SET})] {
        let agents = listener("agents", "tunnel", json!({"auth": auth, "tenant": "acme"}));
        let changes = json!({"tenants": {"acme": {"sessions": 1}}});
        let (gate, service) = (Gate::start(&configuration(json!([agents]), changes)), Service::start());
        let token = master();
        let _agent = Agent::start(gate.address("agents"), "web", service.address, Some(&token));
        until("it is there", || gate.endpoints() == [("acme".into(), "web".into(), 1)]);
        let bearer = format!("Bearer {token}");
        assert_eq!(refused(&gate, "other", &[("Authorization", &bearer)]), (429, "too many".into()));
    }
}

#[test]
fn a_token_has_so_many_sessions_and_no_more() {
    let (gate, service) = (main_only(), Service::start());
    let token = token(json!({"exp": from_now(60.0), "limits": {"sessions": 1}}));
    let _agent = Agent::start(gate.address("agents"), "web", service.address, Some(&token));
    until("it is there", || !gate.endpoints().is_empty());
    let bearer = format!("Bearer {token}");
    assert_eq!(refused(&gate, "web", &[("Authorization", &bearer)]), (429, "too many".into()));
}

#[test]
fn agents_come_from_where_they_may() {
    let listeners = json!([listener("agents", "tunnel", json!({"deny": ["127.0.0.0/8"]}))]);
    let gate = Gate::start(&configuration(listeners, json!({})));
    let mut visitor = Visitor::connect(gate.address("agents"));
    assert!(visitor.is_reset());
    assert!(gate.role.metrics().contains(r#"tidegate_errors_total{listener="agents",code="address_denied"} 1"#));
}
