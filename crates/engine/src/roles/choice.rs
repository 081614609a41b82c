//! Whether a tunnel is made of QUIC or of WebSocket: which of them is dialled, serves and is taken back, and when.
//!
//! Decides only, by a clock that is handed in: dialling, serving and waiting are the caller's. Where both are wanted,
//! QUIC has a head start. A QUIC tunnel whose packets are not answered gets a WebSocket beside it; whoever is on
//! WebSocket tries QUIC again and again, and goes back to it before it takes the WebSocket back, so that nothing is
//! lost. A forward has no tunnel of WebSocket: there the word stands for one of its own for each connection.

use std::time::{Duration, Instant};

use crate::snapshot::{TransportChoice, Way};
use crate::tunnel::hello::NOT_OFFERED;

/// How long only QUIC is tried.
const HEAD_START: Duration = Duration::from_millis(300);

/// How long after the last attempt QUIC is tried again, in seconds; the last of them again and again.
const PROBES: [u64; 5] = [1, 2, 4, 8, 10];

/// The same where the gateway has said that it offers no QUIC.
const UNOFFERED: Duration = Duration::from_secs(60);

/// How long QUIC has to answer before the WebSocket beside it is taken back.
const STEADY: Duration = Duration::from_secs(2);

/// How long QUIC is still waited for where a WebSocket has come to nothing; twice as long each time that this was not
/// enough, up to four times.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// A tunnel of QUIC that has served for so long is a good one: what had failed before counts no more.
const LASTED: Duration = Duration::from_secs(60);

/// What a gateway says of QUIC in its answer over WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is where it is looked for.
    Here,
    /// It is at a place where it has not been looked for yet.
    Elsewhere,
    /// There is none.
    No,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A tunnel to a gateway is wanted; an error says why QUIC cannot be dialled there.
    Begin(Result<(), String>),
    /// What was dialled is up.
    Up(Way),
    /// Said by the WebSocket that is up.
    Told(Offer),
    /// What was dialled did not come up, for this reason. True: trying again changes nothing.
    Failed(Way, String, bool),
    /// What was sent over QUIC is not answered, in these words.
    Silent(String),
    /// It is answered again.
    Heard,
    /// What was up has ended, or is about to.
    Ended(Way, String),
    /// No tunnel is wanted any more.
    Rest,
    /// The time of [`Choice::next`] has come.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Begin a tunnel of this.
    Dial(Way),
    /// Give up the attempt.
    Cancel(Way),
    /// Serve what has come up.
    Serve(Way),
    /// Take back what is up: it ends when nothing runs on it any more.
    Withdraw(Way),
    /// New requests come another way than before.
    Changed {
        /// Before.
        from: Way,
        /// From now on.
        to: Way,
        /// Why.
        reason: String,
    },
    /// Nothing is up or tried; begin again after a while.
    BackOff(String),
    /// The same, and the gateway has said that trying again changes nothing.
    GiveUp(String),
}

/// How far an attempt of a race is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    /// There is none.
    Never,
    /// It begins then.
    At(Instant),
    /// It runs.
    Dialling,
    /// It has failed for this reason. True: trying again changes nothing.
    Failed(String, bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is up or tried.
    Idle,
    /// Nothing is up; the first one that comes up serves.
    /// QUIC is given up at an instant, where there is one.
    Racing { quic: Attempt, websocket: Attempt, until: Option<Instant> },
    /// QUIC serves alone, since then.
    OnQuic { since: Instant },
    /// QUIC is silent, and a WebSocket is tried, or will be at an instant; so many have failed.
    Doubt { since: Instant, again: Option<Instant>, failed: usize },
    /// QUIC is silent, or answers again since an instant, and a WebSocket serves.
    Beside { since: Instant, heard: Option<Instant> },
    /// A WebSocket serves alone.
    OnWebSocket { probe: Probe },
}

/// When QUIC is tried beside a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Never,
    At(Instant),
    Running,
}

/// The choice for one tunnel of an agent, or for one gateway of a forward.
pub struct Choice {
    policy: TransportChoice,
    /// Gateways that a WebSocket beside a silent tunnel may lead to.
    gateways: usize,
    state: State,
    /// Attempts of QUIC that came to nothing in a row.
    failed: usize,
    /// Races in a row in which it was given up.
    hurried: u32,
    /// The gateway has said that it offers no QUIC.
    unoffered: bool,
    not_quic: String,
    /// Where the jitter stands.
    jitter: u64,
}

