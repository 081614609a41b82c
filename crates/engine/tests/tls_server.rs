//! TLS towards whoever connects: certificates by name, clients' certificates, resumption, floods.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, generate_simple_self_signed};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use serde_json::{Value, json};
use tidegate_engine::io::BoxedIo;
use tidegate_engine::snapshot::ServerTls;
use tidegate_engine::tls::server::{Acceptor, Agreed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[path = "support/anybody.rs"]
mod anybody;

use anybody::Anybody;

const HTTP: &[&[u8]] = &[b"http/1.1"];
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A certificate for these names and its key, as a snapshot has them.
fn certificate(names: &[&str]) -> Value {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = generate_simple_self_signed(names.clone()).expect("a certificate for valid names");
    json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem(), "name": format!("{names:?}.pem")})
}

fn policy(certificates: Value, more: Value) -> ServerTls {
    let mut whole = json!({
        "certificates": certificates, "client_ca": null, "client_certificate": "required", "min_version": "1.2",
    });
    let given = more.as_object().expect("an object").clone();
    whole.as_object_mut().expect("an object").extend(given);
    serde_json::from_value(whole).expect("a policy")
}

fn acceptor(policy: &ServerTls, protocols: &'static [&'static [u8]]) -> Arc<Acceptor> {
    Arc::new(Acceptor::new(policy, protocols).expect("a policy that can hold"))
}

/// An authority and a certificate of a client that it signed, with its key.
struct Authority {
    ca: String,
    client: (CertificateDer<'static>, Vec<u8>),
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let client = CertificateParams::new(vec!["agent.test".to_owned()]).expect("parameters");
        let client = client.signed_by(&key, &ca).expect("a certificate");
        Authority { ca: ca.pem(), client: (client.der().clone(), key.serialize_der()) }
    }
}

