//! What a hop removes and adds (cases 5, 37 and 38 of what a gate must withstand).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tidegate_engine::forwarded::Visitor;
use tidegate_engine::headers::{Forwarding, Hop, Return, edit, refuse_edit, to_downstream, to_upstream, upgrade_of};
use tidegate_engine::http1::framing::Framing;
use tidegate_engine::message::Version;
use tidegate_engine::snapshot::HostHeader;
use tidegate_engine::snapshot::route::Edits;

use crate::{lines, request, response};

static VISITOR: Visitor =
    Visitor { client: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4711), proto: "http", behind: None };
const GATEWAY: Forwarding<'_> = Forwarding::Rebuild(&VISITOR);

const HOP: Hop<'_> =
    Hop { forwarding: GATEWAY, host: &HostHeader::Keep, authority: "upstream:81", framing: Framing::None };
const AGENT: Hop<'_> = Hop { forwarding: Forwarding::Keep, ..HOP };

/// The fields behind Host that reach the upstream, and whether an upgrade does.
fn sent(fields: &str, hop: &Hop<'_>) -> (Vec<String>, bool) {
    let mut head = request(format!("GET / HTTP/1.1\r\nHost: a.b:8\r\n{fields}\r\n").as_bytes()).expect(fields);
    let upgrade = to_upstream(&mut head, hop);
    (lines(&head.fields), upgrade)
}

/// What a gateway adds to the request of [`sent`].
const OURS: [&str; 4] = [
    "X-Forwarded-For: 192.0.2.7",
    "X-Forwarded-Host: a.b:8",
    "X-Forwarded-Proto: http",
    "Forwarded: for=192.0.2.7;host=\"a.b:8\";proto=http",
];

fn with_ours(first: &[&str]) -> Vec<String> {
    ["Host: a.b:8"].iter().chain(first).chain(&OURS).map(|line| line.to_string()).collect()
}

#[test]
fn fields_of_the_hop_are_removed_and_the_others_keep_order_and_spelling() {
    let (fields, upgrade) = sent(
        "ACCEPT: x\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nx-mine: 1\r\n\
         Proxy-Connection: x\r\nProxy-Authorization: y\r\n\
         Upgrade: websocket\r\nHTTP2-Settings: z\r\ncookie: 1\r\nAccept: y\r\nTrailer: a\r\n",
        &HOP,
    );
    assert_eq!(fields, with_ours(&["ACCEPT: x", "cookie: 1", "Accept: y"]));
    assert!(!upgrade);
}

#[test]
fn case_37_no_stranger_speaks_for_a_gateway_in_any_spelling() {
    let (fields, _) = sent(
        "X-Forwarded-For: 1.1.1.1\r\nx_forwarded_for: 1\r\nX-Forwarded_Host: h\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Port: 1\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1\r\nX_REAL_IP: 1\r\nx-piko-forward: true\r\n\
         X_Piko_Forward: true\r\nx-tidegate-error: a\r\nX_TIDEGATE_request: b\r\nX-Other: 1\r\n",
        &HOP,
    );
    assert_eq!(fields, with_ours(&["X-Other: 1"]));
}

