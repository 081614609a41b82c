use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tunnel::frame::{ACK, FIN, HEADER, Header, Kind, RST, SYN};

fn frame(kind: Kind, flags: u16, stream: u32, length: u32) -> [u8; HEADER] {
    Header { kind, flags, stream, length }.encode()
}

/// The frames of the next message, without the bytes of data frames.
fn frames(mux: &mut Mux) -> Vec<(Kind, u16, u32, u32)> {
    let message = mux.transmit(Instant::now());
    let mut bytes = message.chunk();
    let mut found = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let header = Header::decode(header).expect("our own header");
        let body = if header.kind == Kind::Data { header.length as usize } else { 0 };
        bytes = &rest[body..];
        found.push((header.kind, header.flags, header.stream, header.length));
    }
    found
}

fn receive(mux: &mut Mux, parts: &[&[u8]]) -> Result<(), End> {
    parts.iter().try_for_each(|part| mux.receive(part, Instant::now()))
}

#[test]
fn a_stream_opens_at_once_with_its_first_data_where_there_is_some() {
    let mut mux = Mux::new(Role::Server, 0);
    let (silent, eager) = (mux.open().expect("open"), mux.open().expect("open"));
    assert_eq!(mux.write(eager, b"hello"), Poll::Ready(Ok(5)));
    assert_eq!(frames(&mut mux), [(Kind::WindowUpdate, SYN, silent, 0), (Kind::Data, SYN, eager, 5)]);
    assert_eq!(mux.write(eager, b"more"), Poll::Ready(Ok(4)));
    assert_eq!(mux.finish(eager), Poll::Ready(Ok(())));
    assert_eq!(frames(&mut mux), [(Kind::Data, 0, eager, 4), (Kind::WindowUpdate, FIN, eager, 0)]);
    assert!(!mux.has_work());
}

#[test]
fn an_agent_opens_odd_ids_and_a_gateway_even_ones() {
    let (mut agent, mut gateway) = (Mux::new(Role::Client, 0), Mux::new(Role::Server, 0));
    assert_eq!((agent.open(), agent.open()), (Ok(1), Ok(3)));
    assert_eq!((gateway.open(), gateway.open()), (Ok(2), Ok(4)));
}

#[test]
fn a_stream_is_acknowledged_before_anybody_takes_it() {
    let mut mux = Mux::new(Role::Server, 0);
    receive(&mut mux, &[&frame(Kind::WindowUpdate, SYN, 1, 0), &frame(Kind::Data, SYN, 3, 2), b"hi"]).expect("fine");
    assert_eq!(frames(&mut mux), [(Kind::WindowUpdate, ACK, 1, 0), (Kind::WindowUpdate, ACK, 3, 0)]);
    assert_eq!((mux.accept(), mux.accept(), mux.accept()), (Some(1), Some(3), None));
    let mut got = [0; 8];
    assert_eq!(mux.read(3, &mut got), Poll::Ready(Ok(2)));
    assert!(mux.read(1, &mut got).is_pending());
}

#[test]
fn streams_of_the_peer_may_arrive_out_of_order_but_only_once() {
    let mut mux = Mux::new(Role::Server, 0);
    let syn = |id| frame(Kind::WindowUpdate, SYN, id, 0);
    receive(&mut mux, &[&syn(5), &syn(1), &syn(3)]).expect("fine");
    assert_eq!(receive(&mut mux, &[&syn(3)]), Err(End::protocol("a stream id used twice")));
}