/// A client that trusts everybody and remembers sessions.
fn client(
    versions: &[&'static SupportedProtocolVersion],
    shows: Option<&Authority>,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shows {
        Some(authority) => {
            let (cert, key) = authority.client.clone();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            builder.with_client_auth_cert(vec![cert], key).expect("a matching key")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(32)));
    Arc::new(config)
}

fn any_client() -> Arc<ClientConfig> {
    client(&[&TLS13, &TLS12], None, &[])
}

/// Both ends after a handshake for `name`.
async fn shake(
    acceptor: &Acceptor,
    client: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<(TlsStream<DuplexStream>, BoxedIo, Agreed)> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let server_name = ServerName::try_from(name.to_owned()).expect("a name");
    let certificate = acceptor.names().find(name).unwrap_or(0);
    let connect = TlsConnector::from(client.clone()).connect(server_name, near);
    let accept = acceptor.accept(Box::new(far), certificate);
    let (connected, accepted) = tokio::join!(connect, accept);
    let (io, agreed) = accepted.map_err(|(error, _)| error)?;
    Ok((connected?, io, agreed))
}

/// One byte each way, so that the client has seen the tickets.
async fn greet(client: &mut TlsStream<DuplexStream>, server: &mut BoxedIo) {
    client.write_all(b"x").await.expect("a byte");
    let mut byte = [0];
    server.read_exact(&mut byte).await.expect("the byte");
    server.write_all(&byte).await.expect("a byte");
    client.read_exact(&mut byte).await.expect("the byte");
}

fn shown(client: &TlsStream<DuplexStream>) -> Vec<u8> {
    let (_, tls) = client.get_ref();
    tls.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_and_the_first_is_for_all_others() {
    let certificates = json!([
        certificate(&["first.test"]),
        certificate(&["*.example.com"]),
        certificate(&["a.example.com", "b.example.org"]),
    ]);
    let acceptor = acceptor(&policy(certificates, json!({})), HTTP);
    let mut leaves = Vec::new();
    for name in ["first.test", "x.example.com", "a.example.com", "b.example.org", "unknown.test", "x.y.example.com"] {
        let (client, ..) = shake(&acceptor, &any_client(), name).await.expect("a handshake");
        leaves.push(shown(&client));
    }
    assert_eq!(leaves[2], leaves[3]);
    assert_eq!(leaves[0], leaves[4]);
    assert_eq!(leaves[0], leaves[5]);
    assert!(leaves[0] != leaves[1] && leaves[1] != leaves[2] && leaves[0] != leaves[2]);
}

#[test]
fn what_cannot_be_used_is_refused_by_its_name() {
    let refusal = |certificate: Value, more: Value| {
        Acceptor::new(&policy(json!([certificate]), more), HTTP).err().unwrap_or_default()
    };
    let good = certificate(&["a.test"]);
    let other = certificate(&["b.test"]);
    let with = |cert: &Value, key: &Value| json!({"cert": cert, "key": key, "name": "a.pem"});
    assert_eq!(refusal(good.clone(), json!({})), "");
    assert_eq!(
        refusal(with(&good["cert"], &other["key"]), json!({})),
        "certificate \"a.pem\": the key belongs to another certificate"
    );
    assert_eq!(
        refusal(with(&json!("x"), &good["key"]), json!({})),
        "certificate \"a.pem\": its file holds no PEM certificate"
    );
    assert_eq!(
        refusal(with(&good["cert"], &json!("x")), json!({})),
        "certificate \"a.pem\": its key file holds no PEM private key"
    );
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let said = refusal(with(&json!(broken), &good["key"]), json!({}));
    assert!(said.starts_with("certificate \"a.pem\": it cannot be used"), "{said}");
    assert_eq!(refusal(good.clone(), json!({"client_ca": ""})), "client_ca holds no PEM certificate");
}

#[tokio::test]
async fn versions_below_the_oldest_are_refused() {
    let certificates = json!([certificate(&["a.test"])]);
    let both = acceptor(&policy(certificates.clone(), json!({})), HTTP);
    let newest = acceptor(&policy(certificates, json!({"min_version": "1.3"})), HTTP);
    let old = client(&[&TLS12], None, &[]);
    let version = |client: &TlsStream<DuplexStream>| client.get_ref().1.protocol_version();
    let (connected, ..) = shake(&both, &old, "a.test").await.expect("TLS 1.2");
    assert_eq!(version(&connected), Some(ProtocolVersion::TLSv1_2));
    let (connected, ..) = shake(&both, &any_client(), "a.test").await.expect("TLS 1.3");
    assert_eq!(version(&connected), Some(ProtocolVersion::TLSv1_3));
    assert!(shake(&newest, &old, "a.test").await.is_err());
    assert!(shake(&newest, &any_client(), "a.test").await.is_ok());
}

#[tokio::test]
async fn the_protocol_inside_is_agreed_on() {
    let policy = policy(json!([certificate(&["a.test"])]), json!({}));
    let (one, two, any) = (acceptor(&policy, HTTP), acceptor(&policy, BOTH), acceptor(&policy, &[]));
    let wants = |protocols: &[&[u8]]| client(&[&TLS13], None, protocols);
    let (.., agreed) = shake(&two, &wants(&[b"http/1.1", b"h2"]), "a.test").await.expect("a handshake");
    assert!(agreed.http2);
    let (.., agreed) = shake(&one, &wants(&[b"h2", b"http/1.1"]), "a.test").await.expect("a handshake");
    assert!(!agreed.http2);
    assert!(shake(&one, &wants(&[b"h2"]), "a.test").await.is_err());
    assert!(shake(&any, &wants(&[b"anything"]), "a.test").await.is_ok());
}

#[tokio::test]
async fn a_clients_certificate_is_asked_for_checked_and_known() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificates = json!([certificate(&["a.test"])]);
    let with = |how: &str| json!({"client_ca": authority.ca, "client_certificate": how});
    let required = acceptor(&policy(certificates.clone(), with("required")), HTTP);
    let optional = acceptor(&policy(certificates, with("optional")), HTTP);
    for versions in [&[&TLS13], &[&TLS12]] {
        let (good, bad) = (client(versions, Some(&authority), &[]), client(versions, Some(&stranger), &[]));
        let none = client(versions, None, &[]);
        for acceptor in [&required, &optional] {
            let (.., agreed) = shake(acceptor, &good, "a.test").await.expect("a known client");
            assert_eq!(agreed.client.as_ref(), Some(&authority.client.0));
            assert!(shake(acceptor, &bad, "a.test").await.is_err());
        }
        assert!(shake(&required, &none, "a.test").await.is_err());
        let (.., agreed) = shake(&optional, &none, "a.test").await.expect("a client without one");
        assert_eq!(agreed.client, None);
    }
}

#[tokio::test]
async fn sessions_are_resumed_under_the_same_policy_and_name_only() {
    let certificates = json!([certificate(&["a.test"]), certificate(&["b.test"])]);
    let policy = policy(certificates, json!({}));
    let (here, elsewhere) = (acceptor(&policy, HTTP), acceptor(&policy, HTTP));
    for versions in [&[&TLS13], &[&TLS12]] {
        let config = client(versions, None, &[]);
        let (mut connected, mut accepted, agreed) = shake(&here, &config, "a.test").await.expect("a handshake");
        greet(&mut connected, &mut accepted).await;
        assert!(!agreed.resumed);
        let (mut connected, mut accepted, agreed) = shake(&here, &config, "a.test").await.expect("a handshake");
        greet(&mut connected, &mut accepted).await;
        assert!(agreed.resumed);
        let (.., agreed) = shake(&elsewhere, &config, "a.test").await.expect("a handshake");
        assert!(!agreed.resumed);
        let (.., agreed) = shake(&here, &config, "b.test").await.expect("a handshake");
        assert!(!agreed.resumed);
    }
}

#[tokio::test]
async fn case_31_no_session_carries_a_clients_certificate_over() {
    let authority = Authority::new();
    let certificates = json!([certificate(&["a.test"]), certificate(&["b.test"])]);
    let acceptor = acceptor(&policy(certificates, json!({"client_ca": authority.ca})), HTTP);
    for versions in [&[&TLS13], &[&TLS12]] {
        let config = client(versions, Some(&authority), &[]);
        for name in ["a.test", "a.test", "b.test"] {
            let (mut connected, mut accepted, agreed) = shake(&acceptor, &config, name).await.expect("a handshake");
            greet(&mut connected, &mut accepted).await;
            assert!(!agreed.resumed);
            assert_eq!(connected.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn case_28_a_flood_of_key_updates_ends_the_connection() {
    let acceptor = acceptor(&policy(json!([certificate(&["a.test"])]), json!({})), HTTP);
    let (mut client, mut server, _) =
        shake(&acceptor, &client(&[&TLS13], None, &[]), "a.test").await.expect("a handshake");
    for _ in 0..100 {
        client.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
    }
    client.flush().await.expect("the updates");
    let error = server.read(&mut [0; 16]).await.expect_err("too many");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn case_28_tiny_records_are_read_like_any() {
    let acceptor = acceptor(&policy(json!([certificate(&["a.test"])]), json!({})), HTTP);
    let (mut client, mut server, _) = shake(&acceptor, &any_client(), "a.test").await.expect("a handshake");
    let sent: Vec<u8> = (0..5_000u32).map(|i| i as u8).collect();
    for byte in &sent {
        client.write_all(&[*byte]).await.expect("a record");
    }
    client.flush().await.expect("the last ones");
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).await.expect("all of them");
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_connection_goes_on_after_it_was_taken_to_another_worker() {
    let acceptor = acceptor(&policy(json!([certificate(&["a.test"])]), json!({})), HTTP);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = tokio::net::TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a connection");
    let connect = TlsConnector::from(any_client()).connect(ServerName::try_from("a.test").expect("a name"), near);
    let (client, server) = tokio::join!(connect, acceptor.accept(Box::new(far), 0));
    let mut client = client.expect("a handshake");
    let (mut server, _) = server.map_err(|(error, _)| error).expect("a handshake");
    client.write_all(b"before and ").await.expect("bytes");
    let mut first = [0; 3];
    server.read_exact(&mut first).await.expect("some of them");

    let detached = server.detach().map_err(drop).expect("a TCP connection below");
    let there = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut server = detached.attach().expect("a descriptor");
            let mut rest = [0; 13];
            server.read_exact(&mut rest).await.expect("the rest");
            server.write_all(&rest).await.expect("bytes");
            // Until the client leaves.
            let _ = server.read(&mut rest).await;
        });
    });
    client.write_all(b"after").await.expect("bytes");
    let mut echo = [0; 13];
    client.read_exact(&mut echo).await.expect("an echo");
    assert_eq!(&echo, b"ore and after");
    drop(client);
    there.join().expect("no panic");
}