impl Choice {
    /// Nothing is wanted yet. Whoever has several gateways tries the next of them after each WebSocket that has failed
    /// beside a silent tunnel; `seed` is any number that others have not.
    pub fn new(policy: TransportChoice, gateways: usize, seed: u64) -> Self {
        // A generator that stands at zero never leaves it.
        let jitter = seed | 1;
        let (state, not_quic) = (State::Idle, String::new());
        Choice { policy, gateways, state, failed: 0, hurried: 0, unoffered: false, not_quic, jitter }
    }

    /// Why the tunnel is not made of QUIC, as far as that is known; empty where it is, and where nobody wants to know.
    pub fn not_quic(&self) -> &str {
        &self.not_quic
    }

    /// When [`Input::Tick`] is due.
    pub fn next(&self) -> Option<Instant> {
        match &self.state {
            State::Racing { websocket: Attempt::At(at), .. } => Some(*at),
            State::Racing { until, .. } => *until,
            State::Doubt { again, .. } => *again,
            State::Beside { heard, .. } => heard.map(|heard| heard + STEADY),
            State::OnWebSocket { probe: Probe::At(at) } => Some(*at),
            _ => None,
        }
    }

    /// Takes what has happened; what is to be done about it, in this order, is added to `out`. What does not fit the
    /// state, such as the end of an attempt that was given up, changes nothing.
    pub fn on(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        // Taken out for the time being: every arm says what comes next.
        let state = std::mem::replace(&mut self.state, State::Idle);
        self.state = match (state, input) {
            (state, Input::Rest) => rest(&state, out),
            (State::Idle, Input::Begin(quic)) => self.begin(now, quic, out),
            (State::Racing { quic, websocket, until }, input) => self.race(now, (quic, websocket, until), input, out),
            (State::OnQuic { since }, input) => self.on_quic(now, since, input, out),
            (State::Doubt { since, again, failed }, input) => self.doubt(now, (since, again, failed), input, out),
            (State::Beside { since, heard }, input) => self.beside(now, (since, heard), input, out),
            (State::OnWebSocket { probe }, input) => self.on_websocket(now, probe, input, out),
            (State::Idle, _) => State::Idle,
        };
    }

    fn begin(&mut self, now: Instant, quic: Result<(), String>, out: &mut Vec<Output>) -> State {
        (self.failed, self.unoffered) = (0, false);
        self.not_quic.clear();
        let quic = match (self.policy, quic) {
            (TransportChoice::WebSocket, _) => Err("written: transport: websocket".to_owned()),
            (_, quic) => quic,
        };
        match (self.policy, quic) {
            (TransportChoice::Quic | TransportChoice::QuicTunnel, Err(why)) => {
                out.push(Output::GiveUp(why));
                State::Idle
            }
            (_, Err(why)) => {
                self.not_quic = why;
                out.push(Output::Dial(Way::WebSocket));
                State::Racing { quic: Attempt::Never, websocket: Attempt::Dialling, until: None }
            }
            (policy, Ok(())) => {
                out.push(Output::Dial(Way::Quic));
                let alone = policy != TransportChoice::Auto;
                let websocket = if alone { Attempt::Never } else { Attempt::At(now + HEAD_START) };
                State::Racing { quic: Attempt::Dialling, websocket, until: None }
            }
        }
    }

