//! Whose a datagram is: each begins with the number of the stream that it belongs to. No I/O.
//!
//! Datagrams overtake streams, so that some come before the stream that they belong to: those are kept for a moment.
//! Everything else that belongs to nobody is dropped and counted.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;

use super::control::{put, take};

/// Datagrams that may wait for their stream, of all streams together.
pub const EARLY: usize = 32;
/// Bytes of those.
pub const EARLY_BYTES: usize = 48 * 1024;
/// How long one waits for its stream.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Datagrams of one flow that may wait to be taken; of more the oldest is dropped.
pub const WAITING: usize = 256;
/// Bytes of those.
pub const WAITING_BYTES: usize = 256 * 1024;
/// The longest number of a stream.
pub const LONGEST_ID: usize = 8;

/// The bits of a stream's number that say who opened it and whether it has one direction or two.
const KIND: u64 = 0b11;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It waits in its flow.
    Queued,
    /// The same, and an older one was dropped for it.
    Displacing,
    /// It waits for its stream.
    Early,
    /// It belongs to nobody.
    Dropped,
}

/// The flows of a session, by the numbers of their streams.
pub struct Demux {
    /// The bits of the peer's streams.
    theirs: u64,
    /// None: the stream has come, and is not a flow yet.
    flows: HashMap<u64, Option<Queue>>,
    /// The highest number of a stream of the peer that has come.
    last: Option<u64>,
    early: VecDeque<Waiting>,
    early_bytes: usize,
    dropped: u64,
}

/// What has come for a flow and was not taken.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    missed: u64,
    reader: Option<Waker>,
}

/// A datagram without a stream.
struct Waiting {
    id: u64,
    payload: Bytes,
    since: Instant,
}

impl Demux {
    /// No flow yet. `client`: it is us who opened the connection.
    pub fn new(client: bool) -> Self {
        let theirs = u64::from(client);
        let (flows, early) = (HashMap::new(), VecDeque::new());
        // The server's end: the first stream was the hello's.
        let last = (!client).then_some(0);
        Demux { theirs, flows, last, early, early_bytes: 0, dropped: 0 }
    }

    /// A stream of the peer has come, of which nobody knows yet what it is.
    pub fn comes(&mut self, id: u64) {
        self.last = self.last.max(Some(id));
        self.flows.entry(id).or_default();
    }

    /// A stream is a flow from now on; what came before it is there already.
    pub fn begin(&mut self, id: u64, now: Instant) {
        let mut queue = Queue::default();
        for waiting in std::mem::take(&mut self.early) {
            if now >= waiting.since + PATIENCE {
                self.early_bytes -= waiting.payload.len();
                self.dropped += 1;
            } else if waiting.id == id {
                self.early_bytes -= waiting.payload.len();
                self.dropped += queue.push(waiting.payload);
            } else {
                self.early.push_back(waiting);
            }
        }
        self.flows.insert(id, Some(queue));
    }

    /// A stream is no flow, or none any more.
    pub fn end(&mut self, id: u64) {
        if let Some(Some(queue)) = self.flows.remove(&id) {
            self.dropped += queue.waiting.len() as u64;
        }
    }

    /// Takes a datagram, as it has come.
    pub fn take(&mut self, datagram: &[u8], now: Instant) -> Taken {
        let mut payload = datagram;
        let taken = match take(&mut payload) {
            Some(id) => self.put(id, payload, now),
            None => Taken::Dropped,
        };
        self.dropped += u64::from(taken == Taken::Dropped);
        taken
    }

    fn put(&mut self, id: u64, payload: &[u8], now: Instant) -> Taken {
        match self.flows.get_mut(&id) {
            Some(Some(queue)) => {
                // A copy: what has come is a part of a larger piece of memory, which it would hold.
                let displaced = queue.push(Bytes::copy_from_slice(payload));
                self.dropped += displaced;
                if displaced == 0 { Taken::Queued } else { Taken::Displacing }
            }
            Some(None) => self.keep(id, payload, now),
            None if id & KIND == self.theirs && Some(id) > self.last => self.keep(id, payload, now),
            None => Taken::Dropped,
        }
    }

