//! A gateway with whoever answers its questions, agents, and a visitor who says exactly what is wanted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tidegate_engine::event::Events;
use tidegate_engine::roles::{self, Role};
use tidegate_engine::verdict::Kind;

/// The set of every policy that does not say otherwise.
pub(crate) const SET: &str = "main-1";

/// Seconds since 1970, some seconds from now.
pub(crate) fn from_now(seconds: f64) -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + seconds
}

/// A token that says this, and that the answerer believes.
pub(crate) fn token(claims: Value) -> String {
    signed(claims, "good")
}

/// A token with a signature in words.
pub(crate) fn signed(claims: Value, signature: &str) -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let header = part(json!({"alg": "HS256"}).to_string());
    format!("{header}.{}.{}", part(claims.to_string()), part(signature.to_owned()))
}

/// A token for everything, for an hour.
pub(crate) fn master() -> String {
    token(json!({"exp": from_now(3600.0).trunc()}))
}

/// A whole configuration. `changes` are laid over it.
pub(crate) fn configuration(listeners: Value, changes: Value) -> Value {
    let mut whole = json!({
        "role": "gateway", "version": "0", "node": "n", "workers": 2, "takeover": false, "listeners": listeners,
        "upstreams": [], "routes": [], "routing": "specific", "no_route_status": 404, "trusted_proxies": [],
        "error_pages": {"html": null, "json": null}, "public_url": null,
        "timeouts": timeouts(), "limits": limits(),
        "tunnel": {"ping_interval": 30.0, "ping_timeout": 10.0, "congestion": "cubic"},
        "access_log": {"to": null, "format": "text"},
        "verifier_sets": [{"id": SET, "algorithms": ["HS256"], "require_expiry": true}],
    });
    for (name, value) in changes.as_object().unwrap() {
        whole[name] = value.clone();
    }
    whole
}

fn timeouts() -> Value {
    json!({"connect": 5.0, "handshake": 5.0, "head": 5.0, "response": 10.0, "idle": 30.0, "keep_alive": 30.0,
           "upstream_keep_alive": 30.0})
}

/// What asks for a WebSocket.
pub(crate) const UPGRADE: [(&str, &str); 5] = [
    ("Host", "gate"),
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
];

fn limits() -> Value {
    json!({"head_bytes": 65536, "head_fields": 100, "connections": 400, "idle_upstreams": 10, "retry_percent": 20,
           "http2_streams": 100})
}

/// A listener. `more` is laid over it.
pub(crate) fn listener(name: &str, kind: &str, more: Value) -> Value {
    let mut listener = json!({
        "name": name, "bind": ["127.0.0.1:0"], "tls": null, "proxy_protocol": [],
        "transports": ["websocket"], "kind": kind,
    });
    if kind == "http" {
        listener["dynamic_endpoints"] = json!("unnamed");
    }
    for (key, value) in more.as_object().unwrap() {
        listener[key] = value.clone();
    }
    listener
}

/// A route. `more` is laid over it.
pub(crate) fn route(host: &str, to: Value, more: Value) -> Value {
    let mut route = json!({
        "name": format!("r-{host}"), "listeners": [], "sni": null, "host": host, "path": null, "methods": [],
        "headers": [],
        "action": {"forward": {"to": to, "path": "keep", "host_header": "keep",
            "request_headers": {"remove": [], "set": [], "add": []},
            "response_headers": {"remove": [], "set": [], "add": []},
            "response_timeout": null, "idle_timeout": null}},
    });
    for (key, value) in more.as_object().unwrap() {
        route[key] = value.clone();
    }
    route
}

/// A running gateway.
pub(crate) struct Gate {
    pub(crate) role: Arc<dyn Role>,
    /// Questions that were asked, as they came.
    pub(crate) asked: Arc<Mutex<Vec<Value>>>,
    /// Nobody answers for as long as this is set.
    pub(crate) silent: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    answering: Vec<JoinHandle<()>>,
}

impl Gate {
    pub(crate) fn start(configuration: &Value) -> Gate {
        let events = Events::new().unwrap();
        let role: Arc<dyn Role> =
            roles::start(roles::read(configuration.to_string().as_bytes()).unwrap(), &events).unwrap().into();
        let (asked, silent, over): (Arc<Mutex<Vec<Value>>>, Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let answering = Kind::ALL.map(|kind| {
            let (role, asked, silent, over) = (role.clone(), asked.clone(), silent.clone(), over.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let Some(question) = role.next_question(kind, Duration::from_millis(20)) else { continue };
                    let question: Value = serde_json::from_slice(&question).unwrap();
                    asked.lock().unwrap().push(question.clone());
                    while silent.load(Ordering::Relaxed) && !over.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    role.answer(question["number"].as_u64().unwrap(), verdict(&question).to_string().as_bytes())
                        .unwrap();
                }
            })
        });
        Gate { role, asked, silent, over, answering: answering.into() }
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let status = self.role.status();
        let listeners = status["listeners"].as_array().unwrap();
        let found = listeners.iter().find(|one| one["name"] == listener).unwrap();
        found["addresses"][0].as_str().unwrap().parse().unwrap()
    }

    /// Asks with these fields; the whole answer.
    pub(crate) fn ask(&self, listener: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
        let mut visitor = Visitor::connect(self.address(listener));
        visitor.say(target, fields);
        visitor.answer()
    }

    pub(crate) fn endpoints(&self) -> Vec<(String, String, usize)> {
        let status = self.role.status();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |one: &Value| (text(&one["tenant"]), text(&one["name"]), one["listeners"].as_array().unwrap().len());
        status["endpoints"].as_array().unwrap().iter().map(one).collect()
    }

    pub(crate) fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.role.stop();
        for thread in self.answering.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What the answerer makes of a question: the token says by itself what it is good for.