#[test]
fn what_breaks_the_rules_ends_the_session() {
    let syn = frame(Kind::WindowUpdate, SYN, 1, 0);
    let mut version = syn;
    version[0] = 1;
    let mut kind = syn;
    kind[1] = 9;
    let cases: [(&[&[u8]], &str); 9] = [
        (&[&version], "wrong yamux version"),
        (&[&kind], "unknown yamux frame type"),
        (&[&frame(Kind::WindowUpdate, SYN, 2, 0)], "a stream id of the wrong side"),
        (&[&frame(Kind::WindowUpdate, SYN, 0, 0)], "a stream id of the wrong side"),
        (&[&frame(Kind::Data, 0, 7, 1)], "a frame for a stream never opened"),
        (&[&frame(Kind::WindowUpdate, 0, 4, 1)], "a frame for a stream never opened"),
        (&[&syn, &frame(Kind::Data, 0, 1, u32::MAX)], "data beyond the window"),
        (&[&syn, &frame(Kind::WindowUpdate, 0, 1, u32::MAX)], "a window beyond 4 GiB"),
        (&[&frame(Kind::Data, SYN, 1, INITIAL_WINDOW + 1)], "data beyond the window"),
    ];
    for (bytes, reason) in cases {
        let mut mux = Mux::new(Role::Server, 0);
        assert_eq!(receive(&mut mux, bytes), Err(End::protocol(reason)));
    }
    for code in [1, 2, 77] {
        let mut mux = Mux::new(Role::Client, 0);
        assert_eq!(receive(&mut mux, &[&frame(Kind::GoAway, 0, 0, code)]), Err(End::GoAway(code)));
    }
}

#[test]
fn data_for_a_stream_that_has_been_closed_is_counted_and_forgotten() {
    let mut mux = Mux::new(Role::Server, 0);
    let id = mux.open().expect("open");
    frames(&mut mux);
    receive(&mut mux, &[&frame(Kind::WindowUpdate, ACK, id, 0)]).expect("fine");
    mux.drop_stream(id, false);
    assert_eq!(frames(&mut mux), [(Kind::WindowUpdate, RST, id, 0)]);
    receive(&mut mux, &[&frame(Kind::Data, FIN, id, 3), b"abc", &frame(Kind::WindowUpdate, RST, id, 5)]).expect("fine");
    assert_eq!((mux.stats().discarded, mux.streams(), mux.memory()), (3, 0, 0));
}

#[test]
fn a_reset_says_whether_the_stream_was_taken() {
    let mut mux = Mux::new(Role::Server, 0);
    let (refused, taken) = (mux.open().expect("open"), mux.open().expect("open"));
    frames(&mut mux);
    receive(&mut mux, &[&frame(Kind::WindowUpdate, RST, refused, 0), &frame(Kind::WindowUpdate, ACK, taken, 0)])
        .expect("fine");
    receive(&mut mux, &[&frame(Kind::Data, 0, taken, 2), b"ok", &frame(Kind::WindowUpdate, RST, taken, 0)])
        .expect("fine");
    let mut got = [0; 8];
    assert_eq!(mux.read(refused, &mut got), Poll::Ready(Err(Fault::Reset { accepted: false })));
    assert_eq!(mux.read(taken, &mut got), Poll::Ready(Ok(2)));
    assert_eq!(mux.read(taken, &mut got), Poll::Ready(Err(Fault::Reset { accepted: true })));
}

#[test]
fn pings_collapse_and_come_before_data() {
    let mut mux = Mux::new(Role::Server, 0);
    for number in 0..10_000 {
        receive(&mut mux, &[&frame(Kind::Ping, SYN, 0, number)]).expect("fine");
    }
    let id = mux.open().expect("open");
    mux.ask();
    assert_eq!(
        frames(&mut mux),
        [(Kind::Ping, ACK, 0, 9999), (Kind::Ping, SYN, 0, 0), (Kind::WindowUpdate, SYN, id, 0)]
    );
    receive(&mut mux, &[&frame(Kind::Ping, ACK, 0, 0)]).expect("fine");
    assert!(mux.stats().rtt.is_some() && mux.asked().is_none());
}

