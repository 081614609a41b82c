//! Agents of quic-reverse-http-tunnel, who say nothing and wait for streams.

use quinn::{Connection, ReadError, VarInt};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;

use crate::dialled::{Authority, Brings, counted, endpoint, gate, runtime};
use crate::gate::{Gate, Visitor, until};

const PROTOCOL: &[&[u8]] = &[b"quic-echo-example"];

/// A listener whose agents offer `old`.
fn old_gate(authority: &Authority) -> Gate {
    gate(authority, json!({"client_ca": authority.pem(), "transports": ["quic"], "quic_tunnel": "old"}), json!({}))
}

fn old_agent(authority: &Authority) -> Brings<'_> {
    let identity = Some(authority.issue(ExtendedKeyUsagePurpose::ClientAuth));
    Brings { authority, protocols: PROTOCOL, identity }
}

fn sessions(gate: &Gate) -> f64 {
    counted(gate, "tidegate_sessions{tenant=\"\",endpoint=\"old\",transport=\"quic-tunnel\"}")
}

async fn offered(authority: &Authority, gate: &Gate) -> Connection {
    let connection = old_agent(authority).dial(&endpoint(), gate.address("agents")).await.unwrap();
    until("the session is there", || sessions(gate) == 1.0);
    connection
}

#[test]
fn streams_are_opened_to_them_and_carry_nothing_but_what_a_downstream_says() {
    let authority = Authority::new();
    let gate = old_gate(&authority);
    let web = gate.address("web");
    runtime().block_on(async {
        let agent = offered(&authority, &gate).await;
        let asking = tokio::task::spawn_blocking(move || {
            let mut visitor = Visitor::connect(web);
            visitor.say("/", &[("Host", "old.localhost")]);
            visitor.answer().body
        });
        let (mut send, mut recv) = agent.accept_bi().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            recv.read_exact(&mut byte).await.unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"GET / HTTP/1.1\r\n"), "{}", head.escape_ascii());
        send.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        assert_eq!(asking.await.unwrap(), "hi");
    });
}

#[test]
fn they_open_no_streams_themselves() {
    let authority = Authority::new();
    let gate = old_gate(&authority);
    runtime().block_on(async {
        let agent = offered(&authority, &gate).await;
        let (mut send, mut recv) = agent.open_bi().await.unwrap();
        send.write_all(b"x").await.unwrap();
        let error = recv.read(&mut [0]).await.unwrap_err();
        assert!(matches!(error, ReadError::Reset(code) if code == VarInt::from_u32(1)), "{error}");
        assert_eq!(sessions(&gate), 1.0);
    });
}

#[test]
fn nobody_else_is_let_in_where_they_are() {
    let authority = Authority::new();
    let gate = old_gate(&authority);
    runtime().block_on(async {
        let stranger = Some(Authority::new().issue(ExtendedKeyUsagePurpose::ClientAuth));
        for brings in [
            Brings { identity: None, ..old_agent(&authority) },
            Brings { identity: stranger, ..old_agent(&authority) },
            Brings { protocols: &[b"tidegate/1"], ..old_agent(&authority) },
        ] {
            brings.dial(&endpoint(), gate.address("agents")).await.unwrap_err();
        }
    });
    let outcome = |outcome| {
        counted(&gate, &format!("tidegate_quic_handshakes_total{{listener=\"agents\",outcome=\"{outcome}\"}}"))
    };
    // Who is refused may hear of it before it is counted.
    until("all three are counted", || (outcome("tls"), outcome("alpn")) == (2.0, 1.0));
    assert_eq!(sessions(&gate), 0.0);
}

#[test]
fn the_session_ends_with_its_connection() {
    let authority = Authority::new();
    let gate = old_gate(&authority);
    runtime().block_on(async {
        let agent = offered(&authority, &gate).await;
        // As the original closes.
        agent.close(VarInt::from_u32(100), b"die");
        until("the session is gone", || sessions(&gate) == 0.0);
    });
}