    fn keep(&mut self, id: u64, payload: &[u8], now: Instant) -> Taken {
        while let Some(oldest) = self.early.front()
            && now >= oldest.since + PATIENCE
        {
            self.early_bytes -= oldest.payload.len();
            self.early.pop_front();
            self.dropped += 1;
        }
        if self.early.len() >= EARLY || self.early_bytes + payload.len() > EARLY_BYTES {
            return Taken::Dropped;
        }
        self.early_bytes += payload.len();
        self.early.push_back(Waiting { id, payload: Bytes::copy_from_slice(payload), since: now });
        Taken::Early
    }

    /// The next datagram of a flow; else `reader` is woken when there is one.
    pub fn next(&mut self, id: u64, reader: &Waker) -> Option<Bytes> {
        let queue = self.flows.get_mut(&id)?.as_mut()?;
        let next = queue.waiting.pop_front();
        match &next {
            Some(payload) => queue.bytes -= payload.len(),
            None => queue.reader = Some(reader.clone()),
        }
        next
    }

    /// Datagrams of a flow that were dropped because nobody took them, since it was last asked.
    pub fn missed(&mut self, id: u64) -> u64 {
        self.flows.get_mut(&id).and_then(Option::as_mut).map_or(0, |queue| std::mem::take(&mut queue.missed))
    }

    /// Datagrams that nobody got.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes that wait.
    pub fn held(&self) -> usize {
        self.early_bytes + self.flows.values().flatten().map(|queue| queue.bytes).sum::<usize>()
    }
}

impl Queue {
    /// How many older ones had to go.
    fn push(&mut self, payload: Bytes) -> u64 {
        let mut displaced = 0;
        while self.waiting.len() >= WAITING || (self.bytes + payload.len() > WAITING_BYTES && !self.waiting.is_empty())
        {
            self.bytes -= self.waiting.pop_front().map_or(0, |oldest| oldest.len());
            displaced += 1;
        }
        self.missed += displaced;
        self.bytes += payload.len();
        self.waiting.push_back(payload);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        displaced
    }
}

/// A datagram of a stream, as it is sent.
pub fn datagram(id: u64, payload: &[u8]) -> Bytes {
    let mut whole = Vec::with_capacity(LONGEST_ID + payload.len());
    put(id, &mut whole);
    whole.extend_from_slice(payload);
    whole.into()
}