#[test]
fn a_long_queue_goes_round_robin() {
    let mut mux = Mux::new(Role::Server, 0);
    let ids: Vec<u32> = (0..3).map(|_| mux.open().expect("open")).collect();
    frames(&mut mux);
    // The first fills the message, and alone waits for the next; the others stand in line.
    assert!(matches!(mux.write(ids[0], &[7; 200_000]), Poll::Ready(Ok(1..200_000))));
    assert!(mux.write(ids[0], &[7; 200_000]).is_pending());
    for id in &ids[1..] {
        assert_eq!(mux.write(*id, &[7; 200_000]), Poll::Ready(Ok(200_000)));
    }
    assert_eq!(mux.write(ids[0], &[7; 100_000]), Poll::Ready(Ok(100_000)));
    let mut order = Vec::new();
    for _ in 0..4 {
        order.extend(frames(&mut mux).into_iter().map(|(_, _, id, length)| (id, length)));
    }
    let served: Vec<u32> = ids.iter().map(|id| order.iter().filter(|(i, _)| i == id).map(|(_, n)| n).sum()).collect();
    assert!(served.iter().all(|n| *n > 0), "{order:?}");
    assert!(order[1..].iter().all(|(_, length)| *length <= 32 * 1024), "{order:?}");
}

#[test]
fn the_stream_with_the_most_unread_bytes_pays_for_the_session() {
    let mut mux = Mux::new(Role::Server, 0);
    let body = vec![1; INITIAL_WINDOW as usize];
    let streams = RECEIVE_BUDGET / body.len();
    for number in 0..streams as u32 {
        let id = number * 2 + 1;
        // One stream holds less than the others; it is not the one to go.
        let body = if id == 1 { &body[..1000] } else { &body[..] };
        receive(&mut mux, &[&frame(Kind::Data, SYN, id, body.len() as u32), body]).expect("fine");
        mux.accept();
    }
    assert_eq!(mux.open(), Err(OpenError::Busy));
    assert_eq!((mux.stats().overruns, mux.streams()), (0, streams));
    receive(&mut mux, &[&frame(Kind::Data, SYN, 9999, body.len() as u32), &body]).expect("fine");
    assert_eq!((mux.stats().overruns, mux.streams()), (1, streams));
    assert!(mux.stats().unread as usize <= RECEIVE_BUDGET);
    assert!(frames(&mut mux).iter().any(|(_, flags, ..)| *flags == RST));
}

#[test]
fn a_window_grows_when_the_round_trip_is_what_limits_it() {
    let mut mux = Mux::new(Role::Server, 0);
    let start = Instant::now();
    mux.ask();
    mux.transmit(start);
    let later = start + Duration::from_millis(100);
    mux.receive(&frame(Kind::Ping, ACK, 0, 0), later).expect("fine");
    mux.receive(&frame(Kind::WindowUpdate, SYN, 1, 0), later).expect("fine");
    mux.accept();
    mux.transmit(later);
    let mut granted = Vec::new();
    for round in 0..20 {
        let now = later + Duration::from_millis(round);
        let window = mux.streams[&1].credit;
        let body = vec![0; window as usize];
        mux.receive(&frame(Kind::Data, 0, 1, window), now).expect("fine");
        mux.receive(&body, now).expect("fine");
        let mut got = vec![0; window as usize];
        assert_eq!(mux.read(1, &mut got), Poll::Ready(Ok(window as usize)));
        mux.transmit(now);
        granted.push(mux.streams[&1].window);
    }
    assert_eq!(granted[..3], [2 * INITIAL_WINDOW, 4 * INITIAL_WINDOW, 8 * INITIAL_WINDOW]);
    assert_eq!(granted[19], MAX_WINDOW);
}