fn verdict(question: &Value) -> Value {
    let key = |material: &str| format!("{}/{material}", question["set"].as_str().unwrap());
    match question["kind"].as_str().unwrap() {
        "password" => match (question["user"].as_str().unwrap(), question["password"].as_str().unwrap()) {
            ("ann", "secret") => json!({"granted": {"tenant": "", "listen": [], "reach": null, "expires": null,
                                                    "key": key("ann"), "limits": null}}),
            _ => json!({"refused": "invalid_token", "keep": 1.0}),
        },
        "certificate" => json!({"granted": {"tenant": "", "listen": ["web"], "reach": ["web"], "expires": null,
                                            "key": key("leaf"), "limits": null}}),
        _ => {
            let token = question["token"].as_str().unwrap();
            let part = |at: usize| URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
            let claims: Value = serde_json::from_slice(&part(1)).unwrap();
            match &part(2)[..] {
                b"good" => json!({"granted": {
                    "tenant": claims["tenant"].as_str().unwrap_or_default(), "listen": claims["listen"],
                    "reach": claims["reach"], "expires": claims["exp"],
                    "key": key(claims["key"].as_str().unwrap_or("1")), "limits": claims["limits"]}}),
                b"unknown" => json!({"unavailable": "the keys cannot be fetched"}),
                _ => json!({"refused": "invalid_token", "keep": 60.0}),
            }
        }
    }
}

/// An answer to a visitor.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn error(&self) -> &str {
        self.field("x-tidegate-error").unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One connection of a visitor.
pub(crate) struct Visitor {
    pub(crate) stream: TcpStream,
}

impl Visitor {
    pub(crate) fn connect(to: SocketAddr) -> Visitor {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Visitor { stream }
    }

    pub(crate) fn say(&mut self, target: &str, fields: &[(&str, &str)]) {
        let mut text = format!("GET {target} HTTP/1.1\r\n");
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all((text + "\r\n").as_bytes()).unwrap();
    }

    /// One answer, of which the length is told.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.until(b"\r\n\r\n");
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        assert!(
            status != 401 || answer.field("www-authenticate").is_some(),
            "no challenge (RFC 9110 §11.6.1): {answer:?}"
        );
        answer
    }

    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            let mut byte = [0];
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        read
    }

    /// Waits until nothing more comes: true when it was broken off.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("still open"),
                Err(_) => return true,
            }
        }
    }
}

/// A service that answers with what it was asked, or with words for ever where the path is `/endless`.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    /// Requests that came.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Service {
    pub(crate) fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<AtomicUsize> = Arc::default();
        let counted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, asked) = (stream.unwrap(), counted.clone());
                std::thread::spawn(move || {
                    let mut read = Vec::new();
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        read.push(byte[0]);
                        if !read.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                        let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
                        if head.starts_with("GET /endless") {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                            while stream.write_all(b"1\r\n.\r\n").is_ok() {
                                std::thread::sleep(Duration::from_millis(50));
                            }
                            return;
                        }
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Service { address, asked }
    }
}

/// A running agent that offers one service.
pub(crate) struct Agent {
    pub(crate) role: Box<dyn Role>,
    pub(crate) events: Arc<Events>,
}

impl Agent {
    pub(crate) fn start(gate: SocketAddr, endpoint: &str, service: SocketAddr, token: Option<&str>) -> Agent {
        let snapshot = json!({
            "role": "agent", "version": "0", "id": format!("agent-{endpoint}-{}", service.port()),
            "connect": {"urls": [format!("http://{gate}")], "token": token, "renews": endpoint == "renewed",
                "tenant": "", "transport": "websocket", "proxies": [],
                "tls": {"ca": null, "cert": null, "key": null, "server_name": null, "insecure_skip_verify": false}},
            "connections": 1,
            "endpoints": [{"name": endpoint, "kind": "http",
                "to": {"host": "127.0.0.1", "port": service.port(), "tls": null},
                "host_header": "keep", "protocol": "http1", "health": null}],
            "timeouts": timeouts(), "limits": limits(),
            "tunnel": {"ping_interval": 30.0, "ping_timeout": 10.0, "congestion": "cubic"},
            "access_log": {"to": null, "format": "text"},
        });
        let events = Events::new().unwrap();
        let role = roles::start(roles::read(snapshot.to_string().as_bytes()).unwrap(), &events).unwrap();
        Agent { role, events }
    }

    /// Every event so far, as text.
    pub(crate) fn told(&self) -> String {
        self.events.take().into_iter().map(|event| String::from_utf8(event).unwrap() + "\n").collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.role.stop();
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "still waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
