//! Targets of CONNECT: their one form whatever is written, and connections to what was judged, looked up once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use tidegate_engine::error::Code;
use tidegate_engine::proxy::target::reach;
use tidegate_engine::snapshot::{AllowEntry, ConnectRules};
use tidegate_engine::target::allowed::{Allowed, Denied, canonical};
use tidegate_engine::target::authority::parse;
use tidegate_engine::target::{Host, Target};
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(5);

fn allowed(entries: &[(&str, u16)]) -> Allowed {
    let entry = |(what, port): &(&str, u16)| {
        let network = what.parse().ok();
        let name = network.is_none().then(|| (*what).to_owned());
        AllowEntry { network, name, low: *port, high: *port }
    };
    Allowed::new(&entries.iter().map(entry).collect::<Vec<_>>(), &ConnectRules::default())
}

fn everything() -> Allowed {
    let all = |network: &str| AllowEntry { network: network.parse().ok(), name: None, low: 1, high: 65535 };
    Allowed::new(&[all("0.0.0.0/0"), all("::/0")], &ConnectRules::default())
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_in_one_way_and_read_so_again(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(target) = parse(&bytes) {
            prop_assert_eq!(parse(target.to_string().as_bytes()), Ok(target));
        }
    }

    #[test]
    fn a_number_in_whatever_form_is_an_address_or_refused(text in "(0x)?[0-9a-f.x]{1,20}:[0-9]{1,6}") {
        if let Ok(Target { host: Host::Name(name), .. }) = parse(text.as_bytes()) {
            let last = name.rsplit('.').next().unwrap_or_default();
            // What the oldest reading of an address takes (inet_aton): nothing that passes ends in such a number.
            let hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            prop_assert!(!hex && !last.bytes().all(|byte| byte.is_ascii_digit()), "{}", name);
        }
    }

    #[test]
    fn case_39_no_address_of_this_machine_or_its_link_is_open_because_everything_is(bits in any::<u128>()) {
        let ip = IpAddr::from(bits.to_be_bytes());
        let target = Target { host: Host::Name("a.example".into()), port: 80 };
        let own = canonical(ip);
        let guarded = own.is_loopback() || own.is_unspecified() || own.is_multicast();
        prop_assert!(!guarded || everything().judge(&target, ip, |_| false) == Err(Denied::Guarded));
    }

    #[test]
    fn case_39_an_address_means_the_same_however_it_is_wrapped(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from(bits);
        let (high, low) = ((bits >> 16) as u16, bits as u16);
        let target = Target { host: Host::Name("a.example".into()), port: 80 };
        let said = |ip: IpAddr| everything().judge(&target, ip, |_| false);
        for wrapped in [
            v4.to_ipv6_mapped().segments(),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low],
            [0x2002, high, low, 0, 0, 0, 0, 1],
            [0x2001, 0, 0, 0, 0, 0, !high, !low],
        ] {
            prop_assert_eq!(said(IpAddr::from(wrapped)), said(v4.into()));
        }
    }
}

/// A port of this machine that counts who connects to it.
struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    async fn on(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        Listening { listener, address }
    }

    /// True when somebody has connected.
    async fn was_met(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.listener.accept()).await.is_ok()
    }
}

fn target(host: &str, port: u16) -> Target {
    parse(format!("{host}:{port}").as_bytes()).expect("a target")
}

async fn answer(addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    Ok(addresses)
}

#[tokio::test]
async fn case_39_a_name_is_looked_up_once_and_what_was_judged_is_dialled() {
    let (open, guarded) = (Listening::on("127.0.0.2").await, Listening::on("127.0.0.1").await);
    let allowed = allowed(&[("127.0.0.2/32", open.address.port()), ("127.0.0.2/32", guarded.address.port())]);
    // A resolver that would answer otherwise the second time is not asked a second time: it is used up.
    let target = target("rebinds.example", open.address.port());
    let mut found = String::new();
    let address = open.address;
    let stream = reach(&allowed, &target, WITHIN, |_, _| answer(vec![address]), &mut found).await;
    assert_eq!(stream.expect("a connection").peer_addr().expect("its peer"), address);
    assert_eq!(found, address.to_string());
    assert!(!guarded.was_met().await);
}

#[tokio::test]
async fn case_39_nothing_is_dialled_where_a_name_leads_to_what_is_guarded() {
    for ip in ["127.0.0.1", "::1"] {
        let Ok(guarded) = tokio::time::timeout(WITHIN, Listening::on(ip)).await else { panic!("no port of {ip}") };
        let target = target("rebinds.example", guarded.address.port());
        let mut found = String::new();
        let error = reach(&everything(), &target, WITHIN, |_, _| answer(vec![guarded.address]), &mut found).await;
        let error = error.expect_err("refused");
        assert_eq!(error.code, Code::TargetDenied);
        assert!(!error.detail.contains(ip), "where it leads is for the log");
        assert_eq!(found, guarded.address.to_string());
        assert!(!guarded.was_met().await);
    }
}

#[tokio::test]
async fn of_several_addresses_those_are_dialled_that_are_allowed() {
    let (open, guarded) = (Listening::on("127.0.0.2").await, Listening::on("127.0.0.1").await);
    let allowed = allowed(&[("127.0.0.2/32", open.address.port())]);
    let both = vec![SocketAddr::new(guarded.address.ip(), open.address.port()), open.address];
    let target = target("both.example", open.address.port());
    let stream = reach(&allowed, &target, WITHIN, |_, _| answer(both), &mut String::new()).await;
    assert_eq!(stream.expect("a connection").peer_addr().expect("its peer"), open.address);
}

#[tokio::test]
async fn a_name_that_nothing_can_make_allowed_is_not_looked_up() {
    let allowed = allowed(&[("*.corp.example", 443), ("10.0.0.0/8", 80)]);
    let never = |_, _| async { panic!("looked up") };
    let asked = target("secret.example", 443);
    let error = reach(&allowed, &asked, WITHIN, never, &mut String::new()).await.expect_err("refused");
    assert_eq!(error.code, Code::TargetDenied);
    assert_eq!(error.detail, "not allowed: add --allow secret.example:443 to the agent");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_in_the_words_of_whoever_asked() {
    let closed = Listening::on("127.0.0.2").await.address;
    let allowed = allowed(&[("127.0.0.2/32", closed.port())]);
    let asked = target("gone.example", closed.port());
    let error = reach(&allowed, &asked, WITHIN, |_, _| answer(vec![closed]), &mut String::new()).await;
    let error = error.expect_err("nothing listens");
    assert_eq!(error.code, Code::UpstreamUnreachable);
    assert_eq!(error.detail, format!("nothing listens on gone.example:{}", closed.port()));
    let error = reach(&allowed, &asked, WITHIN, |_, _| answer(Vec::new()), &mut String::new()).await;
    assert_eq!(error.expect_err("no address").detail, "cannot resolve gone.example");
    let slow = |_, _| std::future::pending::<io::Result<Vec<SocketAddr>>>();
    let error = reach(&allowed, &asked, Duration::from_millis(10), slow, &mut String::new()).await;
    assert_eq!(error.expect_err("late").code, Code::UpstreamTimeout);
}
