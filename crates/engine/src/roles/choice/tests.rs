//! Told step by step what happens, and in a network where anything may happen at any time.

use proptest::prelude::*;

use super::Input::{Begin, Ended, Failed, Heard, Rest, Silent, Tick, Told, Up};
use super::Way::{Quic, WebSocket};
use super::*;

const GONE: &str = "no answer on UDP 8001";
const IMPOSSIBLE: &str = "an HTTP proxy stands between";

/// A choice, its clock, and what it has said.
struct Script {
    choice: Choice,
    now: Instant,
}

impl Script {
    fn new(policy: TransportChoice) -> Self {
        Script { choice: Choice::new(policy, 1, 7), now: Instant::now() }
    }

    /// A tunnel is wanted, and QUIC can be dialled.
    fn begun(policy: TransportChoice) -> Self {
        let mut script = Script::new(policy);
        script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
        script
    }

    /// UDP does not work: a WebSocket serves, and the next attempt of QUIC is awaited.
    fn on_websocket() -> Self {
        let mut script = Script::begun(TransportChoice::Auto);
        script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
        script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
        script.says(failed(Quic), &[]);
        script
    }

    /// QUIC serves.
    fn on_quic() -> Self {
        let mut script = Script::begun(TransportChoice::Auto);
        script.says(Up(Quic), &[Output::Serve(Quic)]);
        script
    }

    fn says(&mut self, input: Input, expected: &[Output]) {
        let (before, mut out) = (format!("{:?}, {input:?}", self.choice.state), Vec::new());
        self.choice.on(self.now, input, &mut out);
        assert_eq!(out, expected, "{before}");
    }

    /// Nothing happens until the choice wants to be asked again, which is after about `time`.
    fn waits(&mut self, time: Duration, expected: &[Output]) {
        let due = self.choice.next().expect("something is waited for");
        let wait = due - self.now;
        assert!(wait >= time.mul_f64(0.9) && wait <= time.mul_f64(1.1), "{wait:?} instead of {time:?}");
        self.now = due;
        self.says(Tick, expected);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn failed(way: Way) -> Input {
    Failed(way, format!("{way:?} failed"), false)
}

fn changed_to(to: Way, reason: &str) -> Output {
    changed(to, reason.to_owned())
}

#[test]
fn quic_that_answers_within_its_head_start_is_alone() {
    let mut script = Script::on_quic();
    assert_eq!((script.choice.next(), script.choice.not_quic()), (None, ""));
    script.says(Ended(Quic, "reset".into()), &[Output::BackOff("reset".into())]);
}

#[test]
fn quic_that_answers_first_ends_the_attempt_of_a_websocket() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(Up(Quic), &[Output::Cancel(WebSocket), Output::Serve(Quic)]);
}

#[test]
fn a_websocket_is_tried_at_once_where_quic_has_failed() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.says(failed(Quic), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
    assert_eq!(script.choice.not_quic(), "Quic failed");
}

#[test]
fn quic_that_is_late_takes_over_before_the_websocket_is_taken_back() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
    let back = [Output::Serve(Quic), Output::Withdraw(WebSocket), changed_to(Quic, "UDP is answered")];
    script.says(Up(Quic), &back);
}

#[test]
fn quic_is_tried_again_and_again_but_less_and_less_often() {
    let mut script = Script::on_websocket();
    for wait in [2, 4, 8, 10, 10, 10] {
        script.waits(seconds(wait), &[Output::Dial(Quic)]);
        script.says(failed(Quic), &[]);
        assert_eq!(script.choice.not_quic(), "Quic failed");
    }
    script.waits(seconds(10), &[Output::Dial(Quic)]);
    let back = [Output::Serve(Quic), Output::Withdraw(WebSocket), changed_to(Quic, "UDP is answered")];
    script.says(Up(Quic), &back);
    assert_eq!(script.choice.not_quic(), "");
}

#[test]
fn a_silent_tunnel_gets_a_websocket_beside_it_until_it_is_answered() {
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
    assert_eq!(script.choice.not_quic(), GONE);
    script.says(Heard, &[]);
    script.now += seconds(1);
    script.says(Silent(GONE.into()), &[]);
    assert_eq!(script.choice.next(), None);
    script.says(Heard, &[]);
    script.waits(seconds(2), &[Output::Withdraw(WebSocket), changed_to(Quic, "UDP is answered again")]);
    assert_eq!(script.choice.not_quic(), "");
}

#[test]
fn a_tunnel_that_was_silent_for_a_moment_stays_alone() {
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Heard, &[Output::Cancel(WebSocket)]);
    assert_eq!(script.choice.not_quic(), "");
}

