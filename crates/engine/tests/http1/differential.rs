//! Everything we accept, hyper accepts with the same meaning. The reverse does not hold: hyper repairs what we refuse.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tidegate_engine::http1::framing::request_framing;
use tidegate_engine::http1::head::parse_request;
use tidegate_engine::message::{Known, RequestHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::decode;
use crate::splits::nearly;

/// A request as both sides can say it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The first request in `bytes` as we read it, where we accept it whole.
fn ours(bytes: &[u8]) -> Option<Seen> {
    let mut head = RequestHead::new();
    let n = parse_request(bytes, &mut 0, &mut head, &crate::LIMITS).ok()??;
    let (body, ..) = decode(request_framing(&head).ok()?, &bytes[n..]).ok()?;
    let mut fields: Vec<_> = head
        .fields
        .iter()
        .filter(|field| field.known != Known::Host)
        .map(|field| (String::from_utf8_lossy(field.name).to_ascii_lowercase(), field.value.to_vec()))
        .collect();
    fields.sort();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Seen { method: text(head.method()), target: text(head.target()), fields, body })
}

/// The first request in `bytes` as hyper reads it.
async fn hypers(bytes: &[u8]) -> Option<Seen> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let seen = Arc::new(Mutex::new(None));
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            let mut fields: Vec<_> = parts
                .headers
                .iter()
                .filter(|(name, _)| *name != "host")
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect();
            fields.sort();
            let target = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), |target| target.to_string());
            let first = Seen { method: parts.method.to_string(), target, fields, body };
            seen.lock().expect("no panic while locked").get_or_insert(first);
            Ok::<_, hyper::Error>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let serve =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(far), service);
    let talk = async {
        let (mut reader, mut writer) = tokio::io::split(near);
        // It may have hung up already; what it saw is all that counts.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
        let _ = reader.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(serve, talk);
    seen.lock().expect("no panic while locked").take()
}

const STARTS: [&str; 5] = [
    "GET / HTTP/1.1\r\nHost: a.b\r\n",
    "POST /x?y=z HTTP/1.1\r\nHost: a.b\r\n",
    "PUT http://a.b:80/x HTTP/1.1\r\nhost: a.b\r\n",
    "\r\nPOST /old HTTP/1.0\r\n",
    "DELETE /|'{} HTTP/1.1\r\nHOST:a.b \r\n",
];
const FIELDS: [&str; 8] = [
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "Content-Length: 3, 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "A: b \r\n",
    "a:\tc,\x01\r\n",
];
const BODIES: &[&str] = &[
    "abc",
    "3\r\nabc\r\n",
    "2 ;x\r\nab\r\n",
    "0A\r\n0123456789\r\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    " ",
    "\n",
    "\r\n",
];

/// A start, some fields, an empty line and nearly a body.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    (select(&STARTS[..]), vec(select(&FIELDS[..]), 0..3), nearly(BODIES))
        .prop_map(|(start, fields, body)| [start.as_bytes(), fields.concat().as_bytes(), b"\r\n", &body].concat())
}

fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Some(ours) = ours(bytes) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let hypers = runtime.block_on(hypers(bytes));
    prop_assert_eq!(hypers, Some(ours), "{}", String::from_utf8_lossy(bytes));
    Ok(())
}

#[test]
fn typical_requests_mean_the_same_to_hyper() {
    for bytes in [
        &b"GET /a?b HTTP/1.1\r\nHost: a.b\r\nX: \xe4\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\n\r\nabcGET",
        b"POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"GET http://a.b?x HTTP/1.1\r\nHost: a.b\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\n\r\nOPTIONS /* HTTP/1.1\r\nHost: a.b\r\n\r\n",
    ] {
        assert!(ours(bytes).is_some(), "{}", String::from_utf8_lossy(bytes));
        agree(bytes).expect("the same meaning");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_we_accept_means_the_same_to_hyper(bytes in messages()) {
        agree(&bytes)?;
    }

    #[test]
    fn bodies_we_accept_mean_the_same_to_hyper(bytes in nearly(BODIES)) {
        for framing in ["Transfer-Encoding: chunked", "Content-Length: 3"] {
            let start = format!("POST / HTTP/1.1\r\nHost: a.b\r\n{framing}\r\n\r\n");
            agree(&[start.as_bytes(), &bytes].concat())?;
        }
    }
}
