//! Sessions of forwards: what comes on their streams meets what it would have met over TCP, and what one may hold.

use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};

use crate::dialled::{Authority, Brings, ask, counted, endpoint, hello, runtime};
use crate::gate::{Gate, SET, configuration, listener, master, route, until};

/// What begins a session.
const REACH: &str =
    "GET /_tidegate/v1/reach HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tidegate/1\r\n\r\n";

/// A gateway whose `web` takes forwards and whose `agents` takes agents, both over QUIC. `web` and `changes` are laid
/// over the listener and the configuration.
fn gate(authority: &Authority, web: Value, changes: Value) -> Gate {
    let (cert, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let tls = json!({
        "certificates": [{"cert": cert, "key": key.serialize_pem(), "name": "a"}],
        "client_ca": null, "client_certificate": "required", "min_version": "1.2",
    });
    let quic = json!({"transports": ["websocket", "quic"], "tls": tls});
    let mut reached = quic.clone();
    for (key, value) in web.as_object().unwrap() {
        reached[key] = value.clone();
    }
    let listeners = json!([listener("web", "http", reached), listener("agents", "tunnel", quic)]);
    Gate::start(&configuration(listeners, changes))
}

async fn session(gate: &Gate, authority: &Authority) -> (Connection, SendStream, RecvStream) {
    let connection = Brings::nothing(authority).dial(&endpoint(), gate.address("web")).await.unwrap();
    let (head, send, recv) = ask(&connection, REACH).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (connection, send, recv)
}

/// A stream of a session that begins with this kind.
async fn stream(connection: &Connection, kind: u8) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(&[kind]).await.unwrap();
    (send, recv)
}

/// What is answered on a stream of its own, to the end of the head or of the stream.
async fn answered(connection: &Connection, says: &str) -> String {
    let (mut send, mut recv) = stream(connection, 0).await;
    send.write_all(says.as_bytes()).await.unwrap();
    let (mut got, mut byte) = (Vec::new(), [0]);
    while !got.ends_with(b"\r\n\r\n") && matches!(recv.read(&mut byte).await, Ok(Some(_))) {
        got.extend_from_slice(&byte);
    }
    assert_eq!(got.first(), Some(&0), "the stream was not taken");
    String::from_utf8(got.split_off(1)).unwrap()
}

fn connections(gate: &Gate) -> u64 {
    gate.role.status()["listeners"][0]["connections"].as_u64().unwrap()
}

#[test]
fn every_stream_is_a_connection_of_the_listener_and_asks_for_itself() {
    let authority = Authority::new();
    let routes = json!([route(
        "open.test",
        json!({"upstream": "nowhere"}),
        json!({"auth": null, "action": {"respond": {
            "status": 200, "body": "open", "headers": []}}})
    ),]);
    let changes = json!({"routes": routes, "upstreams": []});
    let gate = gate(&authority, json!({"auth": {"set": SET}, "dynamic_endpoints": {"allow": ["db"]}}), changes);
    runtime().block_on(async {
        let (connection, _send, _recv) = session(&gate, &authority).await;
        let token = format!("Authorization: Bearer {}\r\n", master());
        let tcp = "GET /_piko/v1/tcp/db HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tidegate-bytes\r\n";
        for (says, status) in [
            ("GET / HTTP/1.1\r\nHost: open.test\r\n\r\n".to_owned(), 200),
            ("GET / HTTP/1.1\r\nHost: db.test\r\n\r\n".to_owned(), 401),
            (format!("GET / HTTP/1.1\r\nHost: db.test\r\n{token}\r\n"), 502),
            (format!("{tcp}\r\n"), 401),
            (format!("{tcp}{token}\r\n"), 502),
            (format!("{}{token}\r\n", tcp.replace("tcp/db", "tcp/other")), 502),
            // Only the first stream is one for this.
            (format!("{}{token}\r\n", REACH.trim_end_matches("\r\n").to_owned() + "\r\n"), 404),
            (format!("{}{token}\r\n", hello("db", "").trim_end_matches("\r\n").to_owned() + "\r\n"), 404),
            ("nonsense\r\n\r\n".to_owned(), 400),
        ] {
            let head = answered(&connection, &says).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{says}: {head}");
        }
        // What is not refused for good may be followed by another request, as over TCP.
        let (mut send, mut recv) = stream(&connection, 0).await;
        for _ in 0..3 {
            send.write_all(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n").await.unwrap();
        }
        send.finish().unwrap();
        let all = String::from_utf8(recv.read_to_end(4096).await.unwrap()).unwrap();
        assert_eq!(all.matches("HTTP/1.1 200 ").count(), 3, "{all}");
    });
}

#[test]
fn nothing_but_a_request_for_a_session_opens_one() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        for (says, status) in [
            (hello("web", ""), 404),
            (REACH.replace("reach", "reach/"), 404),
            (REACH.replace("tidegate/1", "websocket"), 400),
            (REACH.replace("GET", "POST"), 400),
            (format!("{REACH}more"), 400),
            ("nonsense\r\n\r\n".to_owned(), 400),
        ] {
            let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("web")).await.unwrap();
            let (head, mut send, _recv) = ask(&connection, &says).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{says}: {head}");
            send.finish().unwrap();
            let ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!("not closed") };
            assert_eq!(close.error_code, VarInt::from_u32(4));
        }
        // Where agents come nobody reaches anything.
        let connection = Brings::nothing(&authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
        assert!(ask(&connection, REACH).await.0.starts_with("HTTP/1.1 404 "));
    });
    until("nothing is left of them", || connections(&gate) == 0);
}