#[test]
fn a_websocket_beside_a_silent_tunnel_is_tried_until_the_tunnel_has_ended() {
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[]);
    script.waits(seconds(2), &[Output::Dial(WebSocket)]);
    script.says(Ended(Quic, "silent".into()), &[Output::Dial(Quic)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
    script.says(failed(Quic), &[]);

    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[]);
    script.says(Ended(Quic, "silent".into()), &[Output::BackOff("silent".into())]);
}

#[test]
fn quic_is_tried_again_when_a_silent_tunnel_has_ended() {
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
    script.says(Ended(Quic, "silent".into()), &[]);
    script.waits(seconds(2), &[Output::Dial(Quic)]);
    assert_eq!(script.choice.not_quic(), GONE);
}

#[test]
fn a_websocket_that_ends_beside_a_silent_tunnel_comes_back() {
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
    script.says(Ended(WebSocket, "reset".into()), &[changed_to(Quic, "reset")]);
    script.waits(seconds(2), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
    script.says(Heard, &[]);
    script.says(Ended(WebSocket, "reset".into()), &[changed_to(Quic, "reset")]);
    assert_eq!(script.choice.next(), None);
}

#[test]
fn a_tunnel_that_is_silent_soon_after_it_came_back_waits_longer_for_its_next_attempt() {
    let mut script = Script::on_websocket();
    for wait in [2, 4, 8, 10, 10] {
        script.waits(seconds(wait), &[Output::Dial(Quic)]);
        let back = [Output::Serve(Quic), Output::Withdraw(WebSocket), changed_to(Quic, "UDP is answered")];
        script.says(Up(Quic), &back);
        script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
        script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
        script.says(Ended(Quic, "silent".into()), &[]);
    }
    script.waits(seconds(10), &[Output::Dial(Quic)]);
    let back = [Output::Serve(Quic), Output::Withdraw(WebSocket), changed_to(Quic, "UDP is answered")];
    script.says(Up(Quic), &back);
    script.now += seconds(60);
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
    script.says(Ended(Quic, "silent".into()), &[]);
    script.waits(seconds(1), &[Output::Dial(Quic)]);
}

#[test]
fn a_gateway_without_quic_is_seldom_asked_for_it() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
    script.says(Told(Offer::No), &[Output::Cancel(Quic)]);
    for _ in 0..3 {
        script.waits(seconds(60), &[Output::Dial(Quic)]);
        script.says(failed(Quic), &[]);
        assert_eq!(script.choice.not_quic(), "the gateway offers no QUIC");
    }
}

#[test]
fn quic_is_tried_where_the_gateway_says_that_it_is() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
    script.says(Told(Offer::Elsewhere), &[Output::Cancel(Quic), Output::Dial(Quic)]);

    let mut script = Script::on_websocket();
    script.says(Told(Offer::Elsewhere), &[Output::Dial(Quic)]);
    let mut script = Script::on_websocket();
    script.says(Told(Offer::Here), &[]);
    script.waits(seconds(2), &[Output::Dial(Quic)]);
}

#[test]
fn what_tcp_says_is_the_reason_where_neither_comes_up() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[]);
    script.says(failed(Quic), &[Output::BackOff("WebSocket failed".into())]);
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.says(failed(Quic), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[Output::BackOff("WebSocket failed".into())]);
}

#[test]
fn a_gateway_that_does_not_answer_by_tcp_is_left_after_a_second_which_grows_where_quic_may_be_slow() {
    let mut script = Script::new(TransportChoice::Auto);
    for last_chance in [1, 2, 4, 4] {
        script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
        script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
        script.says(failed(WebSocket), &[]);
        script.waits(seconds(last_chance), &[Output::Cancel(Quic), Output::BackOff("WebSocket failed".into())]);
    }
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[]);
    script.says(Up(Quic), &[Output::Serve(Quic)]);
    assert_eq!(script.choice.next(), None);
}

#[test]
fn a_silent_tunnel_has_every_gateway_tried_at_once() {
    let mut script = Script { choice: Choice::new(TransportChoice::Auto, 3, 7), now: Instant::now() };
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.says(Up(Quic), &[Output::Serve(Quic)]);
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    for _ in 0..2 {
        script.says(failed(WebSocket), &[Output::Dial(WebSocket)]);
        script.says(failed(WebSocket), &[Output::Dial(WebSocket)]);
        script.says(failed(WebSocket), &[]);
        script.waits(seconds(2), &[Output::Dial(WebSocket)]);
    }
    script.says(Up(WebSocket), &[Output::Serve(WebSocket), changed_to(WebSocket, GONE)]);
}