#[derive(Clone, Debug)]
enum Step {
    Open(bool),
    Accept(bool),
    Write(bool, usize, usize),
    Read(bool, usize, usize),
    Finish(bool, usize),
    Drop(bool, usize, bool),
    Transmit(bool),
    Deliver(bool, usize),
    GoAway(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (side, which, size) = (any::<bool>(), any::<usize>(), prop_oneof![0..200usize, 0..300_000usize]);
    prop_oneof![
        3 => side.prop_map(Step::Open),
        3 => side.prop_map(Step::Accept),
        6 => (side, which, size.clone()).prop_map(|(side, which, n)| Step::Write(side, which, n)),
        6 => (side, which, size.clone()).prop_map(|(side, which, n)| Step::Read(side, which, n)),
        1 => (side, which).prop_map(|(side, which)| Step::Finish(side, which)),
        1 => (side, which, side).prop_map(|(side, which, hard)| Step::Drop(side, which, hard)),
        8 => side.prop_map(Step::Transmit),
        8 => (side, size).prop_map(|(side, n)| Step::Deliver(side, n)),
        1 => Just(Step::GoAway(true)),
    ]
}

/// One end with what the test knows of its streams: bytes written, bytes read, finished, end seen.
struct Party {
    mux: Mux,
    wire: Vec<u8>,
    streams: BTreeMap<u32, [usize; 2]>,
    finished: BTreeMap<u32, usize>,
}

fn pattern(id: u32, from_client: bool, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(id).wrapping_add(at as u32 >> 8) as u8 ^ u8::from(from_client)
}

struct World {
    parties: [Party; 2],
    /// Streams that somebody has dropped unfinished: their other end may see a reset.
    broken: std::collections::BTreeSet<u32>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let party =
            |role| Party { mux: Mux::new(role, 0), wire: vec![], streams: BTreeMap::new(), finished: BTreeMap::new() };
        World { parties: [party(Role::Client), party(Role::Server)], broken: Default::default(), now: Instant::now() }
    }

    fn pick(&self, side: bool, which: usize) -> Option<u32> {
        let streams = &self.parties[usize::from(side)].streams;
        streams.keys().nth(which % streams.len().max(1)).copied()
    }

    fn apply(&mut self, step: Step) {
        self.now += Duration::from_micros(50);
        match step {
            Step::Open(side) => {
                let refused = self.parties[usize::from(!side)].mux.leaving;
                let party = &mut self.parties[usize::from(side)];
                if let Ok(id) = party.mux.open() {
                    if refused {
                        self.broken.insert(id);
                    }
                    party.streams.insert(id, [0, 0]);
                }
            }
            Step::Accept(side) => {
                let party = &mut self.parties[usize::from(side)];
                if let Some(id) = party.mux.accept() {
                    party.streams.insert(id, [0, 0]);
                }
            }
            Step::Write(side, which, n) => {
                let Some(id) = self.pick(side, which) else { return };
                let party = &mut self.parties[usize::from(side)];
                let [written, _] = party.streams.get_mut(&id).expect("known");
                let data: Vec<u8> = (0..n).map(|i| pattern(id, side, *written + i)).collect();
                match party.mux.write(id, &data) {
                    Poll::Ready(Ok(n)) => *written += n,
                    Poll::Ready(Err(Fault::Finished)) => assert!(party.finished.contains_key(&id)),
                    Poll::Ready(Err(_)) => assert!(self.broken.contains(&id)),
                    Poll::Pending => {}
                }
            }
            Step::Read(side, which, n) => {
                let Some(id) = self.pick(side, which) else { return };
                self.read(side, id, n + 1);
            }
            Step::Finish(side, which) => {
                let Some(id) = self.pick(side, which) else { return };
                let party = &mut self.parties[usize::from(side)];
                if let Poll::Ready(Err(_)) = party.mux.finish(id) {
                    assert!(self.broken.contains(&id));
                } else {
                    let written = party.streams[&id][0];
                    party.finished.insert(id, written);
                }
            }
            Step::Drop(side, which, hard) => {
                let Some(id) = self.pick(side, which) else { return };
                self.broken.insert(id);
                let party = &mut self.parties[usize::from(side)];
                party.mux.drop_stream(id, hard);
                party.streams.remove(&id);
            }
            Step::Transmit(side) => {
                let party = &mut self.parties[usize::from(side)];
                let message = party.mux.transmit(self.now);
                assert!(message.len() <= BUFFER_SIZE);
                party.wire.extend_from_slice(message.chunk());
            }
            Step::Deliver(side, n) => {
                let [client, server] = &mut self.parties;
                let (from, to) = if side { (server, client) } else { (client, server) };
                let n = n.min(from.wire.len());
                let outcome = to.mux.receive(&from.wire[..n], self.now);
                assert_eq!(outcome, Ok(()));
                from.wire.drain(..n);
                assert!(to.mux.streams.values().all(|slot| slot.inbox.len() <= slot.window as usize));
            }
            Step::GoAway(side) => {
                self.parties[usize::from(side)].mux.go_away();
                // Streams on their way are refused from here on.
                let other: Vec<u32> = self.parties[usize::from(!side)].streams.keys().copied().collect();
                self.broken.extend(other);
            }
        }
    }