#[test]
fn case_38_connection_cannot_take_away_what_we_add_or_what_was_judged() {
    let (fields, _) = sent(
        "Connection: X-Forwarded-For, forwarded, host, Content-Length, authorization, x-tidegate-request-id, Cookie\r\n\
         Authorization: Bearer x\r\nCookie: c\r\n",
        &HOP,
    );
    assert_eq!(fields, with_ours(&["Authorization: Bearer x", "Cookie: c"]));
    // An agent keeps what its gateway wrote, whatever Connection says.
    let (fields, _) = sent("X-Forwarded-For: 1.1.1.1\r\nConnection: X-Forwarded-For\r\n", &AGENT);
    assert_eq!(fields, ["Host: a.b:8", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Host: a.b:8"]);
}

#[test]
fn case_5_only_one_plain_upgrade_by_get_is_passed_on() {
    let (fields, upgrade) =
        sent("Connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Key: k\r\n", &HOP);
    assert!(upgrade);
    assert_eq!(fields, with_ours(&["upgrade: websocket", "Sec-WebSocket-Key: k", "Connection: Upgrade"]));
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade:\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let (sent, upgrade) = sent(fields, &HOP);
        assert!(
            !upgrade && !sent.iter().any(|line| line.starts_with("Upgrade") || line.starts_with("Connection")),
            "{sent:?}"
        );
    }
    let post = b"POST / HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(upgrade_of(&request(post).expect("a good request")), None);
    let old = b"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(upgrade_of(&request(old).expect("a good request")), None);
}

#[test]
fn of_te_only_trailers_is_passed_on() {
    assert_eq!(sent("TE: gzip, Trailers\r\n", &HOP).0, with_ours(&["TE: trailers", "Connection: TE"]));
    assert_eq!(sent("TE: gzip\r\nConnection: TE\r\n", &HOP).0, with_ours(&[]));
}

#[test]
fn the_host_an_upstream_sees_is_kept_rewritten_or_set() {
    let rewrite = Hop { host: &HostHeader::Rewrite, ..AGENT };
    assert_eq!(sent("", &AGENT).0, ["Host: a.b:8", "X-Forwarded-Host: a.b:8"]);
    assert_eq!(sent("", &rewrite).0, ["Host: upstream:81", "X-Forwarded-Host: a.b:8"]);
    assert_eq!(sent("X-Forwarded-Host: first\r\n", &rewrite).0, ["Host: upstream:81", "X-Forwarded-Host: first"]);
    let name = HostHeader::Set("other".to_owned());
    assert_eq!(sent("", &Hop { host: &name, ..AGENT }).0, ["Host: other", "X-Forwarded-Host: a.b:8"]);
    let mut old = request(b"GET / HTTP/1.0\r\n\r\n").expect("a good request");
    to_upstream(&mut old, &AGENT);
    assert_eq!(lines(&old.fields), ["Host: upstream:81"]);
}

#[test]
fn an_ipv6_address_is_quoted_where_the_syntax_needs_it() {
    let asked = |client: &str| {
        let visitor = Visitor::direct(SocketAddr::new(client.parse().expect(client), 1), "https");
        sent("", &Hop { forwarding: Forwarding::Rebuild(&visitor), ..HOP })
    };
    let (fields, _) = asked("2001:db8::1");
    assert_eq!(fields[1], "X-Forwarded-For: 2001:db8::1");
    assert_eq!(fields[4], "Forwarded: for=\"[2001:db8::1]\";host=\"a.b:8\";proto=https");
    assert_eq!(asked("::ffff:192.0.2.1").0[1], "X-Forwarded-For: 192.0.2.1");
}

#[test]
fn what_a_trusted_proxy_said_is_sent_on_beginning_with_whom_it_was_believed_about() {
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let fields =
        "X-Forwarded-For: 6.6.6.6, 2001:db8::1, 10.0.0.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: c.d\r\n";
    let head = request(format!("GET / HTTP/1.1\r\nHost: a.b:8\r\n{fields}\r\n").as_bytes()).expect(fields);
    let visitor = Visitor::of(&head.fields, "10.0.0.1:1".parse().expect("an address"), "http", &trusted);
    let (lines, _) = sent(fields, &Hop { forwarding: Forwarding::Rebuild(&visitor), ..HOP });
    assert_eq!(
        lines[1..],
        [
            "X-Forwarded-For: 2001:db8::1, 10.0.0.2, 10.0.0.1",
            "X-Forwarded-Host: c.d",
            "X-Forwarded-Proto: https",
            "Forwarded: for=\"[2001:db8::1]\";host=c.d;proto=https, for=10.0.0.2, for=10.0.0.1",
        ]
    );
}

#[test]
fn a_route_edits_what_is_left_and_never_what_frames_a_message_or_speaks_for_us() {
    let mut head = request(b"GET / HTTP/1.1\r\nHost: a.b\r\nA: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n\r\n").expect("a request");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let edits = Edits { remove: vec!["b".into()], set: vec![pair("a", "9")], add: vec![pair("c", "5")] };
    edit(&mut head.fields, &edits);
    assert_eq!(lines(&head.fields), ["Host: a.b", "C: 4", "a: 9", "c: 5"]);
    for name in ["connection", "Content-Length", "host", "x-tidegate-error", "X_Piko_Forward", "te", "", "a b"] {
        assert!(refuse_edit(name, "1").is_some(), "{name}");
    }
    assert!(refuse_edit("a", "b\r\nc: d").is_some());
    assert_eq!(refuse_edit("x-forwarded-proto", "https"), None);
}

#[test]
fn the_fields_say_the_framing_that_the_body_is_sent_with() {
    let framed = |fields: &str, framing: Framing| {
        let (mut fields, _) = sent(fields, &Hop { framing, ..AGENT });
        fields.retain(|field| !field.contains("a.b:8"));
        fields
    };
    assert_eq!(framed("Content-Length: 5\r\nA: b\r\n", Framing::Length(5)), ["Content-Length: 5", "A: b"]);
    assert_eq!(framed("Content-Length: 0005\r\n", Framing::Length(5)), ["Content-Length: 5"]);
    assert_eq!(
        framed("transfer-encoding: chunked\r\nTrailer: x\r\n", Framing::Chunked),
        ["transfer-encoding: chunked", "Trailer: x"]
    );
    assert_eq!(framed("", Framing::Chunked), ["Transfer-Encoding: chunked"]);
}

fn answered(lines_in: &str, version: Version, keep_alive: bool, framing: Framing) -> Vec<String> {
    let mut head = response(format!("{lines_in}\r\n").as_bytes()).expect(lines_in);
    to_downstream(&mut head, &Return { version, keep_alive, framing });
    lines(&head.fields)
}

#[test]
fn a_response_says_what_becomes_of_the_downstreams_connection() {
    use Version::{Http2, Http10, Http11};
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
                 X-Tidegate-Error: no_route\r\nKeep-Alive: 1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nServer: s\r\n";
    let kept = ["Content-Length: 2", "Server: s"];
    let with = |more: &'static str| [&kept[..], &[more]].concat();
    assert_eq!(answered(plain, Http11, true, Framing::Length(2)), kept);
    assert_eq!(answered(plain, Http11, false, Framing::Length(2)), with("Connection: close"));
    assert_eq!(answered(plain, Http10, true, Framing::Length(2)), with("Connection: keep-alive"));
    assert_eq!(answered(plain, Http2, false, Framing::Length(2)), kept);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(answered(chunks, Http10, true, Framing::Chunked.towards(Http10)), ["Connection: close"]);
    assert_eq!(
        answered("HTTP/1.0 200 OK\r\n", Http11, true, Framing::UntilClose.towards(Http11)),
        ["Transfer-Encoding: chunked"]
    );
}

#[test]
fn a_change_of_protocol_is_announced_by_101_only() {
    let fields = "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0\r\nA: b\r\n";
    let switching = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}");
    let answer = answered(&switching, Version::Http11, false, Framing::None);
    assert_eq!(answer, ["Upgrade: websocket", "A: b", "Connection: Upgrade"]);
    let refused = format!("HTTP/1.1 204 No Content\r\n{fields}");
    assert_eq!(answered(&refused, Version::Http11, true, Framing::None), ["A: b"]);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n";
    assert_eq!(answered(head, Version::Http11, true, Framing::None), ["Content-Length: 7"]);
}