#[test]
fn an_answer_that_no_time_changes_is_the_last_word_when_quic_has_come_to_its_end() {
    let refused = Failed(WebSocket, "answered 401".into(), true);
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(refused.clone(), &[]);
    assert_eq!(script.choice.next(), None);
    script.says(failed(Quic), &[Output::GiveUp("answered 401".into())]);
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.says(Failed(Quic, "answered 401".into(), true), &[Output::Dial(WebSocket)]);
    script.says(refused, &[Output::GiveUp("answered 401".into())]);
}

#[test]
fn what_another_server_answers_by_tcp_ends_no_attempt_of_quic() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(Failed(WebSocket, "answered 404".into(), true), &[]);
    script.says(Up(Quic), &[Output::Serve(Quic)]);
}

#[test]
fn an_answer_over_quic_that_no_time_changes_counts_where_nothing_answers_by_tcp() {
    let refused = Failed(Quic, "answered 401".into(), true);
    let mut script = Script::begun(TransportChoice::Auto);
    script.says(refused.clone(), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[Output::GiveUp("answered 401".into())]);
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.waits(Duration::from_millis(300), &[Output::Dial(WebSocket)]);
    script.says(failed(WebSocket), &[]);
    script.says(refused, &[Output::GiveUp("answered 401".into())]);
}

#[test]
fn quic_alone_knows_no_websocket() {
    let mut script = Script::begun(TransportChoice::Quic);
    assert_eq!(script.choice.next(), None);
    script.says(failed(Quic), &[Output::BackOff("Quic failed".into())]);
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.says(Failed(Quic, "answered 401".into(), true), &[Output::GiveUp("answered 401".into())]);
    script.says(Begin(Ok(())), &[Output::Dial(Quic)]);
    script.says(Up(Quic), &[Output::Serve(Quic)]);
    script.says(Silent(GONE.into()), &[]);
    script.says(Ended(Quic, "silent".into()), &[Output::BackOff("silent".into())]);
    script.says(Begin(Err("no TLS".into())), &[Output::GiveUp("no TLS".into())]);
}

#[test]
fn no_quic_is_tried_where_it_is_not_wanted_or_cannot_be() {
    for (policy, quic, why) in [
        (TransportChoice::WebSocket, Ok(()), "written: transport: websocket"),
        (TransportChoice::Auto, Err(IMPOSSIBLE.to_owned()), IMPOSSIBLE),
    ] {
        let mut script = Script::new(policy);
        script.says(Begin(quic), &[Output::Dial(WebSocket)]);
        script.says(Up(WebSocket), &[Output::Serve(WebSocket)]);
        script.says(Told(Offer::Here), &[]);
        script.says(Told(Offer::Elsewhere), &[]);
        assert_eq!((script.choice.next(), script.choice.not_quic()), (None, why));
        script.says(Ended(WebSocket, "reset".into()), &[Output::BackOff("reset".into())]);
    }
}

