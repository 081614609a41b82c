//! TLS towards a server with certificates of our own making.

#![allow(clippy::disallowed_methods, reason = "an echo in a test may be slow")]

use std::io;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tidegate_engine::io::BoxedIo;
use tidegate_engine::snapshot::ClientTls;
use tidegate_engine::tls::client::Connector;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_rustls::TlsAcceptor;

type Identity = CertifiedKey<KeyPair>;

fn identity(name: &str) -> Identity {
    generate_simple_self_signed([name.to_owned()]).expect("a certificate for a valid name")
}

fn policy(value: serde_json::Value) -> ClientTls {
    let mut whole = json!({"ca": null, "cert": null, "key": null, "server_name": null, "insecure_skip_verify": false});
    let given = value.as_object().expect("an object").clone();
    whole.as_object_mut().expect("an object").extend(given);
    serde_json::from_value(whole).expect("a policy")
}

fn acceptor(server: &Identity, client: Option<&Identity>) -> TlsAcceptor {
    let provider = Arc::new(default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = match client {
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.cert.der().clone()).expect("a usable certificate");
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier")
        }
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], key)
        .expect("a matching key");
    TlsAcceptor::from(Arc::new(config))
}

/// Connects to `host` at a server that sends back what it gets and ends when it does.
async fn dial(policy: &ClientTls, host: &str, acceptor: TlsAcceptor) -> io::Result<BoxedIo> {
    let (near, far) = tokio::io::duplex(4 * 1024);
    tokio::spawn(echo(far, acceptor));
    Connector::new(policy).map_err(io::Error::other)?.connect(Box::new(near), host).await
}

async fn echo(io: DuplexStream, acceptor: TlsAcceptor) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(acceptor.accept(io).await?);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

/// What the server says to `bytes`; a TLS 1.3 client hears only now that its certificate is not accepted.
async fn exchange(stream: BoxedIo, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = tokio::spawn(async move {
        writer.write_all(&bytes).await?;
        writer.shutdown().await
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await?;
    send.await.map_err(io::Error::other)??;
    Ok(answer)
}

#[tokio::test]
async fn bytes_come_back_whole_and_both_directions_end() {
    let server = identity("web.test");
    let policy = policy(json!({"ca": server.cert.pem()}));
    let stream = dial(&policy, "web.test", acceptor(&server, None)).await.expect("a handshake");
    let bytes: Vec<u8> = (0..300_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    assert_eq!(exchange(stream, bytes.clone()).await.expect("an echo"), bytes);
}

#[tokio::test]
async fn a_certificate_counts_only_for_its_name_and_authority() {
    let server = identity("web.test");
    let right = policy(json!({"ca": server.cert.pem()}));
    let renamed = policy(json!({"ca": server.cert.pem(), "server_name": "web.test"}));
    let foreign = policy(json!({"ca": identity("web.test").cert.pem()}));
    let careless = policy(json!({"insecure_skip_verify": true}));
    assert!(dial(&right, "WEB.test.", acceptor(&server, None)).await.is_ok());
    assert!(dial(&right, "other.test", acceptor(&server, None)).await.is_err());
    assert!(dial(&right, "no name", acceptor(&server, None)).await.is_err());
    assert!(dial(&renamed, "10.0.0.1", acceptor(&server, None)).await.is_ok());
    assert!(dial(&foreign, "web.test", acceptor(&server, None)).await.is_err());
    assert!(dial(&careless, "[::1]", acceptor(&server, None)).await.is_ok());
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let server = identity("web.test");
    let client = identity("agent.test");
    let (cert, key) = (client.cert.pem(), client.signing_key.serialize_pem());
    let showing = policy(json!({"ca": server.cert.pem(), "cert": cert, "key": key}));
    let stream = dial(&showing, "web.test", acceptor(&server, Some(&client))).await.expect("a handshake");
    assert_eq!(exchange(stream, b"hello".to_vec()).await.expect("an echo"), b"hello");
    let silent = policy(json!({"ca": server.cert.pem()}));
    let refused = match dial(&silent, "web.test", acceptor(&server, Some(&client))).await {
        Ok(stream) => exchange(stream, b"hello".to_vec()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[test]
fn a_policy_that_cannot_hold_is_refused_in_words() {
    let refusal = |value| Connector::new(&policy(value)).err().unwrap_or_default();
    let me = identity("a.test");
    let other = identity("b.test").signing_key.serialize_pem();
    assert_eq!(refusal(json!({"ca": ""})), "the CA file holds no PEM certificate");
    assert_eq!(
        refusal(json!({"cert": me.cert.pem()})),
        "a client certificate needs its key, and a key its certificate"
    );
    assert_eq!(
        refusal(json!({"insecure_skip_verify": true, "cert": "x", "key": "x"})),
        "the client key is no PEM private key"
    );
    let mismatch = refusal(json!({"insecure_skip_verify": true, "cert": me.cert.pem(), "key": other}));
    assert!(mismatch.starts_with("the client certificate and key cannot be used"), "{mismatch}");
    assert!(refusal(json!({"insecure_skip_verify": true, "server_name": "a b"})).contains("\"a b\""));
}

#[tokio::test]
async fn what_was_received_already_is_never_silent() {
    let server = identity("web.test");
    let trust = policy(json!({"ca": server.cert.pem()}));
    let mut stream = dial(&trust, "web.test", acceptor(&server, None)).await.expect("a handshake");
    stream.write_all(b"two bytes and more").await.expect("a write");
    // One small read takes the record from the connection and leaves most of it inside.
    let mut first = [0; 2];
    stream.read_exact(&mut first).await.expect("the first bytes");
    std::future::poll_fn(|cx| stream.poll_read_ready(cx)).await;
    let mut rest = [0; 16];
    let mut rest = ReadBuf::new(&mut rest);
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut stream).poll_read(cx, &mut rest)).await.expect("the rest");
    assert_eq!(rest.filled(), b"o bytes and more");
}

#[tokio::test]
async fn a_finished_write_leaves_nothing_behind() {
    let server = identity("web.test");
    let trust = policy(json!({"ca": server.cert.pem()}));
    let (near, far) = tokio::io::duplex(512);
    let serve = tokio::spawn(async move {
        let mut stream = acceptor(&server, None).accept(far).await?;
        let mut bytes = vec![0; 100_000];
        stream.read_exact(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    });
    let connector = Connector::new(&trust).expect("a policy");
    let mut stream = connector.connect(Box::new(near), "web.test").await.expect("a handshake");
    let mut left = &[7; 100_000][..];
    // Writes only, as `Buffer::poll_drain` does: no flush, no end, no read.
    while !left.is_empty() {
        let n = std::future::poll_fn(|cx| std::pin::Pin::new(&mut stream).poll_write(cx, left)).await.expect("a write");
        left = &left[n..];
    }
    assert_eq!(serve.await.expect("no panic").expect("all of it"), [7; 100_000]);
}
