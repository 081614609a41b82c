//! Which heads are accepted, and as what (cases 1, 2, 3, 8, 14 and 25 of what a gate must withstand).

use tidegate_engine::http1::framing::Framing;
use tidegate_engine::http1::head::{HeadLimits, parse_request, write_request, write_response};
use tidegate_engine::http1::refusal::HeadError::{self, Malformed, TooLarge};
use tidegate_engine::message::{Known, RequestHead, Version};

use crate::{LIMITS, answer_framing, framing_with, lines, request, response, written};

fn malformed<T: std::fmt::Debug>(outcome: Result<T, HeadError>, input: &dyn std::fmt::Debug) {
    assert!(matches!(outcome, Err(Malformed(_))), "{input:?}: {outcome:?}");
}

#[test]
fn a_request_comes_out_as_it_went_in() {
    let bytes =
        b"GET /a?b=%20c HTTP/1.1\r\nHost: web.example.com:8080\r\nX-oDD: one\r\nempty:\r\nx-odd:  two \t\r\n\r\n";
    let head = request(bytes).expect("a good request");
    assert_eq!((head.method(), head.target(), head.version), (&b"GET"[..], &b"/a?b=%20c"[..], Version::Http11));
    assert_eq!(lines(&head.fields), ["Host: web.example.com:8080", "X-oDD: one", "empty: ", "x-odd: two"]);
    let again = written(|out| write_request(&head, out));
    assert_eq!(request(&again), Ok(head));
}

#[test]
fn a_response_comes_out_as_it_went_in() {
    for bytes in
        ["HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", "HTTP/1.1 404 \r\n\r\n", "HTTP/1.1 299 Fine, thanks\r\nA: b\r\n\r\n"]
    {
        let head = response(bytes.as_bytes()).expect("a good response");
        assert_eq!(String::from_utf8_lossy(&written(|out| write_response(&head, out))), bytes);
    }
}

#[test]
fn empty_lines_before_a_request_are_passed_over_up_to_a_few() {
    let get = "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n";
    assert!(request(format!("\r\n\r\n{get}").as_bytes()).is_ok());
    malformed(request(format!("{}{get}", "\r\n".repeat(9)).as_bytes()), &"nine empty lines");
    malformed(request(format!("\n{get}").as_bytes()), &"a bare LF");
}

#[test]
fn case_1_content_length_beside_transfer_encoding_is_refused_in_every_spelling() {
    for coding in ["chunked", "Chunked", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "", "\"chunked\""]
    {
        for (length_name, coding_name) in
            [("Content-Length", "Transfer-Encoding"), ("content-length", "TRANSFER-encoding")]
        {
            malformed(framing_with(&format!("{length_name}: 3\r\n{coding_name}: {coding}\r\n")), &coding);
            malformed(framing_with(&format!("{coding_name}:{coding}\r\n{length_name}: 3\r\n")), &coding);
        }
        let both = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: {coding}\r\n");
        malformed(answer_framing("GET", &both), &coding);
        malformed(answer_framing("HEAD", &both), &coding);
    }
    for spelling in ["Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked"] {
        malformed(framing_with(&format!("Content-Length: 3\r\n{spelling}\r\n")), &spelling);
    }
}