    fn race(
        &mut self,
        now: Instant,
        (mut quic, mut websocket, mut until): (Attempt, Attempt, Option<Instant>),
        input: Input,
        out: &mut Vec<Output>,
    ) -> State {
        let quic_runs = quic == Attempt::Dialling;
        match input {
            Input::Up(Way::Quic) if quic_runs => {
                if websocket == Attempt::Dialling {
                    out.push(Output::Cancel(Way::WebSocket));
                }
                out.push(Output::Serve(Way::Quic));
                self.not_quic.clear();
                self.hurried = 0;
                return State::OnQuic { since: now };
            }
            Input::Up(Way::WebSocket) if websocket == Attempt::Dialling => {
                out.push(Output::Serve(Way::WebSocket));
                self.hurried = 0;
                let probe = match quic {
                    // It goes on.
                    Attempt::Dialling => Probe::Running,
                    Attempt::Never => Probe::Never,
                    Attempt::At(_) | Attempt::Failed(..) => self.next_probe(now),
                };
                return State::OnWebSocket { probe };
            }
            Input::Failed(Way::Quic, why, last) if quic_runs => {
                self.not_quic.clone_from(&why);
                self.failed += 1;
                match &websocket {
                    Attempt::At(_) => {
                        out.push(Output::Dial(Way::WebSocket));
                        websocket = Attempt::Dialling;
                    }
                    Attempt::Dialling => {}
                    Attempt::Failed(said, final_word) => return neither((why, last), (said.clone(), *final_word), out),
                    Attempt::Never => return back_off(why, last, out),
                }
                quic = Attempt::Failed(why, last);
            }
            Input::Failed(Way::WebSocket, why, last) if websocket == Attempt::Dialling => {
                match quic {
                    Attempt::Failed(said, final_word) => return neither((said, final_word), (why, last), out),
                    // Whoever has answered here need not be the gateway, which may take nothing but QUIC.
                    Attempt::Dialling if last => {}
                    // Where nobody answers there is no gateway, as a rule.
                    Attempt::Dialling => until = Some(now + LAST_CHANCE * (1 << self.hurried.min(2))),
                    Attempt::Never | Attempt::At(_) => return back_off(why, last, out),
                }
                websocket = Attempt::Failed(why, last);
            }
            Input::Tick if until.is_some_and(|until| until <= now) => {
                out.push(Output::Cancel(Way::Quic));
                self.hurried += 1;
                let Attempt::Failed(why, _) = websocket else { return State::Idle };
                return back_off(why, false, out);
            }
            Input::Tick if matches!(websocket, Attempt::At(at) if at <= now) => {
                out.push(Output::Dial(Way::WebSocket));
                websocket = Attempt::Dialling;
            }
            _ => {}
        }
        State::Racing { quic, websocket, until }
    }

    fn on_quic(&mut self, now: Instant, since: Instant, input: Input, out: &mut Vec<Output>) -> State {
        match input {
            Input::Silent(why) if self.policy == TransportChoice::Auto => {
                self.not_quic = why;
                self.judge(now, since);
                out.push(Output::Dial(Way::WebSocket));
                State::Doubt { since, again: None, failed: 0 }
            }
            Input::Ended(Way::Quic, why) => back_off(why, false, out),
            _ => State::OnQuic { since },
        }
    }

    fn doubt(
        &mut self,
        now: Instant,
        (since, mut again, mut failed): (Instant, Option<Instant>, usize),
        input: Input,
        out: &mut Vec<Output>,
    ) -> State {
        let runs = again.is_none();
        match input {
            Input::Up(Way::WebSocket) if runs => {
                out.push(Output::Serve(Way::WebSocket));
                out.push(changed(Way::WebSocket, self.not_quic.clone()));
                return State::Beside { since, heard: None };
            }
            Input::Failed(Way::WebSocket, ..) if runs => {
                failed += 1;
                if failed.is_multiple_of(self.gateways) {
                    again = Some(now + self.next_wait());
                } else {
                    out.push(Output::Dial(Way::WebSocket));
                }
            }
            Input::Heard => {
                if runs {
                    out.push(Output::Cancel(Way::WebSocket));
                }
                self.not_quic.clear();
                return State::OnQuic { since };
            }
            Input::Ended(Way::Quic, why) => {
                if !runs {
                    return back_off(why, false, out);
                }
                out.push(Output::Dial(Way::Quic));
                return State::Racing { quic: Attempt::Dialling, websocket: Attempt::Dialling, until: None };
            }
            Input::Tick if again.is_some_and(|at| at <= now) => {
                out.push(Output::Dial(Way::WebSocket));
                again = None;
            }
            _ => {}
        }
        State::Doubt { since, again, failed }
    }

    fn beside(
        &mut self,
        now: Instant,
        (since, mut heard): (Instant, Option<Instant>),
        input: Input,
        out: &mut Vec<Output>,
    ) -> State {
        match input {
            Input::Silent(why) => {
                self.not_quic = why;
                heard = None;
            }
            Input::Heard => heard = Some(heard.unwrap_or(now)),
            Input::Tick if heard.is_some_and(|heard| heard + STEADY <= now) => {
                out.push(Output::Withdraw(Way::WebSocket));
                return self.back_on_quic(since, "UDP is answered again".to_owned(), out);
            }
            Input::Told(offer) => self.unoffered = offer == Offer::No,
            Input::Ended(Way::Quic, _) => return State::OnWebSocket { probe: self.next_probe(now) },
            Input::Ended(Way::WebSocket, why) if heard.is_some() => return self.back_on_quic(since, why, out),
            Input::Ended(Way::WebSocket, why) => {
                out.push(changed(Way::Quic, why));
                return State::Doubt { since, again: Some(now + self.next_wait()), failed: 0 };
            }
            _ => {}
        }
        State::Beside { since, heard }
    }