    /// True when something came or nothing more will.
    fn read(&mut self, side: bool, id: u32, n: usize) -> bool {
        let mut target = vec![0; n];
        let finished = self.parties[usize::from(!side)].finished.get(&id).copied();
        let party = &mut self.parties[usize::from(side)];
        let [_, read] = party.streams.get_mut(&id).expect("known");
        match party.mux.read(id, &mut target) {
            Poll::Ready(Ok(0)) => assert_eq!(Some(*read), finished, "an end where none was"),
            Poll::Ready(Ok(n)) => {
                for (i, byte) in target[..n].iter().enumerate() {
                    assert_eq!(*byte, pattern(id, !side, *read + i), "stream {id} at {}", *read + i);
                }
                *read += n;
            }
            Poll::Ready(Err(_)) => assert!(self.broken.contains(&id)),
            Poll::Pending => return false,
        }
        true
    }

    fn exchange(&mut self) {
        for side in [false, true] {
            while self.parties[usize::from(side)].mux.has_work() {
                self.apply(Step::Transmit(side));
            }
        }
        for side in [false, true] {
            self.apply(Step::Deliver(side, usize::MAX));
        }
    }

    /// Lets everything arrive: every stream ends, and nothing is left.
    fn settle(mut self) {
        for _ in 0..2000 {
            self.exchange();
            let mut busy = false;
            for side in [false, true] {
                self.apply(Step::Accept(side));
                let ids: Vec<u32> = self.parties[usize::from(side)].streams.keys().copied().collect();
                for id in ids {
                    let party = &mut self.parties[usize::from(side)];
                    let written = party.streams[&id][0];
                    party.finished.entry(id).or_insert(written);
                    busy |= party.mux.finish(id).is_pending();
                    busy |= !self.read(side, id, 300_000);
                }
            }
            if !busy && self.parties.iter().all(|party| !party.mux.has_work() && party.wire.is_empty()) {
                break;
            }
        }
        for (id, [written, _]) in &self.parties[0].streams {
            if let (Some([_, read]), false) = (self.parties[1].streams.get(id), self.broken.contains(id)) {
                assert_eq!(written, read, "stream {id} did not arrive whole");
            }
        }
        for side in [false, true] {
            let party = &mut self.parties[usize::from(side)];
            for id in std::mem::take(&mut party.streams).into_keys() {
                party.mux.drop_stream(id, false);
            }
        }
        self.exchange();
        self.exchange();
        for party in &mut self.parties {
            assert_eq!((party.mux.streams(), party.mux.stats().unread, party.mux.memory()), (0, 0, 0));
            assert_eq!((party.mux.unacknowledged, party.mux.grown), (0, 0));
            assert!(party.mux.ended().is_none());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_in_order_and_nothing_is_left(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
        world.settle();
    }

    #[test]
    fn no_bytes_of_a_peer_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1..50usize) {
        let mut mux = Mux::new(Role::Server, 0);
        for part in bytes.chunks(cut) {
            if mux.receive(part, Instant::now()).is_err() {
                break;
            }
        }
        mux.transmit(Instant::now());
    }
}
