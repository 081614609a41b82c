//! TLS inside QUIC: who is let in by which certificate and protocol, and which certificate is shown to whom.

use std::time::Duration;

use quinn::{Connection, ConnectionError, TransportErrorCode};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
    generate_simple_self_signed,
};
use serde_json::{Value, json};
use tidegate_engine::snapshot::{ClientTls, ServerTls};
use tidegate_engine::tls::quic;
use tokio::time::timeout;

#[path = "support/quic.rs"]
mod support;

use support::{PROTOCOL, certificate, policy};

type Ends = (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>);

/// A handshake of a client with `believes` that offers `protocol`: what became of it at the client and at the server.
async fn shake(policy: &ServerTls, believes: &ClientTls, protocol: &[u8]) -> Ends {
    let tunnel = support::tunnel(30.0, 10.0);
    let server = support::server(policy, &tunnel);
    let address = server.local_addr().expect("address");
    let accepting = async { server.accept().await.expect("an Initial").await };
    let shaking = async { tokio::join!(support::dial(believes, protocol, &tunnel, address), accepting) };
    timeout(Duration::from_secs(20), shaking).await.expect("in time")
}

/// The TLS alert by which a connection ended.
fn alert(error: &ConnectionError) -> u64 {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        other => panic!("{other}"),
    };
    let code = u64::from(code);
    assert_eq!(code >> 8, u64::from(TransportErrorCode::crypto(0)) >> 8);
    code & 0xFF
}

/// An authority, and certificates of clients that it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        Authority { issuer }
    }

    /// `client` with a certificate that ends in this year.
    fn certify(&self, client: &ClientTls, until: i32) -> ClientTls {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["agent.test".to_owned()]).expect("parameters");
        params.not_after = date_time_ymd(until, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        ClientTls { cert: Some(cert.pem()), key: Some(key.serialize_pem().into()), ..client.clone() }
    }
}

#[tokio::test]
async fn whoever_speaks_another_protocol_is_refused_in_the_handshake() {
    let (shown, believes) = certificate();
    let policy = policy(shown, None);
    for protocol in [&b"h3"[..], b"tidegate/2", b"quic-echo-example"] {
        let (client, server) = shake(&policy, &believes, protocol).await;
        // no_application_protocol
        assert_eq!(alert(&client.expect_err("refused")), 120);
        assert_eq!(alert(&server.expect_err("refused")), 120);
    }
    let (client, server) = shake(&policy, &believes, PROTOCOL).await;
    assert!(client.is_ok() && server.expect("a handshake").peer_identity().is_none());
}

#[tokio::test]
async fn a_client_shows_a_certificate_of_the_authority_or_is_refused() {
    let (shown, believes) = certificate();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let policy = policy(shown, Some(&ours.issuer.pem()));
    // certificate_required, unknown_ca, certificate_expired
    for (client, expected) in
        [(believes.clone(), 116), (foreign.certify(&believes, 2100), 48), (ours.certify(&believes, 2020), 45)]
    {
        let (client, server) = shake(&policy, &client, PROTOCOL).await;
        assert_eq!(alert(&server.expect_err("refused")), expected);
        // In TLS 1.3 a client is done before the server has seen its certificate.
        let error = match client {
            Ok(connection) => timeout(Duration::from_secs(20), connection.closed()).await.expect("in time"),
            Err(error) => error,
        };
        assert_eq!(alert(&error), expected);
    }
    let (client, server) = shake(&policy, &ours.certify(&believes, 2100), PROTOCOL).await;
    let shown = server.expect("a handshake").peer_identity().expect("a certificate");
    let shown = shown.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().expect("certificates");
    assert!(client.is_ok() && shown.len() == 1);
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_is_refused() {
    let (shown, believes) = certificate();
    let policy = policy(shown, None);
    let elsewhere = ClientTls { server_name: Some("other.test".to_owned()), ..believes.clone() };
    let (_, somebody_else) = certificate();
    let unsure = ClientTls { insecure_skip_verify: true, ..elsewhere.clone() };
    assert!(shake(&policy, &elsewhere, PROTOCOL).await.0.is_err());
    assert!(shake(&policy, &somebody_else, PROTOCOL).await.0.is_err());
    assert!(shake(&policy, &unsure, PROTOCOL).await.0.is_ok());
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_in_its_one_form() {
    let (first, _) = certificate();
    let made = generate_simple_self_signed(vec!["*.Second.test".to_owned()]).expect("a certificate");
    let second = json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem(), "name": "second.pem"});
    let policy: ServerTls = serde_json::from_value(json!({
        "certificates": [first, second], "client_ca": null, "client_certificate": "required", "min_version": "1.2",
    }))
    .expect("a policy");
    let believes = |name: &str| ClientTls {
        ca: Some(made.cert.pem()),
        cert: None,
        key: None,
        server_name: Some(name.to_owned()),
        insecure_skip_verify: false,
    };
    for (name, fits) in [("a.second.test", true), ("A.SECOND.test", true), ("gate.test", false), ("none.test", false)] {
        let (client, _) = shake(&policy, &believes(name), PROTOCOL).await;
        assert_eq!(client.is_ok(), fits, "{name}");
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let (shown, believes) = certificate();
    let (other, _) = certificate();
    let mixed = json!({"cert": shown["cert"], "key": other["key"], "name": "gate.pem"});
    let refused = |certificate: Value, ca: Option<&str>| {
        quic::server(&policy(certificate, ca), &[PROTOCOL]).err().expect("it cannot hold")
    };
    assert_eq!(refused(mixed, None), "certificate \"gate.pem\": the key belongs to another certificate");
    assert_eq!(refused(shown, Some("nothing")), "client_ca holds no PEM certificate");
    let keyless = ClientTls { cert: believes.ca.clone(), ..believes };
    let error = quic::client(&keyless, &[PROTOCOL]).err().expect("it cannot hold");
    assert_eq!(error, "a client certificate needs its key, and a key its certificate");
}
