//! Counters of what went through, and their text.
//!
//! Each worker counts in its own shard; adding them up is left to whoever asks. Label values come from the
//! configuration and from accepted agents only, never from a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::error::Code;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Series a worker keeps apart. Agents may come with ever new names: those beyond it are counted together.
const SERIES: usize = 4096;

/// The endpoint label of what is counted together; no endpoint can have this name.
const OTHERS: &str = "(others)";

/// Everything a role counts.
pub struct Metrics {
    shards: Box<[Mutex<Shard>]>,
    /// Connections accepted since the start.
    pub connections: AtomicU64,
    /// Requests and streams that were tried again on another upstream.
    pub retries: AtomicU64,
    /// Sessions of agents that began.
    pub sessions: AtomicU64,
    /// Requests and streams that run.
    pub in_flight: AtomicU64,
    /// What connections of listeners with TLS have come to.
    handshakes: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
    /// The same over QUIC.
    quic_handshakes: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
    http2_closed: [AtomicU64; Http2Closed::ALL.len()],
    datagrams: [[AtomicU64; Fate::ALL.len()]; 2],
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever asked.
    In,
    /// To whoever asked.
    Out,
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::In, Direction::Out];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was sent on.
    Sent,
    /// The path carries none of its size.
    TooBig,
    /// Too much waited, to be sent or to be taken.
    QueueFull,
    /// There was nobody to send it to.
    NoSession,
    /// It came from where none may come from.
    Denied,
    /// The system or the other end took none.
    Failed,
}

impl Fate {
    const ALL: [(Fate, &'static str); 6] = [
        (Fate::Sent, "sent"),
        (Fate::TooBig, "too_big"),
        (Fate::QueueFull, "queue_full"),
        (Fate::NoSession, "no_session"),
        (Fate::Denied, "denied"),
        (Fate::Failed, "failed"),
    ];
}

/// Why we ended a connection of HTTP/2 that its peer could have kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Closed {
    /// It did not begin in time.
    Preface,
    /// It broke RFC 9113.
    Protocol,
    /// Streams opened and reset.
    Resets,
    /// Frames that carry nothing.
    Frames,
    /// Heads beyond any limit, or streams that had to be reset.
    Calm,
    /// It took no byte of what it was sent.
    Stuck,
}

impl Http2Closed {
    const ALL: [(Http2Closed, &'static str); 6] = [
        (Http2Closed::Preface, "preface"),
        (Http2Closed::Protocol, "protocol"),
        (Http2Closed::Resets, "resets"),
        (Http2Closed::Frames, "frames"),
        (Http2Closed::Calm, "calm"),
        (Http2Closed::Stuck, "stuck"),
    ];
}

/// Listener, tenant, endpoint.
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Default)]
struct Shard {
    series: HashMap<Key, Series>,
    errors: HashMap<(Arc<str>, Code), u64>,
}

#[derive(Clone, Default)]
struct Series {
    statuses: Vec<(u16, u64)>,
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
    count: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// One finished request or stream.
pub struct Sample<'a> {
    /// The listener it came by.
    pub listener: &'a Arc<str>,
    /// The owner of the endpoint, or of the credential; empty where there are no tenants.
    pub tenant: &'a str,
    /// The endpoint it went to; empty where it reached none.
    pub endpoint: &'a str,
    /// Its HTTP status; 0 for a raw stream.
    pub status: u16,
    /// What went wrong, if anything.
    pub error: Option<Code>,
    /// From its first byte to its last.
    pub duration: Duration,
    /// Bytes of bodies, from the downstream.
    pub bytes_in: u64,
    /// Bytes of bodies, to the downstream.
    pub bytes_out: u64,
}

impl Metrics {
    /// Counters at zero for so many workers.
    pub fn new(workers: usize) -> Self {
        Metrics {
            shards: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            connections: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            handshakes: Mutex::default(),
            quic_handshakes: Mutex::default(),
            http2_closed: Default::default(),
            datagrams: Default::default(),
        }
    }

    /// Counts a connection of a listener with TLS.
    pub fn handshake(&self, listener: &Arc<str>, outcome: &'static str) {
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        *handshakes.entry((listener.clone(), outcome)).or_default() += 1;
    }

    /// Counts a connection over QUIC that somebody wanted.
    pub fn quic_handshake(&self, listener: &Arc<str>, outcome: &'static str) {
        let mut handshakes = self.quic_handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        *handshakes.entry((listener.clone(), outcome)).or_default() += 1;
    }

