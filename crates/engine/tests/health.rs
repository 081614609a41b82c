//! What a health check asks, and which answers it takes.

#![allow(clippy::disallowed_methods, reason = "an upstream in a test may be slow")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate_engine::snapshot::ClientTls;
use tidegate_engine::snapshot::upstream::{Health, Protocol};
use tidegate_engine::tls::client::Connector;
use tidegate_engine::upstream::Address;
use tidegate_engine::upstream::health::check;
use tidegate_engine::upstream::tcp::Spec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

const SECOND: Duration = Duration::from_secs(1);

fn health(path: Option<&str>) -> Health {
    let path = path.map(str::to_owned);
    Health { path, host: None, interval: SECOND, timeout: SECOND / 2, fall: 1, rise: 1 }
}

fn address(port: u16, protocol: Protocol, tls: Option<Connector>) -> Address {
    let host = "127.0.0.1".to_owned();
    let spec = Spec {
        host,
        port,
        tls,
        protocol,
        weight: 1,
        connect_timeout: SECOND,
        handshake_timeout: SECOND,
        proxy_protocol: None,
    };
    Address::new(spec, None)
}

/// A port on which one connection is served in this way.
async fn serve<F, W>(work: F) -> u16
where
    F: FnOnce(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        work(stream).await;
    });
    port
}

/// Reads a head and sends an answer.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        let n = io.read(&mut part).await.expect("a request");
        assert!(n > 0, "closed before the head was whole");
        head.extend_from_slice(&part[..n]);
    }
    io.write_all(bytes).await.expect("an answer");
    io.shutdown().await.expect("an end");
    String::from_utf8(head).expect("text")
}

async fn outcome_of(bytes: &'static [u8]) -> Result<(), String> {
    let port = serve(move |stream| async move { drop(answer(stream, bytes).await) }).await;
    check(&address(port, Protocol::Http1, None), &health(Some("/healthz"))).await
}

#[tokio::test]
async fn only_200_to_399_is_well() {
    for good in [&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], b"HTTP/1.0 399 x\r\n\r\n"] {
        assert_eq!(outcome_of(good).await, Ok(()));
    }
    assert_eq!(outcome_of(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 None\r\n\r\n").await, Ok(()));
    let bad = outcome_of(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(bad, Err("it answered 400 to GET /healthz".to_owned()));
    assert!(outcome_of(b"220 mail.example.com ESMTP\r\n").await.is_err());
    let closed = outcome_of(b"HTTP/1.1 200 OK\r\nContent-Le").await;
    assert!(closed.is_err_and(|why| why.contains("closed before it answered")));
}

#[tokio::test]
async fn a_check_says_who_it_is_and_asks_with_the_host_it_was_told() {
    for (host, expected) in [(Some("shop.test"), "shop.test".to_owned()), (None, "127.0.0.1:".to_owned())] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let port = serve(|stream| async move {
            tell.send(answer(stream, b"HTTP/1.1 200 OK\r\n\r\n").await).expect("somebody asks");
        })
        .await;
        let health = Health { host: host.map(str::to_owned), ..health(Some("/well?deep=1")) };
        assert_eq!(check(&address(port, Protocol::Http1, None), &health).await, Ok(()));
        let head = told.await.expect("a head");
        assert!(head.starts_with("GET /well?deep=1 HTTP/1.1\r\n"), "{head}");
        let wanted = if host.is_some() { expected } else { format!("{expected}{port}") };
        assert!(head.contains(&format!("Host: {wanted}\r\n")), "{head}");
        assert!(head.contains("User-Agent: tidegate-health\r\n"), "{head}");
    }
}

#[tokio::test]
async fn one_that_takes_the_connection_and_says_nothing_is_too_late() {
    let port = serve(|stream| async move {
        tokio::time::sleep(SECOND * 5).await;
        drop(stream);
    })
    .await;
    let silent = address(port, Protocol::Http1, None);
    assert!(check(&silent, &health(Some("/"))).await.is_err_and(|why| why.contains("no answer within 500ms")));
}

#[tokio::test]
async fn without_a_path_a_connection_is_enough() {
    let port = serve(|stream| async move { drop(stream) }).await;
    assert_eq!(check(&address(port, Protocol::Http1, None), &health(None)).await, Ok(()));
    // Bound, so that nobody else has it, and not listening.
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let port = nobody.local_addr().expect("an address").port();
    let refused = check(&address(port, Protocol::Http1, None), &health(None)).await;
    assert!(refused.is_err_and(|why| why.contains("nothing listens")));
}

#[tokio::test]
async fn where_tls_is_spoken_a_connection_without_it_is_not_enough() {
    let identity = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .expect("a matching key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let policy = ClientTls { ca: Some(identity.cert.pem()), ..ClientTls::default() };
    let connector = || Connector::new(&policy).ok();
    for path in [None, Some("/")] {
        let acceptor = acceptor.clone();
        let port = serve(move |stream| async move {
            let mut tls = acceptor.accept(stream).await.expect("a handshake");
            if path.is_some() {
                answer(&mut tls, b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        })
        .await;
        assert_eq!(check(&address(port, Protocol::Http1, connector()), &health(path)).await, Ok(()));
    }
    let port = serve(|mut stream| async move {
        // Whether it is read or not: it is no TLS.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let plain = check(&address(port, Protocol::Http1, connector()), &health(None)).await;
    assert!(plain.is_err_and(|why| why.contains("TLS with 127.0.0.1")));
}

#[tokio::test]
async fn where_requests_go_by_http2_the_check_does_too() {
    for (status, well) in [(204, true), (503, false)] {
        let port = serve(move |stream| async move {
            let mut connection = h2::server::handshake(stream).await.expect("a preface");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/healthz");
                assert!(request.uri().authority().is_some_and(|authority| authority.host() == "127.0.0.1"));
                let response = http::Response::builder().status(status).body(()).expect("a response");
                respond.send_response(response, true).expect("a stream");
            }
        })
        .await;
        let outcome = check(&address(port, Protocol::Http2, None), &health(Some("/healthz"))).await;
        assert_eq!(outcome.is_ok(), well, "{outcome:?}");
    }
    let port = serve(|stream| async move { drop(answer(stream, b"HTTP/1.1 200 OK\r\n\r\n").await) }).await;
    assert!(check(&address(port, Protocol::Http2, None), &health(Some("/"))).await.is_err());
}
