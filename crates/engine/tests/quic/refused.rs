//! Who is not let in, and what it is told.

use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};

use crate::dialled::{Authority, Brings, ask, counted, endpoint, gate, hello, runtime};
use crate::gate::{SET, master, token, until};

fn handshakes(outcome: &str) -> String {
    format!("tidegate_quic_handshakes_total{{listener=\"agents\",outcome=\"{outcome}\"}}")
}

#[test]
fn whoever_speaks_no_protocol_of_ours_is_refused_by_tls_and_counted() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        for protocols in [&[&b"h3"[..]][..], &[b"quic-echo-example"], &[]] {
            let brings = Brings { protocols, ..Brings::nothing(&authority) };
            let error = brings.dial(&endpoint(), gate.address("agents")).await.unwrap_err();
            assert!(error.to_string().contains("120") || error.to_string().contains("peer"), "{error}");
        }
        Brings { protocols: &[b"h3", b"tidegate/1"], ..Brings::nothing(&authority) }
            .dial(&endpoint(), gate.address("agents"))
            .await
            .unwrap();
    });
    // Who is refused may hear of it before it is counted.
    until("all three are counted", || counted(&gate, &handshakes("alpn")) == 3.0);
    assert_eq!(counted(&gate, &handshakes("full")), 1.0);
}

#[test]
fn without_a_certificate_of_a_known_authority_nobody_gets_in_where_one_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let gate = gate(&authority, json!({"client_ca": clients.pem()}), json!({}));
    runtime().block_on(async {
        for identity in [None, Some(authority.issue(ExtendedKeyUsagePurpose::ClientAuth))] {
            let brings = Brings { identity, ..Brings::nothing(&authority) };
            brings.dial(&endpoint(), gate.address("agents")).await.unwrap_err();
        }
        let identity = Some(clients.issue(ExtendedKeyUsagePurpose::ClientAuth));
        let brings = Brings { identity, ..Brings::nothing(&authority) };
        let connection = brings.dial(&endpoint(), gate.address("agents")).await.unwrap();
        assert!(ask(&connection, &hello("web", "")).await.0.starts_with("HTTP/1.1 101 "));
    });
    until("both are counted", || counted(&gate, &handshakes("tls")) == 2.0);
}

#[test]
fn a_refusal_is_the_same_as_over_websocket_and_ends_the_connection() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({"auth": {"set": SET}}), json!({}));
    let bearer = |token: String| format!("Authorization: Bearer {token}\r\n");
    let other = bearer(token(json!({"exp": crate::gate::from_now(60.0), "listen": ["other"]})));
    runtime().block_on(async {
        for (says, status, words) in [
            (hello("web", ""), 401, "missing authorization"),
            (hello("web", "Authorization: Digest x\r\n"), 401, "unsupported auth type"),
            (hello("web", &bearer("abc".to_owned())), 401, "invalid token"),
            (hello("web", &other), 401, "endpoint not permitted"),
            (hello("a%2eb", &bearer(master())), 400, "invalid endpoint id"),
            (hello("web", "").replace("tidegate/1", "websocket"), 400, "malformed request"),
            (hello("web", "").replace("GET", "POST"), 400, "malformed request"),
            (hello("web", "").replace("/piko/v1/upstream/web", "/"), 404, "no route"),
            (hello("web", "") + "more than that", 400, "malformed request"),
            ("nonsense\r\n\r\n".to_owned(), 400, "malformed request"),
        ] {
            let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
            let (head, mut send, mut recv) = ask(&connection, &says).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{says}: {head}");
            let body: Value = serde_json::from_slice(&recv.read_to_end(4096).await.unwrap()).unwrap();
            assert_eq!(body["error"], words, "{says}");
            send.finish().unwrap();
            let ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!("not closed") };
            assert_eq!(close.error_code, VarInt::from_u32(4));
        }
    });
    assert!(gate.endpoints().is_empty());
}

#[test]
fn whoever_is_let_in_is_told_what_an_agent_over_websocket_is_told() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({"public_url": "https://{endpoint}.gate.example.com"}));
    runtime().block_on(async {
        let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
        let (head, _send, _recv) = ask(&connection, &hello("web", "")).await;
        for line in [
            "HTTP/1.1 101 ",
            "upgrade: tidegate/1",
            "x-tidegate-node: n",
            "x-tidegate-version: 0",
            "x-tidegate-features: retry, reuse, half-close",
            "x-tidegate-url: https://web.gate.example.com",
        ] {
            assert!(head.to_lowercase().contains(&line.to_lowercase()), "{line} not in {head}");
        }
        until("it is there", || gate.endpoints() == [(String::new(), "web".to_owned(), 1)]);
        let status = gate.role.status();
        assert_eq!(status["endpoints"][0]["listeners"][0]["transport"], "quic");
        connection.close(VarInt::from_u32(0), b"");
        until("it is gone", || gate.endpoints().is_empty());
    });
}

#[test]
fn nobody_who_comes_back_says_anything_before_the_handshake() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        // It keeps what it is given for the next time.
        let (config, endpoint) = (Brings::nothing(&authority).config(), endpoint());
        for _ in 0..3 {
            let connecting = endpoint.connect_with(config.clone(), gate.address("agents"), "localhost").unwrap();
            let Err(connecting) = connecting.into_0rtt() else { panic!("there is a ticket for early data") };
            let connection = connecting.await.unwrap();
            let (head, _send, _recv) = ask(&connection, &hello("web", "")).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            connection.close(VarInt::from_u32(0), b"");
        }
    });
}

#[test]
fn an_address_that_may_not_connect_gets_no_answer() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({"deny": ["127.0.0.0/8"]}), json!({}));
    runtime().block_on(async {
        let (brings, endpoint) = (Brings::nothing(&authority), endpoint());
        let dialling = brings.dial(&endpoint, gate.address("agents"));
        let _ = tokio::time::timeout(Duration::from_millis(500), dialling).await.unwrap_err();
    });
    assert!(counted(&gate, &handshakes("denied")) >= 1.0);
    assert_eq!(counted(&gate, &handshakes("full")), 0.0);
}

#[test]
fn whoever_asks_nothing_has_the_time_of_a_handshake() {
    let authority = Authority::new();
    let mut timeouts = crate::gate::configuration(json!([]), json!({}))["timeouts"].clone();
    timeouts["handshake"] = json!(0.6);
    let gate = gate(&authority, json!({}), json!({"timeouts": timeouts}));
    runtime().block_on(async {
        for says in ["", "GET /piko/v1/upstream/web HTTP/1.1\r\n"] {
            let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
            let (mut send, _recv) = connection.open_bi().await.unwrap();
            send.write_all(says.as_bytes()).await.unwrap();
            tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
        }
    });
    until("their places are free", || gate.role.status()["listeners"][1]["connections"] == 0);
}