/// How many bytes of a datagram the number of its stream takes.
pub fn length_of(id: u64) -> usize {
    match id {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => LONGEST_ID,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next(demux: &mut Demux, id: u64) -> Option<Bytes> {
        demux.next(id, Waker::noop())
    }

    /// A flow of the peer's from its stream's first packet on.
    fn open(demux: &mut Demux, id: u64, now: Instant) {
        demux.comes(id);
        demux.begin(id, now);
    }

    #[test]
    fn what_overtakes_its_stream_is_there_when_the_stream_is() {
        let (mut demux, now) = (Demux::new(true), Instant::now());
        assert_eq!(demux.take(&datagram(5, b"one"), now), Taken::Early);
        demux.comes(5);
        assert_eq!(demux.take(&datagram(5, b"two"), now), Taken::Early);
        demux.begin(5, now);
        assert_eq!(demux.take(&datagram(5, b""), now), Taken::Queued);
        let got: Vec<_> = std::iter::from_fn(|| next(&mut demux, 5)).collect();
        assert_eq!(got, [&b"one"[..], b"two", b""]);
        assert_eq!((demux.held(), demux.dropped()), (0, 0));
    }

    #[test]
    fn nothing_waits_for_a_stream_that_does_not_come_or_was_there() {
        let (mut demux, now) = (Demux::new(true), Instant::now());
        demux.take(&datagram(9, b"late"), now);
        open(&mut demux, 9, now + PATIENCE);
        assert_eq!((next(&mut demux, 9), demux.dropped(), demux.held()), (None, 1, 0));
        demux.end(9);
        // One that has ended, one before it, one of our own, ones of a single direction, and half a number.
        for bytes in
            [&datagram(9, b"x")[..], &datagram(5, b"x"), &datagram(12, b"x"), &datagram(15, b"x"), &[0xC0], &[]]
        {
            assert_eq!(demux.take(bytes, now), Taken::Dropped, "{bytes:?}");
        }
        // The first stream of a connection is no flow.
        assert_eq!(Demux::new(false).take(&datagram(0, b"x"), now), Taken::Dropped);
    }

    #[test]
    fn what_waits_for_streams_is_bounded_in_number_and_bytes() {
        let (mut demux, now) = (Demux::new(false), Instant::now());
        for number in 0..EARLY as u64 {
            assert_eq!(demux.take(&datagram(4 + 4 * number, b"x"), now), Taken::Early);
        }
        assert_eq!(demux.take(&datagram(4, b"x"), now), Taken::Dropped);
        assert_eq!(demux.take(&datagram(4, b"x"), now + PATIENCE), Taken::Early);
        assert_eq!(demux.dropped(), 1 + EARLY as u64);
        assert_eq!(demux.take(&datagram(8, &[0; EARLY_BYTES]), now + PATIENCE), Taken::Dropped);
    }

    #[test]
    fn a_flow_that_nobody_reads_keeps_the_newest() {
        let (mut demux, now) = (Demux::new(true), Instant::now());
        open(&mut demux, 1, now);
        for number in 0..=WAITING {
            demux.take(&datagram(1, &(number as u16).to_be_bytes()), now);
        }
        assert_eq!((demux.missed(1), demux.missed(1), demux.dropped()), (1, 0, 1));
        assert_eq!(next(&mut demux, 1).as_deref(), Some(&[0, 1][..]));
        assert_eq!(demux.take(&datagram(1, &[0; WAITING_BYTES]), now), Taken::Displacing);
        assert_eq!(demux.held(), WAITING_BYTES);
    }

    proptest! {
        #[test]
        fn every_flow_gets_its_own_in_order_and_nothing_is_lost_uncounted(
            steps in prop::collection::vec((0..6u8, 0..8u64, 0..2000usize), 0..400)
        ) {
            let (mut demux, now) = (Demux::new(true), Instant::now());
            let (mut got, mut sent, mut ended) = (0u64, 0u64, 0u64);
            let mut seen: HashMap<u64, u64> = HashMap::new();
            for (step, stream, length) in steps {
                let id = 4 * stream + 1;
                match step {
                    0 => demux.comes(id),
                    1 => if !seen.contains_key(&id) {
                        open(&mut demux, id, now);
                        seen.insert(id, 0);
                    },
                    2 => demux.end(id),
                    3 => while let Some(payload) = next(&mut demux, id) {
                        let number = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                        let last = seen.insert(id, number).expect("a flow");
                        prop_assert!(number > last);
                        got += 1;
                    },
                    _ => {
                        sent += 1;
                        let mut payload = sent.to_be_bytes().to_vec();
                        payload.resize(8 + length, 0);
                        demux.take(&datagram(id, &payload), now);
                    }
                }
                prop_assert!(demux.early_bytes <= EARLY_BYTES && demux.early.len() <= EARLY);
                prop_assert!(demux.held() <= EARLY_BYTES + 8 * WAITING_BYTES);
            }
            ended += demux.early.len() as u64;
            ended += demux.flows.values().flatten().map(|queue| queue.waiting.len() as u64).sum::<u64>();
            prop_assert_eq!(got + ended + demux.dropped(), sent);
        }
    }
}
