//! Dialling real sockets of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidegate_engine::dial::{connect, connect_via};
use tidegate_engine::error::Code;
use tidegate_engine::snapshot::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(10);

async fn listener(ip: impl Into<IpAddr>) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip.into(), 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn proxy(url: String) -> Secret {
    serde_json::from_value(url.into()).expect("a string")
}

/// A port on which nothing listens.
async fn unused_port() -> u16 {
    listener(Ipv4Addr::LOCALHOST).await.1
}

#[tokio::test]
async fn localhost_is_both_loopbacks() {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let (_listener, port) = listener(ip).await;
        let stream = connect("localhost", port, SOON).await.expect("a connection");
        assert_eq!(stream.peer_addr().expect("an address").ip(), ip);
        assert!(stream.nodelay().expect("an option"));
    }
}

#[tokio::test]
async fn addresses_are_dialled_as_they_are_written() {
    let (_listener, port) = listener(Ipv6Addr::LOCALHOST).await;
    for host in ["::1", "[::1]"] {
        assert!(connect(host, port, SOON).await.is_ok(), "{host}");
    }
}

#[tokio::test]
async fn a_failure_says_what_was_tried_and_may_be_tried_elsewhere() {
    let port = unused_port().await;
    let refused = connect("localhost", port, SOON).await.expect_err("nothing is there");
    assert_eq!(refused.detail, format!("nothing listens on localhost:{port}"));
    assert_eq!((refused.code, refused.undelivered), (Code::UpstreamUnreachable, true));
    let unknown = connect("no-such-host.invalid", 1, SOON).await.expect_err("nobody has this name");
    assert!(unknown.detail.starts_with("cannot resolve no-such-host.invalid"), "{unknown}");
}

#[tokio::test]
async fn who_does_not_answer_is_given_up_in_time() {
    // A listener whose queue is full: the kernel drops further attempts, as a firewall does.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    full.listen(0).expect("a listener");
    let port = full.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an address").port();
    let mut held = Vec::new();
    let error = loop {
        match connect("127.0.0.1", port, Duration::from_millis(200)).await {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.detail, format!("no answer from 127.0.0.1:{port} within 0.2 s"));
}

/// A proxy that gives one answer; the head it was sent.
async fn answering(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let (listener, port) = listener(Ipv4Addr::LOCALHOST).await;
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a whole head"));
        }
        stream.write_all(answer.as_bytes()).await.expect("a listening client");
        stream.shutdown().await.expect("a listening client");
        String::from_utf8(head).expect("a head of text")
    });
    (port, task)
}

#[tokio::test]
async fn a_proxy_is_asked_to_connect_and_early_bytes_are_kept() {
    let (port, task) =
        answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connected\r\nA: b\r\n\r\nearly words").await;
    let url = proxy(format!("http://me:p%40ss%3A@localhost:{port}/"));
    let mut stream = connect_via(&url, "::1", 443, SOON).await.expect("a way through");
    let mut words = String::new();
    stream.read_to_string(&mut words).await.expect("words");
    assert_eq!(words, "early words");
    let head = "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nProxy-Authorization: Basic bWU6cEBzczo=\r\n\r\n";
    assert_eq!(task.await.expect("no panic"), head);
}

#[tokio::test]
async fn what_a_proxy_refuses_is_said() {
    for (answer, expected) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refuses our credentials (407)"),
        ("HTTP/1.1 503 Busy\r\n\r\n", "does not connect to web.test:443: 503"),
        ("HTTP/1.1 200 OK", "failed: unexpected end of file"),
        ("SSH-2.0-other\r\n", "failed: not an HTTP/1 message"),
    ] {
        let (port, task) = answering(answer).await;
        let error = connect_via(&proxy(format!("http://127.0.0.1:{port}")), "web.test", 443, SOON).await.err();
        assert_eq!(
            error.map(|error| error.detail.into_owned()),
            Some(format!("the proxy 127.0.0.1:{port} {expected}"))
        );
        task.await.expect("no panic");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_bounded() {
    let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(20_000)).into_boxed_str());
    let (port, _task) = answering(endless).await;
    let error = connect_via(&proxy(format!("http://127.0.0.1:{port}")), "web.test", 443, SOON).await.err();
    assert!(error.is_some_and(|error| error.detail.contains("too many bytes")));
}

#[tokio::test]
async fn a_proxy_that_is_no_http_url_is_named_without_its_secret() {
    for url in ["https://me:secret@proxy:1", "socks5://secret", "http://", "http://secret@:1", "http://a:secret%zz@b:1"]
    {
        let error = connect_via(&proxy(url.into()), "web.test", 443, SOON).await.err();
        let detail = error.map(|error| error.detail.into_owned()).unwrap_or_default();
        assert_eq!(detail, "the proxy's URL is not http://[user:password@]host:port", "{url}");
    }
}