    fn back_on_quic(&mut self, since: Instant, why: String, out: &mut Vec<Output>) -> State {
        out.push(changed(Way::Quic, why));
        self.not_quic.clear();
        State::OnQuic { since }
    }

    fn on_websocket(&mut self, now: Instant, mut probe: Probe, input: Input, out: &mut Vec<Output>) -> State {
        let runs = probe == Probe::Running;
        match input {
            Input::Tick if matches!(probe, Probe::At(at) if at <= now) => {
                out.push(Output::Dial(Way::Quic));
                probe = Probe::Running;
            }
            Input::Up(Way::Quic) if runs => {
                out.extend([Output::Serve(Way::Quic), Output::Withdraw(Way::WebSocket)]);
                return self.back_on_quic(now, "UDP is answered".to_owned(), out);
            }
            Input::Failed(Way::Quic, why, _) if runs => {
                if !self.unoffered {
                    self.not_quic = why;
                }
                self.failed += 1;
                probe = self.next_probe(now);
            }
            Input::Told(offer) if probe != Probe::Never => {
                let unoffered = std::mem::replace(&mut self.unoffered, offer == Offer::No);
                if runs && offer != Offer::Here {
                    out.push(Output::Cancel(Way::Quic));
                }
                match offer {
                    Offer::Here if unoffered && !runs => probe = self.next_probe(now),
                    Offer::Here => {}
                    Offer::Elsewhere => {
                        out.push(Output::Dial(Way::Quic));
                        probe = Probe::Running;
                    }
                    Offer::No => {
                        NOT_OFFERED.clone_into(&mut self.not_quic);
                        probe = self.next_probe(now);
                    }
                }
            }
            Input::Ended(Way::WebSocket, why) => {
                if runs {
                    out.push(Output::Cancel(Way::Quic));
                }
                return back_off(why, false, out);
            }
            _ => {}
        }
        State::OnWebSocket { probe }
    }

    /// Whether the tunnel of QUIC that now fails was a good one.
    fn judge(&mut self, now: Instant, since: Instant) {
        self.failed = if now >= since + LASTED { 0 } else { self.failed + 1 };
    }

    fn next_probe(&mut self, now: Instant) -> Probe {
        let wait = if self.unoffered { UNOFFERED } else { self.next_wait() };
        Probe::At(now + wait)
    }

    /// By what has failed so far, and up to a tenth more or less, so that many do not come together.
    fn next_wait(&mut self) -> Duration {
        let full = Duration::from_secs(PROBES[self.failed.min(PROBES.len() - 1)]);
        // Xorshift: what is asked of it is that tunnels differ.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        full.mul_f64(0.9 + (self.jitter % 1000) as f64 / 5000.0)
    }
}

/// Takes back what is up, gives up what is tried.
fn rest(state: &State, out: &mut Vec<Output>) -> State {
    match state {
        State::Idle => {}
        State::Racing { quic, websocket, .. } => {
            let running = [(quic, Way::Quic), (websocket, Way::WebSocket)].into_iter();
            out.extend(running.filter(|(a, _)| **a == Attempt::Dialling).map(|(_, way)| Output::Cancel(way)));
        }
        State::OnQuic { .. } => out.push(Output::Withdraw(Way::Quic)),
        State::Doubt { again, .. } => {
            if again.is_none() {
                out.push(Output::Cancel(Way::WebSocket));
            }
            out.push(Output::Withdraw(Way::Quic));
        }
        State::Beside { .. } => out.extend([Way::Quic, Way::WebSocket].map(Output::Withdraw)),
        State::OnWebSocket { probe } => {
            if *probe == Probe::Running {
                out.push(Output::Cancel(Way::Quic));
            }
            out.push(Output::Withdraw(Way::WebSocket));
        }
    }
    State::Idle
}

/// Neither has come up, each for its reason.
fn neither(quic: (String, bool), websocket: (String, bool), out: &mut Vec<Output>) -> State {
    let (why, last) = match (quic.1, websocket.1) {
        // A gateway has answered; what stands at its TCP port may be another's.
        (true, false) => quic,
        // What TCP says is the better known.
        _ => websocket,
    };
    back_off(why, last, out)
}

fn back_off(why: String, last: bool, out: &mut Vec<Output>) -> State {
    out.push(if last { Output::GiveUp(why) } else { Output::BackOff(why) });
    State::Idle
}

fn changed(to: Way, reason: String) -> Output {
    let from = match to {
        Way::Quic => Way::WebSocket,
        Way::WebSocket => Way::Quic,
    };
    Output::Changed { from, to, reason }
}

#[cfg(test)]
mod tests;