#[test]
fn rest_takes_back_what_is_up_and_gives_up_what_is_tried() {
    let mut script = Script::begun(TransportChoice::Auto);
    script.says(Rest, &[Output::Cancel(Quic)]);
    script.says(Rest, &[]);
    let mut script = Script::on_quic();
    script.says(Silent(GONE.into()), &[Output::Dial(WebSocket)]);
    script.says(Rest, &[Output::Cancel(WebSocket), Output::Withdraw(Quic)]);
    let mut script = Script::on_websocket();
    script.says(Rest, &[Output::Withdraw(WebSocket)]);
    assert_eq!(script.choice.next(), None);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tunnel {
    #[default]
    None,
    Dialled,
    Up,
}

/// A caller that does as it is told, and a network in which everything may happen.
struct World {
    choice: Choice,
    now: Instant,
    quic: Tunnel,
    websocket: Tunnel,
    silent: bool,
    resting: bool,
}

impl World {
    fn tunnel(&mut self, way: Way) -> &mut Tunnel {
        match way {
            Quic => &mut self.quic,
            WebSocket => &mut self.websocket,
        }
    }

    fn takes(&mut self, input: Input) {
        match &input {
            Up(way) => *self.tunnel(*way) = Tunnel::Up,
            Failed(way, ..) | Ended(way, _) => *self.tunnel(*way) = Tunnel::None,
            Silent(_) => self.silent = true,
            Heard => self.silent = false,
            Begin(_) => self.resting = false,
            _ => {}
        }
        let rests = input == Rest;
        let (came, mut out) = (if let Up(way) = input { Some(way) } else { None }, Vec::new());
        self.choice.on(self.now, input, &mut out);
        assert!(out.len() <= 4, "{out:?}");
        let mut served = None;
        for output in out {
            match output {
                Output::Dial(way) => {
                    assert_eq!(std::mem::replace(self.tunnel(way), Tunnel::Dialled), Tunnel::None);
                }
                Output::Cancel(way) => {
                    assert_eq!(std::mem::take(self.tunnel(way)), Tunnel::Dialled);
                }
                Output::Serve(way) => {
                    self.silent &= way != Quic;
                    served = Some(way);
                }
                Output::Withdraw(way) => {
                    assert_eq!(std::mem::take(self.tunnel(way)), Tunnel::Up);
                    let other = if way == Quic { WebSocket } else { Quic };
                    assert!(rests || (*self.tunnel(other) == Tunnel::Up && way == WebSocket), "both were withdrawn");
                }
                Output::Changed { from, to, .. } => assert!(from != to && *self.tunnel(to) == Tunnel::Up),
                Output::BackOff(_) | Output::GiveUp(_) => self.resting = true,
            }
        }
        self.resting |= rests;
        assert_eq!(served, came, "what has come up serves");
        let busy = self.quic != Tunnel::None || self.websocket != Tunnel::None;
        assert_eq!(busy, !self.resting, "a tunnel is up or tried unless it was said that there is none");
        assert!(self.choice.next().is_none_or(|next| !self.resting && next <= self.now + seconds(66)));
    }

    /// Something happens that may happen now.
    fn step(&mut self, chance: u8, udp: bool, tcp: bool) {
        let offer = [Offer::Here, Offer::Elsewhere, Offer::No][usize::from(chance % 3)];
        let input = match chance % 12 {
            _ if self.resting => Begin(if chance == 255 { Err(IMPOSSIBLE.into()) } else { Ok(()) }),
            0 if self.quic == Tunnel::Up => Ended(Quic, "ended".into()),
            1 if self.websocket == Tunnel::Up => Ended(WebSocket, "ended".into()),
            2 if self.websocket == Tunnel::Up => Told(offer),
            3 if chance > 200 => Rest,
            4 | 5 if self.quic == Tunnel::Dialled && udp => Up(Quic),
            4 | 5 if self.quic == Tunnel::Dialled => Failed(Quic, "failed".into(), chance > 200),
            6 | 7 if self.websocket == Tunnel::Dialled && tcp => Up(WebSocket),
            6 | 7 if self.websocket == Tunnel::Dialled => Failed(WebSocket, "failed".into(), chance > 200),
            8 if self.quic == Tunnel::Up && !udp && !self.silent => Silent("silent".into()),
            9 if self.quic == Tunnel::Up && udp && self.silent => Heard,
            _ => return self.wait(Duration::from_millis(u64::from(chance) * 10)),
        };
        self.takes(input);
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.choice.next().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.takes(Tick);
            assert!(self.choice.next().is_none_or(|next| next > self.now), "a busy loop");
        }
        self.now = until;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tunnel_is_up_or_tried_whatever_happens_and_quic_in_the_end(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<bool>()), 0..200),
        seed in any::<u64>(),
    ) {
        let mut world = World {
            choice: Choice::new(TransportChoice::Auto, 1 + (seed % 3) as usize, seed),
            now: Instant::now(),
            quic: Tunnel::None,
            websocket: Tunnel::None,
            silent: false,
            resting: true,
        };
        for (chance, udp, tcp) in steps {
            world.step(chance, udp, tcp);
        }
        // From now on everything works, and the gateway offers it.
        if world.resting {
            world.takes(Begin(Ok(())));
        }
        if world.websocket == Tunnel::Up {
            world.takes(Told(Offer::Here));
        }
        if world.choice.not_quic() == IMPOSSIBLE {
            return Ok(());
        }
        let begun = world.now;
        while world.quic != Tunnel::Up || world.silent || world.websocket != Tunnel::None {
            for way in [WebSocket, Quic] {
                if *world.tunnel(way) == Tunnel::Dialled {
                    world.takes(Up(way));
                    if way == WebSocket {
                        world.takes(Told(Offer::Here));
                    }
                }
            }
            if world.silent && world.quic == Tunnel::Up {
                world.takes(Heard);
            }
            world.wait(Duration::from_millis(100));
            prop_assert!(world.now <= begun + seconds(30), "{:?}", world.choice.state);
        }
    }
}