    /// Counts a connection of HTTP/2 that was ended for what its peer did.
    pub fn http2_closed(&self, why: Http2Closed) {
        self.http2_closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a datagram of a UDP endpoint.
    pub fn datagram(&self, direction: Direction, fate: Fate) {
        self.datagrams(direction, fate, 1);
    }

    /// Counts so many.
    pub fn datagrams(&self, direction: Direction, fate: Fate, number: u64) {
        self.datagrams[direction as usize][fate as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a finished request in the shard of its worker.
    pub fn record(&self, worker: usize, sample: &Sample<'_>) {
        let mut shard = self.shards[worker].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = sample.error {
            *shard.errors.entry((sample.listener.clone(), code)).or_default() += 1;
        }
        let (listener, tenant, endpoint) = (sample.listener, sample.tenant, sample.endpoint);
        let key = Names(listener, tenant, endpoint);
        let full = shard.series.len() >= SERIES;
        let series = match shard.series.get_mut(&key) {
            Some(series) => series,
            None if !full => shard.series.entry((listener.clone(), tenant.into(), endpoint.into())).or_default(),
            None => shard.series.entry((listener.clone(), "".into(), OTHERS.into())).or_default(),
        };
        match series.statuses.iter_mut().find(|(status, _)| *status == sample.status) {
            Some((_, count)) => *count += 1,
            None => series.statuses.push((sample.status, 1)),
        }
        let seconds = sample.duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            series.buckets[bucket] += 1;
        }
        series.seconds += seconds;
        series.count += 1;
        series.bytes_in += sample.bytes_in;
        series.bytes_out += sample.bytes_out;
    }

    /// Requests and errors so far, of all workers.
    pub fn totals(&self) -> (u64, u64) {
        let mut totals = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            totals.0 += shard.series.values().map(|s| s.count).sum::<u64>();
            totals.1 += shard.errors.values().sum::<u64>();
        }
        totals
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, page: &mut Page) {
        let mut series: BTreeMap<Key, Series> = Default::default();
        let mut errors: BTreeMap<(Arc<str>, &'static str), u64> = Default::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, one) in &shard.series {
                series.entry(key.clone()).or_default().add(one);
            }
            for ((listener, code), count) in &shard.errors {
                *errors.entry((listener.clone(), code.as_str())).or_default() += count;
            }
        }
        page.family("tidegate_requests_total", "counter", "Finished requests; status 0 is a raw stream.");
        for (key, one) in &series {
            for (status, count) in &one.statuses {
                let status = status.to_string();
                page.value(&[&labels(key)[..], &[("status", &*status)]].concat(), *count as f64);
            }
        }
        page.family("tidegate_request_seconds", "histogram", "From a request's first byte to its answer's last.");
        for (key, one) in &series {
            page.histogram(&labels(key), one);
        }
        for (name, help, pick) in [
            (
                "tidegate_request_bytes_total",
                "Bytes of bodies from downstreams.",
                (|s| s.bytes_in) as fn(&Series) -> u64,
            ),
            ("tidegate_response_bytes_total", "Bytes of bodies to downstreams.", |s| s.bytes_out),
        ] {
            page.family(name, "counter", help);
            for (key, one) in &series {
                page.value(&labels(key), pick(one) as f64);
            }
        }
        page.family("tidegate_errors_total", "counter", "Requests and streams that failed, by error code.");
        for ((listener, code), count) in &errors {
            page.value(&[("listener", listener), ("code", code)], *count as f64);
        }
        page.family(
            "tidegate_tls_handshakes_total",
            "counter",
            "Connections to ports that speak TLS: full or resumed where it ended here, passed_through, or why not \
             served.",
        );
        for ((listener, outcome), count) in &*self.handshakes.lock().unwrap_or_else(PoisonError::into_inner) {
            page.value(&[("listener", listener), ("outcome", outcome)], *count as f64);
        }
        page.family(
            "tidegate_quic_handshakes_total",
            "counter",
            "Connections over QUIC that somebody wanted: full where one came about, or what was done instead.",
        );
        for ((listener, outcome), count) in &*self.quic_handshakes.lock().unwrap_or_else(PoisonError::into_inner) {
            page.value(&[("listener", listener), ("outcome", outcome)], *count as f64);
        }
        page.family("tidegate_http2_closed_total", "counter", "HTTP/2 connections ended for what their peer did.");
        for ((_, reason), count) in Http2Closed::ALL.iter().zip(&self.http2_closed) {
            page.value(&[("reason", reason)], count.load(Ordering::Relaxed) as f64);
        }
        page.family(
            "tidegate_udp_datagrams_total",
            "counter",
            "Datagrams of UDP endpoints, from visitors (in) and to them (out): sent on, or why they were dropped.",
        );
        for direction in Direction::ALL {
            for ((_, outcome), count) in Fate::ALL.iter().zip(&self.datagrams[direction as usize]) {
                let labels = [("direction", direction.word()), ("outcome", outcome)];
                page.value(&labels, count.load(Ordering::Relaxed) as f64);
            }
        }
        for (name, kind, help, counter) in [
            ("tidegate_connections_total", "counter", "Accepted connections.", &self.connections),
            ("tidegate_requests_in_flight", "gauge", "Requests and streams that run.", &self.in_flight),
            ("tidegate_retries_total", "counter", "Attempts on another upstream.", &self.retries),
            ("tidegate_sessions_total", "counter", "Sessions that began.", &self.sessions),
        ] {
            page.family(name, kind, help);
            page.value(&[], counter.load(Ordering::Relaxed) as f64);
        }
    }
}

