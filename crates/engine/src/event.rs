//! Notices for Python: what happened, as JSON, through a bounded queue and an eventfd.
//!
//! Code says `info!(endpoint = %name, "agent connected")`; the message is the event, the fields are its fields. Each
//! role has its own queue, because each role's threads carry their own subscriber: two engines in one process never
//! mix. What is done with a notice (a log line, a reconnect hint) is Python's.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Notices that wait at most; beyond it the oldest are dropped and counted: the last word of a role is never lost.
const CAPACITY: usize = 4096;

/// The queue of one role.
pub struct Events {
    queue: Mutex<Queue>,
    /// Readable while something waits.
    wake: OwnedFd,
    /// The most verbose level that is kept, 1 (error) to 5 (trace).
    level: AtomicU8,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    dropped: u64,
}

impl Events {
    /// An empty queue. Fails where the process has no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Events { queue: Mutex::default(), wake, level: AtomicU8::new(3) }))
    }

    /// The descriptor that is readable while something waits.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Keeps events up to this level: 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub fn set_level(&self, level: u8) {
        self.level.store(level.clamp(1, 5), Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Takes what waits, oldest first, each a JSON object.
    pub fn take(&self) -> Vec<Vec<u8>> {
        // An error here is "nothing was signalled", which is what we want to reach anyway.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Vec<u8>> = queue.waiting.drain(..).collect();
        if queue.dropped > 0 {
            let dropped = std::mem::take(&mut queue.dropped);
            let mut object = header("events dropped", "warn");
            object.insert("count".into(), dropped.into());
            taken.push(Value::Object(object).to_string().into_bytes());
        }
        taken
    }

    fn push(&self, event: Vec<u8>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= CAPACITY {
            queue.waiting.pop_front();
            queue.dropped += 1;
        }
        queue.waiting.push_back(event);
        if queue.waiting.len() == 1 {
            // The counter of an eventfd cannot overflow at one a batch.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// Sends this thread's events to `events` until the guard is dropped.
pub fn subscribe(events: &Arc<Events>) -> tracing::subscriber::DefaultGuard {
    // While there is only one subscriber, `tracing` asks that of whichever thread changes a level or comes by an event
    // first, and where that thread has none the event is lost for all others, for ever. So there are always two.
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    tracing::subscriber::set_default(ToQueue(events.clone()))
}

struct ToQueue(Arc<Events>);

impl Subscriber for ToQueue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        rank(metadata.level()) <= self.0.level.load(Ordering::Relaxed)
            && metadata.target().starts_with("tidegate_engine")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { message: String::new(), object: Map::new() };
        event.record(&mut fields);
        let mut object = header(&fields.message, word(event.metadata().level()));
        object.append(&mut fields.object);
        self.0.push(Value::Object(object).to_string().into_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn header(event: &str, level: &str) -> Map<String, Value> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut object = Map::new();
    object.insert("event".into(), event.into());
    object.insert("level".into(), level.into());
    object.insert("time".into(), time.into());
    object
}

fn rank(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

fn word(level: &Level) -> &'static str {
    ["error", "warn", "info", "debug", "trace"][usize::from(rank(level)) - 1]
}

struct Fields {
    message: String,
    object: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.object.insert(field.name().into(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message = value.into() } else { self.put(field, value.into()) }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_arrive_in_order_with_their_fields() {
        let events = Events::new().expect("eventfd");
        let guard = subscribe(&events);
        tracing::info!(endpoint = "web", session = 7u64, "agent connected");
        tracing::debug!("not kept");
        tracing::warn!(reason = %"a \"quoted\"\nline", "agent disconnected");
        drop(guard);
        let taken: Vec<Value> = events.take().iter().map(|e| serde_json::from_slice(e).expect("json")).collect();
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0]["event"], "agent connected");
        assert_eq!(taken[0]["session"], 7);
        assert_eq!(taken[1]["reason"], "a \"quoted\"\nline");
        assert!(events.take().is_empty());
    }

    #[test]
    fn a_full_queue_drops_and_says_how_many() {
        let events = Events::new().expect("eventfd");
        for _ in 0..CAPACITY + 3 {
            events.push(b"{}".to_vec());
        }
        let taken = events.take();
        let last: Value = serde_json::from_slice(&taken[CAPACITY]).expect("json");
        assert_eq!(last["count"], 3);
    }
}