#[test]
fn streams_of_other_kinds_and_directions_are_not_taken() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        let (connection, _send, _recv) = session(&gate, &authority).await;
        let (_send, mut recv) = stream(&connection, 7).await;
        let error = recv.read_to_end(16).await.unwrap_err();
        assert!(error.to_string().contains("reset"), "{error}");
        // One is refused, the session goes on.
        let head = answered(&connection, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        let uni = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await;
        assert!(uni.is_err(), "a stream of one direction was permitted");
    });
}

#[test]
fn a_flood_of_streams_holds_what_visitors_may_hold_and_gives_it_back_for_others() {
    let authority = Authority::new();
    let limits = json!({"head_bytes": 65536, "head_fields": 100, "connections": 60, "idle_upstreams": 10,
                        "retry_percent": 20, "http2_streams": 100});
    let gate = gate(&authority, json!({}), json!({"limits": limits}));
    runtime().block_on(async {
        let (flood, _first, _answer) = session(&gate, &authority).await;
        let mut held = Vec::new();
        // Nothing is asked on them.
        for _ in 0..800 {
            held.push(stream(&flood, 0).await);
        }
        until("as many are held as may be", || connections(&gate) >= 50);
        assert!(connections(&gate) <= 64, "{}", connections(&gate));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        // Those that wait longest make room: another visitor comes in, by its own session and streams.
        let (other, _first, _answer) = session(&gate, &authority).await;
        for _ in 0..5 {
            let head = answered(&other, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        }
        flood.close(VarInt::from_u32(0), b"");
        other.close(VarInt::from_u32(0), b"");
        until("nothing is left of them", || connections(&gate) == 0);
    });
    assert!(counted(&gate, "tidegate_connections_shed_total{reason=\"idle\"}") > 0.0);
}

#[test]
fn sessions_that_carry_nothing_make_room_and_are_told() {
    let authority = Authority::new();
    let limits = json!({"head_bytes": 65536, "head_fields": 100, "connections": 20, "idle_upstreams": 10,
                        "retry_percent": 20, "http2_streams": 100});
    let gate = gate(&authority, json!({}), json!({"limits": limits}));
    runtime().block_on(async {
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(session(&gate, &authority).await);
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let (other, _first, _answer) = session(&gate, &authority).await;
        let head = answered(&other, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        // The oldest of them; in order, so that it comes back.
        let closed = tokio::time::timeout(Duration::from_secs(5), idle[0].0.closed()).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code, VarInt::from_u32(0));
    });
}

#[test]
fn over_tcp_no_session_begins() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({"tls": null, "transports": ["websocket"]}), json!({}));
    let asks = [("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "tidegate/1")];
    assert_eq!(gate.ask("web", "/_tidegate/v1/reach", &asks).status, 404);
}

#[test]
fn many_streams_of_one_that_come_and_go_harm_nobody_else() {
    let authority = Authority::new();
    let gate = gate(&authority, json!({}), json!({}));
    runtime().block_on(async {
        let (flood, _first, _answer) = session(&gate, &authority).await;
        let (other, _second, _said) = session(&gate, &authority).await;
        let flooding = tokio::spawn(async move {
            for _ in 0..20_000 {
                let Ok((mut send, mut recv)) = flood.open_bi().await else { return };
                if send.write_all(&[0]).await.is_err() {
                    return;
                }
                let _ = send.reset(VarInt::from_u32(0));
                let _ = recv.stop(VarInt::from_u32(0));
            }
        });
        for _ in 0..50 {
            let asked = answered(&other, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let head = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        }
        flooding.await.unwrap();
        other.close(VarInt::from_u32(0), b"");
        until("nothing is left of them", || connections(&gate) == 0);
    });
}