/// The labels of a series; that of the tenant only where there is one.
fn labels((listener, tenant, endpoint): &Key) -> Vec<(&'static str, &str)> {
    let mut labels: Vec<(&'static str, &str)> = vec![("listener", listener), ("endpoint", endpoint)];
    if !tenant.is_empty() {
        labels.push(("tenant", tenant));
    }
    labels
}

impl Series {
    fn add(&mut self, other: &Series) {
        for (status, count) in &other.statuses {
            match self.statuses.iter_mut().find(|(mine, _)| mine == status) {
                Some((_, sum)) => *sum += count,
                None => self.statuses.push((*status, *count)),
            }
        }
        self.statuses.sort_unstable();
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
        self.seconds += other.seconds;
        self.count += other.count;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// Borrowed names that find owned ones without a clone.
#[derive(Hash)]
struct Names<'a>(&'a str, &'a str, &'a str);

impl hashbrown::Equivalent<Key> for Names<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.0 == *key.0 && *self.1 == *key.1 && *self.2 == *key.2
    }
}

/// A page of metrics in the making.
#[derive(Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// Begins a family; its values follow.
    pub fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One value of the family.
    pub fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, labels: &[(&str, &str)], series: &Series) {
        let mut sum = 0;
        for (bound, count) in BUCKETS.iter().zip(series.buckets) {
            sum += count;
            self.line("_bucket", labels, Some(&bound.to_string()), sum as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), series.count as f64);
        self.line("_sum", labels, None, series.seconds);
        self.line("_count", labels, None, series.count as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: f64) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (name, text) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{separator}{name}=\"{text}\"");
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The whole page.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_and_the_histogram_is_cumulative() {
        let metrics = Metrics::new(2);
        let (listener, endpoint, tenant): (Arc<str>, Arc<str>, Arc<str>) = ("proxy".into(), "web".into(), "".into());
        for (worker, millis, status) in [(0, 2, 200), (1, 40, 200), (1, 2000, 502)] {
            metrics.record(
                worker,
                &Sample {
                    listener: &listener,
                    tenant: &tenant,
                    endpoint: &endpoint,
                    status,
                    error: (status == 502).then_some(Code::NoUpstream),
                    duration: Duration::from_millis(millis),
                    bytes_in: 1,
                    bytes_out: 10,
                },
            );
        }
        let mut page = Page::default();
        metrics.render(&mut page);
        let text = page.finish();
        for line in [
            r#"tidegate_requests_total{listener="proxy",endpoint="web",status="200"} 2"#,
            r#"tidegate_request_seconds_bucket{listener="proxy",endpoint="web",le="0.05"} 2"#,
            r#"tidegate_request_seconds_bucket{listener="proxy",endpoint="web",le="+Inf"} 3"#,
            r#"tidegate_response_bytes_total{listener="proxy",endpoint="web"} 30"#,
            r#"tidegate_errors_total{listener="proxy",code="no_upstream"} 1"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        assert_eq!(metrics.totals(), (3, 1));
    }
}
