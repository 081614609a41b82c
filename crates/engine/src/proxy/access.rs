//! One line for each finished request or stream, written by a thread of its own.
//!
//! The buffer in between is bounded: a disk that hangs costs lines, which are counted, never requests.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use serde_json::json;
use tokio::time::Instant;

use crate::allowance::Taken;
use crate::error::Error;
use crate::message::{Known, RequestHead};
use crate::snapshot::{AccessLog as Config, AccessLogFormat};

/// Bytes that wait at most for the disk.
const WAITING: usize = 4 << 20;

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The most bytes of a path or host that a line shows.
const SHOWN: usize = 2048;

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A gateway.
    Gateway,
    /// An agent.
    Agent,
    /// The service.
    Upstream,
}

impl Answered {
    fn word(self) -> &'static str {
        match self {
            Answered::Gateway => "gateway",
            Answered::Agent => "agent",
            Answered::Upstream => "upstream",
        }
    }
}

/// What is known of a request or stream when it has ended.
pub struct Record {
    /// Its id, unique in this process.
    pub id: u64,
    /// Who asked.
    pub client: SocketAddr,
    /// The listener it came by.
    pub listener: Arc<str>,
    /// The route of the configuration that it took, where it took one.
    pub route: Option<Arc<str>>,
    /// Whose credential it came with, where it needed one of somebody's.
    pub tenant: Option<Arc<str>>,
    /// The endpoint it went to, where it reached one.
    pub endpoint: Option<Arc<str>>,
    /// What it asked, kept only where a log is written.
    pub asked: Option<Words>,
    /// What its ClientHello asked, where that is all that could be read.
    pub server_name: Option<String>,
    /// The upstream that answered, or the last that was tried.
    pub upstream: String,
    /// Upstreams that were tried.
    pub attempts: u32,
    /// The status sent; 0 for a raw stream.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// When its head began.
    pub began: Instant,
    /// When the first byte of the answer was there.
    pub first_byte: Option<Instant>,
    /// Who answered.
    pub answered: Answered,
    /// What went wrong.
    pub error: Option<Error>,
    /// What it counts against, for as long as it lives.
    pub taken: Taken,
    /// Bytes that were charged to that.
    charged: u64,
}

/// The words of a request.
pub struct Words {
    method: String,
    host: String,
    path: String,
}

impl Words {
    /// What a request's head asks.
    pub fn of(head: &RequestHead) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
        Words {
            method: text(head.method()),
            host: text(head.fields.get(Known::Host).unwrap_or_default()),
            path: text(head.target()),
        }
    }
}

impl Record {
    /// A request that has just begun.
    pub fn new(id: u64, client: SocketAddr, listener: Arc<str>, answered: Answered) -> Self {
        Record {
            id,
            client,
            listener,
            route: None,
            tenant: None,
            endpoint: None,
            asked: None,
            server_name: None,
            upstream: String::new(),
            attempts: 0,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            began: Instant::now(),
            first_byte: None,
            answered,
            error: None,
            taken: Taken::default(),
            charged: 0,
        }
    }

    /// Charges the bytes that have moved since the last time to whoever has a bound.
    pub fn charge(&mut self) {
        let moved = self.bytes_in + self.bytes_out;
        if moved > self.charged {
            self.taken.charge(moved - self.charged);
            self.charged = moved;
        }
    }

    /// The owner of the endpoint or of the credential; empty where there are no tenants.
    pub fn owner(&self) -> &str {
        text(self.tenant.as_ref())
    }

    /// What logs and metrics call where it went; empty where it reached nothing.
    pub fn label(&self) -> &str {
        text(self.endpoint.as_ref())
    }

    /// The host that was asked for.
    fn host(&self) -> Option<&str> {
        self.asked.as_ref().map(|asked| &*asked.host).or(self.server_name.as_deref())
    }
}

fn text(name: Option<&Arc<str>>) -> &str {
    name.map_or("", |name| name)
}

/// The access log in force, or none.
pub struct Access {
    log: ArcSwapOption<AccessLog>,
    /// The same, for whoever asks with every request.
    is_on: AtomicBool,
}

impl Access {
    /// This log, or none.
    pub fn new(log: Option<AccessLog>) -> Self {
        Access { is_on: AtomicBool::new(log.is_some()), log: ArcSwapOption::new(log.map(Arc::new)) }
    }

    /// Puts this log in force, or none, and returns the one that was.
    pub fn swap(&self, log: Option<AccessLog>) -> Option<Arc<AccessLog>> {
        self.is_on.store(log.is_some(), Ordering::Relaxed);
        self.log.swap(log.map(Arc::new))
    }

    /// The log in force.
    pub fn current(&self) -> Option<Arc<AccessLog>> {
        self.log.load_full()
    }

    /// True where there is one.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Adds the line of a finished request, where there is a log.
    pub fn write(&self, record: &Record) {
        if self.is_on()
            && let Some(log) = &*self.log.load()
        {
            log.write(record);
        }
    }
}

/// Where lines go.
pub struct AccessLog {
    shared: Arc<Shared>,
    format: AccessLogFormat,
    utc_offset: i32,
    /// A line of text says everything, not only what a person at an agent wants to see.
    whole: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    closed: bool,
    /// Everything has been written.
    done: bool,
}