#[test]
fn a_transfer_encoding_other_than_one_chunked_is_refused() {
    for coding in
        ["identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "chunked;q=1", "", ",chunked"]
    {
        malformed(framing_with(&format!("Transfer-Encoding: {coding}\r\n")), &coding);
        malformed(answer_framing("GET", &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n")), &coding);
    }
    malformed(framing_with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &"twice");
    assert_eq!(framing_with("transfer-encoding: CHUNKED\r\n"), Ok(Framing::Chunked));
}

#[test]
fn case_2_only_one_plain_content_length_is_believed() {
    let refused =
        ["", "+3", "-3", "0x3", "3a", "3 3", "3,3", "3, 4", "1e3", "3.0", "18446744073709551616", "\u{a0}3", "３"];
    for length in refused {
        malformed(framing_with(&format!("Content-Length: {length}\r\n")), &length);
        malformed(answer_framing("GET", &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n")), &length);
    }
    malformed(framing_with("Content-Length: 3\r\nContent-Length: 3\r\n"), &"two that agree");
    malformed(framing_with("Content-Length: 3\r\ncontent-length: 4\r\n"), &"two that do not");
    assert_eq!(framing_with("Content-Length: 18446744073709551615\r\n"), Ok(Framing::Length(u64::MAX)));
    assert_eq!(framing_with("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
    assert_eq!(framing_with(""), Ok(Framing::None));
}

#[test]
fn answers_without_a_body_have_none_whatever_they_declare() {
    for (method, start, framing) in [
        ("HEAD", "200 OK", Framing::None),
        ("GET", "204 No Content", Framing::None),
        ("GET", "304 Not Modified", Framing::None),
        ("GET", "101 Switching Protocols", Framing::None),
        ("GET", "100 Continue", Framing::None),
        ("CONNECT", "200 OK", Framing::None),
        ("CONNECT", "403 Forbidden", Framing::Length(5)),
        ("GET", "200 OK", Framing::Length(5)),
    ] {
        let answer = format!("HTTP/1.1 {start}\r\nContent-Length: 5\r\n");
        assert_eq!(answer_framing(method, &answer), Ok(framing), "{method} {start}");
    }
    assert_eq!(answer_framing("GET", "HTTP/1.0 200 OK\r\n"), Ok(Framing::UntilClose));
}

#[test]
fn case_3_lines_and_names_in_any_other_form_are_refused() {
    for bytes in [
        "GET / HTTP/1.1\nHost: a.b\n\n",
        "GET / HTTP/1.1\r\nHost: a.b\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\ry\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\0y\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\r\n y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\r\n\ty\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nname\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nna me: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nn\u{e4}me: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\x07\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nA: x\x7f\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a.b\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a.b\r\n\r\n",
    ] {
        malformed(request(bytes.as_bytes()), &bytes);
    }
    for bytes in [
        "HTTP/1.1 200 OK\nA: b\n\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        "HTTP/1.1 200 OK\rX\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        malformed(response(bytes.as_bytes()), &bytes);
    }
}

#[test]
fn case_8_old_versions_and_ambiguous_hosts_are_refused() {
    for bytes in [
        "GET /\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a.b\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "GET / http/1.1\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nhost: a.b\r\n\r\n",
        "GET http://c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET http://c.d/ HTTP/1.0\r\nHost: a.b\r\n\r\n",
        "GET http://a.b:81/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET http://a.b/ HTTP/1.1\r\n\r\n",
        "GET http://u@a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET http:/a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET ftp://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET a.b HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET /a\x7f HTTP/1.1\r\nHost: a.b\r\n\r\n",
    ] {
        malformed(request(bytes.as_bytes()), &bytes);
    }
    let hosts = [
        "",
        "u@a.b",
        "a.b/",
        "a.b#",
        "a.b?x",
        "a b",
        "a.b:",
        "a.b:x",
        "a.b:65536",
        "a.b:+1",
        "a.b:1:2",
        "a,b",
        "a%2eb",
    ];
    for host in
        hosts.into_iter().chain(["[::1", "::1", "[g::]", "[::1]x", "[1.2.3.4]", "a\\b", "\u{e4}.b", &"a".repeat(300)])
    {
        malformed(request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()), &host);
    }
    for host in ["a", "a.b.", "A_b-c.d:1", "127.0.0.1:80", "[::1]", "[2001:db8::1]:65535"] {
        assert!(request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).is_ok(), "{host}");
    }
    malformed(
        request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
            .and_then(|head| tidegate_engine::http1::framing::request_framing(&head)),
        &"Transfer-Encoding in HTTP/1.0",
    );
    malformed(answer_framing("GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n"), &"and in its answer");
}

#[test]
fn an_absolute_target_becomes_a_path_and_a_host() {
    for (line, host, target) in [
        ("GET http://a.b/x?y HTTP/1.1\r\nHost: a.b\r\n", "a.b", "/x?y"),
        ("GET HTTP://A.b:80/ HTTP/1.1\r\nHost: a.B\r\n", "a.B", "/"),
        ("GET https://a.b:443 HTTP/1.1\r\nHost: a.b\r\n", "a.b", "/"),
        ("GET http://a.b?x/y HTTP/1.1\r\nHost: a.b\r\n", "a.b", "/?x/y"),
        ("GET http://a.b:8/x HTTP/1.0\r\n", "a.b:8", "/x"),
        ("OPTIONS http://a.b HTTP/1.1\r\nHost: a.b\r\n", "a.b", "*"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.b\r\n", "a.b", "*"),
        ("CONNECT c.d:443 HTTP/1.1\r\nHost: a.b\r\n", "a.b", "c.d:443"),
    ] {
        let head = request(format!("{line}\r\n").as_bytes()).expect(line);
        assert_eq!(head.target(), target.as_bytes(), "{line}");
        assert_eq!(head.fields.get(Known::Host), Some(host.as_bytes()), "{line}");
    }
}

#[test]
fn case_14_a_head_beyond_its_limits_is_too_large() {
    let limits = HeadLimits { bytes: 200, fields: 4 };
    let parse = |bytes: &str| parse_request(bytes.as_bytes(), &mut 0, &mut RequestHead::new(), &limits);
    let with = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a.b\r\n{}\r\n", "a:\r\n".repeat(fields));
    assert_eq!(parse(&with(3)), Ok(Some(with(3).len())));
    assert!(matches!(parse(&with(4)), Err(TooLarge(_))));
    let sized = |n: usize| format!("GET / HTTP/1.1\r\nHost: a.b\r\na: {}\r\n\r\n", "x".repeat(n - 34));
    assert_eq!(parse(&sized(200)), Ok(Some(200)));
    assert!(matches!(parse(&sized(201)), Err(TooLarge(_))));
    assert_eq!(parse(&sized(201)[..199]), Ok(None));
    // Nobody has to wait for the end of what is too large already.
    assert!(matches!(parse(&sized(300)[..200]), Err(TooLarge(_))));
    // A limit that needs more room than the stack has is no other limit.
    let many = format!("GET / HTTP/1.1\r\nHost: a.b\r\n{}\r\n", "a:\r\n".repeat(1000));
    let roomy = HeadLimits { bytes: 10_000, fields: 1001 };
    assert_eq!(parse_request(many.as_bytes(), &mut 0, &mut RequestHead::new(), &roomy), Ok(Some(many.len())));
}

#[test]
fn case_25_a_giant_head_costs_as_much_as_it_is_long_however_it_drips() {
    let limits = HeadLimits { bytes: 4 << 20, fields: 100 };
    let bytes = format!("GET / HTTP/1.1\r\nHost: a.b\r\nUpgrade: x\r\nA: {}\r\n\r\n", "y\t".repeat(1 << 20));
    let (mut scanned, mut head) = (0, RequestHead::new());
    // Were every call to look at all of it again, this would be 10^12 bytes.
    for n in 1..bytes.len() {
        assert_eq!(parse_request(&bytes.as_bytes()[..n], &mut scanned, &mut head, &limits), Ok(None));
    }
    assert_eq!(parse_request(bytes.as_bytes(), &mut scanned, &mut head, &limits), Ok(Some(bytes.len())));
    let names = format!("GET / HTTP/1.1\r\nHost: a.b\r\nConnection: {}\r\n\r\n", "a,".repeat(1000));
    assert!(matches!(request(names.as_bytes()), Err(TooLarge(_))));
}

#[test]
fn what_is_no_http_is_refused_before_it_ends() {
    for start in ["\x16\x03\x01\x02\x00", "SSH-2.0-x\r\nfoo", "{\"a\"", "GET\r\n", "GET / HTTP/1.1\r\nA: b\nc", "\n"] {
        malformed(parse_request(start.as_bytes(), &mut 0, &mut RequestHead::new(), &LIMITS), &start);
    }
}
