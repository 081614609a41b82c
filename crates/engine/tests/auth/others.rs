//! The other ways in: HTTP/2, byte streams over WebSocket, upgrades, client certificates; and what tokens may have.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::anybody::Anybody;
use crate::gate::{
    Agent, Gate, SET, Service, UPGRADE, Visitor, configuration, from_now, listener, master, token, until,
};

fn gate(web: Value, changes: Value) -> (Gate, Service, Agent) {
    let listeners = json!([listener("web", "http", web), listener("agents", "tunnel", json!({}))]);
    let (gate, service) = (Gate::start(&configuration(listeners, changes)), Service::start());
    let agent = Agent::start(gate.address("agents"), "web", service.address, None);
    until("it is there", || !gate.endpoints().is_empty());
    (gate, service, agent)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Status and body of a request over HTTP/2 with prior knowledge.
async fn over_http2(to: std::net::SocketAddr, path: &str, credential: Option<&str>) -> (u16, Option<String>) {
    let socket = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::get(format!("http://web.local{path}"));
    if let Some(credential) = credential {
        request = request.header("authorization", credential);
    }
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = answer.await.unwrap();
    let (status, mut body, mut read) = (answer.status().as_u16(), answer.into_body(), Vec::new());
    while let Some(piece) = body.data().await {
        match piece {
            Ok(piece) => {
                body.flow_control().release_capacity(piece.len()).unwrap();
                read.extend_from_slice(&piece);
            }
            Err(_) => return (status, None),
        }
    }
    (status, Some(String::from_utf8(read).unwrap()))
}

#[tokio::test]
async fn http2_is_asked_for_the_same_and_ends_by_the_same() {
    let (gate, _service, _agent) = gate(json!({"auth": {"set": SET}}), json!({}));
    let to = gate.address("web");
    assert_eq!(over_http2(to, "/", None).await.0, 401);
    let (status, body) = over_http2(to, "/", Some(&bearer(&master()))).await;
    assert_eq!(status, 200);
    assert!(!body.expect("a whole body").to_lowercase().contains("authorization"));
    let expires = from_now(2.0);
    let short = bearer(&token(json!({"exp": expires})));
    let endless = tokio::time::timeout(Duration::from_secs(10), over_http2(to, "/endless", Some(&short))).await;
    assert_eq!(endless.expect("it ends"), (200, None));
    assert!(from_now(0.0) - expires < 1.5);
}

#[test]
fn case_35_a_byte_stream_over_websocket_needs_a_token_and_ends_with_it() {
    let (gate, _service, _agent) = gate(json!({"auth": {"set": SET}}), json!({}));
    let ask = |credential: Option<&str>| {
        let mut visitor = Visitor::connect(gate.address("web"));
        let fields: Vec<_> = UPGRADE.into_iter().chain(credential.map(|it| ("x-piko-authorization", it))).collect();
        visitor.say("/_piko/v1/tcp/web", &fields);
        (visitor.answer().status, visitor)
    };
    assert_eq!(ask(None).0, 401);
    assert_eq!(ask(Some(&bearer(&token(json!({"exp": from_now(60.0), "reach": ["other"]}))))).0, 502);
    let expires = from_now(2.0);
    let (status, mut visitor) = ask(Some(&bearer(&token(json!({"exp": expires})))));
    assert_eq!(status, 101);
    assert!(visitor.is_reset());
    let late = from_now(0.0) - expires.trunc();
    assert!((0.0..2.5).contains(&late), "{late}");
    until("it is counted", || gate.role.metrics().contains(r#"code="expired_token"} 1"#));
}

#[test]
fn so_many_streams_at_once_and_so_many_bytes_a_second() {
    let (gate, _service, _agent) = gate(json!({"auth": {"set": SET}}), json!({"tenants": {"": {"bytes": 1000}}}));
    let one = bearer(&token(json!({"exp": from_now(60.0), "limits": {"streams": 1}})));
    let fields = [("Host", "web.local"), ("Authorization", &*one)];
    let mut visitor = Visitor::connect(gate.address("web"));
    visitor.say("/endless", &fields);
    assert_eq!(visitor.answer().status, 200);
    assert_eq!(gate.ask("web", "/", &fields).error(), "too_many");
    drop(visitor);
    until("it is given back", || gate.ask("web", "/", &fields).status == 200);
    let long = format!("/{}", "x".repeat(5000));
    let other = bearer(&master());
    let fields = [("Host", "web.local"), ("Authorization", &*other)];
    until("there is room", || gate.ask("web", &long, &fields).status == 200);
    let answer = gate.ask("web", "/", &fields);
    assert_eq!((answer.status, answer.error()), (429, "too_many"));
    let seconds: u32 = answer.field("retry-after").expect("told").parse().expect("a number");
    assert!((2..=6).contains(&seconds), "{seconds}");
    assert!(gate.role.metrics().contains(r#"tidegate_tenant_refused_total{tenant="",limit="bytes"}"#));
}

#[test]
fn bytes_are_charged_while_they_move() {
    let (gate, _service, _agent) = gate(json!({"auth": {"set": SET}}), json!({}));
    let slow = bearer(&token(json!({"exp": from_now(60.0), "limits": {"bytes": 2}})));
    let fields = [("Host", "web.local"), ("Authorization", &*slow)];
    let mut endless = Visitor::connect(gate.address("web"));
    endless.say("/endless", &fields);
    assert_eq!(endless.answer().status, 200);
    // Ten bytes, each a chunk of its own, and more to come.
    endless.stream.read_exact(&mut [0; 60]).expect("it goes on");
    assert_eq!(gate.ask("web", "/", &fields).error(), "too_many");
}

/// What is answered over TLS to somebody who shows `certificate`.
fn over_tls(to: std::net::SocketAddr, text: &str, certificate: Option<&(CertificateDer<'static>, Vec<u8>)>) -> String {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match certificate {
        Some((cert, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            builder.with_client_auth_cert(vec![cert.clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("web.local").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(to).unwrap());
    stream.write_all(text.as_bytes()).unwrap();
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    while !read.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => read.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn a_client_certificate_is_a_credential_where_that_is_configured() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let shown = CertificateParams::new(vec!["web".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let shown = (shown.der().clone(), key.serialize_der());
    let own = generate_simple_self_signed(vec!["web.local".to_owned()]).unwrap();
    let tls = json!({
        "certificates": [{"cert": own.cert.pem(), "key": own.signing_key.serialize_pem(), "name": "own.pem"}],
        "client_ca": authority.pem(), "client_certificate": "optional", "min_version": "1.2",
    });
    let secure = |name: &str, kind: &str, auth: Value| listener(name, kind, json!({"tls": tls, "auth": auth}));
    let listeners = json!([
        secure("web", "http", json!({"certificate": "names-1", "set": SET})),
        secure("agents", "tunnel", json!({"certificate": "names-1"})),
        listener("plain", "tunnel", json!({})),
    ]);
    let (gate, service) = (Gate::start(&configuration(listeners, json!({}))), Service::start());
    let _agent = Agent::start(gate.address("plain"), "web", service.address, None);
    let _other = Agent::start(gate.address("plain"), "other", service.address, None);
    until("they are there", || gate.endpoints().len() == 2);

    let ask = |host: &str, more: &str, certificate| {
        over_tls(gate.address("web"), &format!("GET / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"), certificate)
    };
    assert!(ask("web.local", "", Some(&shown)).starts_with("HTTP/1.1 200"));
    assert!(ask("web.local", "", None).contains("x-tidegate-error: missing_authorization"));
    // Permitted is what its names say.
    assert!(ask("other.web.local", "", Some(&shown)).contains("x-tidegate-error: no_upstream"));
    // What was meant for the service stays there; a token that is shown decides.
    assert!(ask("web.local", "Authorization: Basic YTpi\r\n", Some(&shown)).starts_with("HTTP/1.1 200"));
    let forged = "Authorization: Bearer a.b.c\r\n";
    assert!(ask("web.local", forged, Some(&shown)).contains("x-tidegate-error: invalid_token"));

    let upgrade: String = UPGRADE.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let offer = |endpoint: &str, certificate| {
        let text = format!("GET /piko/v1/upstream/{endpoint} HTTP/1.1\r\n{upgrade}\r\n");
        over_tls(gate.address("agents"), &text, certificate)
    };
    assert!(offer("web", Some(&shown)).starts_with("HTTP/1.1 101"));
    assert!(offer("other", Some(&shown)).contains("endpoint_not_permitted"));
    assert!(offer("web", None).contains("missing_authorization"));
    assert_eq!(gate.asked.lock().unwrap().iter().filter(|question| question["kind"] == "certificate").count(), 1);
}