impl AccessLog {
    /// Opens the log, a file anew even where nothing has changed: it may have been rotated. None where the
    /// configuration wants none. `whole`: lines of text say everything that is known. What `before` has dropped stays
    /// counted.
    pub fn open(config: &Config, whole: bool, before: Option<&AccessLog>) -> io::Result<Option<Self>> {
        let Some(to) = &config.to else { return Ok(None) };
        let sink: Box<dyn Write + Send> = match to.as_str() {
            "stdout" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let dropped = before.map_or(0, AccessLog::dropped);
        let shared =
            Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), dropped: AtomicU64::new(dropped) });
        let writer = shared.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&writer, sink))?;
        Ok(Some(AccessLog { shared, format: config.format, utc_offset: config.utc_offset, whole }))
    }

    /// Lines that were dropped because the buffer was full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Adds the line of a finished request.
    pub fn write(&self, record: &Record) {
        let line = match self.format {
            AccessLogFormat::Json => json_line(record),
            AccessLogFormat::Text => text_line(record, self.utc_offset, self.whole),
        };
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() + line.len() > WAITING {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line.as_bytes());
        drop(state);
        if was_empty {
            self.shared.wake.notify_one();
        }
    }
}

impl AccessLog {
    /// Writes what waits, and nothing more from then on.
    pub fn close(&self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.shared.wake.notify_all();
        // A disk that hangs is not waited for longer than this.
        let waited = self.shared.wake.wait_timeout_while(state, LAST_LINES, |state| !state.done);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // Not waited for: the last one that holds it may be a worker.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_all();
    }
}

fn write_lines(shared: &Shared, mut sink: Box<dyn Write + Send>) {
    let mut taken = Vec::new();
    loop {
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting.is_empty() && !state.closed {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.waiting.is_empty() {
            state.done = true;
            shared.wake.notify_all();
            return;
        }
        std::mem::swap(&mut taken, &mut state.waiting);
        drop(state);
        if sink.write_all(&taken).and_then(|()| sink.flush()).is_err() {
            let lines = taken.iter().filter(|byte| **byte == b'\n').count();
            shared.dropped.fetch_add(lines as u64, Ordering::Relaxed);
        }
        taken.clear();
    }
}

fn json_line(record: &Record) -> String {
    let asked = record.asked.as_ref();
    let value = json!({
        "time": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "id": format!("{:016x}", record.id),
        "client": client(record.client),
        "listener": &*record.listener,
        "method": asked.map(|a| &a.method),
        "host": record.host(),
        "path": asked.map(|a| &a.path),
        "route": text(record.route.as_ref()),
        "tenant": text(record.tenant.as_ref()),
        "endpoint": text(record.endpoint.as_ref()),
        "upstream": record.upstream,
        "attempts": record.attempts,
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "first_byte_ms": record.first_byte.map(|at| millis(at.duration_since(record.began))),
        "duration_ms": millis(record.began.elapsed()),
        "answered": record.answered.word(),
        "error": record.error.as_ref().map(|e| e.code.as_str()),
        "detail": record.error.as_ref().map(|e| &*e.detail),
    });
    let mut line = ascii(&value.to_string());
    line.push('\n');
    line
}

/// JSON in ASCII alone: a terminal takes some bytes beyond it for commands.
fn ascii(json: &str) -> String {
    if json.is_ascii() {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for character in json.chars() {
        if character.is_ascii() && character != '\x7f' {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

fn text_line(record: &Record, utc_offset: i32, whole: bool) -> String {
    let mut line = String::with_capacity(128);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let seconds = (now + i64::from(utc_offset)).rem_euclid(86_400);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    // Writing to a String cannot fail.
    let _ = write!(line, "{h:02}:{m:02}:{s:02}");
    // A request that reached no endpoint is known by the host that it asked for.
    let endpoint = text(record.endpoint.as_ref());
    let host = record.host().filter(|_| endpoint.is_empty()).unwrap_or_default();
    for word in
        [&client(record.client), endpoint, &host.escape_debug().to_string()].into_iter().filter(|word| !word.is_empty())
    {
        let _ = write!(line, " {word}");
    }
    match &record.asked {
        Some(asked) => {
            let _ = write!(line, " {} {} {}", asked.method.escape_debug(), asked.path.escape_debug(), record.status);
        }
        None if record.status != 0 => {
            let _ = write!(line, " - - {}", record.status);
        }
        None => line.push_str(" stream"),
    }
    let _ = write!(line, " {:.1}ms {}B in {}B out", millis(record.began.elapsed()), record.bytes_in, record.bytes_out);
    if whole {
        rest_of_line(record, &mut line);
    }
    if let Some(error) = &record.error {
        let _ = write!(line, " ({}", error.code.as_str());
        if !error.detail.is_empty() {
            let _ = write!(line, ": {}", error.detail.escape_debug());
        }
        line.push(')');
    }
    line.push('\n');
    line
}

/// What a gateway's line says besides: an agent and a forward are their only listener, and go to one place.
fn rest_of_line(record: &Record, line: &mut String) {
    if let Some(host) = record.host() {
        let _ = write!(line, " host={}", host.escape_debug());
    }
    if let Some(first) = record.first_byte {
        let _ = write!(line, " first={:.1}ms", millis(first.duration_since(record.began)));
    }
    let _ = write!(line, " listener={} upstream={:?} attempts={}", record.listener, record.upstream, record.attempts);
    if let Some(route) = record.route.as_ref().filter(|route| !route.is_empty()) {
        let _ = write!(line, " route={}", route.escape_debug());
    }
    let _ = write!(line, " answered={} id={:016x}", record.answered.word(), record.id);
}

/// Who asked: nothing where nobody is known, no port where only an address is.
fn client(address: SocketAddr) -> String {
    match (address.ip().is_unspecified(), address.port()) {
        (true, _) => String::new(),
        (false, 0) => address.ip().to_string(),
        (false, _) => address.to_string(),
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
