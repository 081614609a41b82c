//! What an agent may connect to: its list of networks, names and ports, closed where nothing is written.
//!
//! Addresses of the machine itself, of its link and of a cloud's metadata are **guarded**: a network that merely holds
//! them does not open them, and a name that leads there does not either. Judged is the address that is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net};

use super::authority::{Host, Target};
use crate::snapshot;

/// Networks that only an entry inside them opens.
static GUARDED: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let all = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
        // Where clouds tell a machine its secrets; each is opened by itself only.
        "169.254.169.254/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "fd00:ec2::23/128",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
    ];
    all.iter().filter_map(|network| network.parse().ok()).collect()
});

/// A list of what is allowed.
#[derive(Debug, Default)]
pub struct Allowed {
    entries: Vec<Entry>,
    /// Whatever is not guarded is allowed, too.
    only_safe: bool,
    /// Addresses of our own, of any interface where they are unspecified.
    never: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    what: What,
    ports: RangeInclusive<u16>,
}

#[derive(Debug)]
enum What {
    Network(IpNet),
    Name(String),
    /// Every name that ends in this, which begins with a dot.
    Below(String),
}

/// What is known before a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByName {
    /// It may be allowed: the addresses decide.
    Maybe,
    /// No address can make it allowed.
    No,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing in the list stands for it.
    Unlisted,
    /// It is guarded, and nothing in the list opens it.
    Guarded,
}

impl Allowed {
    /// The list of a snapshot.
    pub fn new(entries: &[snapshot::AllowEntry], rules: &snapshot::ConnectRules) -> Self {
        let entry = |entry: &snapshot::AllowEntry| {
            let what = match (&entry.network, &entry.name) {
                (Some(network), _) => What::Network(canonical_network(*network)),
                (None, Some(name)) => match name.strip_prefix('*') {
                    Some(below) => What::Below(below.to_owned()),
                    None => What::Name(name.clone()),
                },
                (None, None) => return None,
            };
            Some(Entry { what, ports: entry.low..=entry.high })
        };
        let entries = entries.iter().filter_map(entry).collect();
        Allowed { entries, only_safe: rules.only_safe, never: rules.never.clone() }
    }

    /// True where nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.only_safe
    }

    /// Whether it is worth looking a target up. A plain no says nothing of which names there are.
    pub fn judge_name(&self, target: &Target) -> ByName {
        let may = |entry: &Entry| entry.ports.contains(&target.port) && (entry.is_network() || entry.names(target));
        match self.only_safe || matches!(target.host, Host::Ip(_)) || self.entries.iter().any(may) {
            true => ByName::Maybe,
            false => ByName::No,
        }
    }

    /// Whether an address of a target may be dialled. `is_local`: it is an address of this machine.
    ///
    /// # Errors
    /// Says why not.
    pub fn judge(&self, target: &Target, ip: IpAddr, is_local: impl Fn(IpAddr) -> bool) -> Result<(), Denied> {
        let (found, ip) = (ip, canonical(ip));
        let mut listed = self.entries.iter().filter(|entry| entry.ports.contains(&target.port));
        let mut guards = GUARDED.iter().filter(|guard| guard.contains(&ip));
        if !guards.all(|guard| listed.clone().any(|entry| entry.opens(guard, ip, target))) {
            return Err(Denied::Guarded);
        }
        let ours = |own: &SocketAddr| {
            own.port() == target.port
                && (canonical(own.ip()) == ip || own.ip().is_unspecified() && (is_local(ip) || is_local(found)))
        };
        if self.never.iter().any(ours) && !listed.clone().any(|entry| entry.is_exactly(ip, target)) {
            return Err(Denied::Guarded);
        }
        match self.only_safe || listed.any(|entry| entry.holds(ip) || entry.names(target)) {
            true => Ok(()),
            false => Err(Denied::Unlisted),
        }
    }
}

impl Entry {
    fn is_network(&self) -> bool {
        matches!(self.what, What::Network(_))
    }

    fn holds(&self, ip: IpAddr) -> bool {
        matches!(&self.what, What::Network(network) if network.contains(&ip))
    }

    fn names(&self, target: &Target) -> bool {
        let Host::Name(name) = &target.host else { return false };
        match &self.what {
            What::Network(_) => false,
            What::Name(own) => own == name,
            What::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        }
    }

    /// True when it was written for what is guarded. Of names that is `localhost` alone: where any other one leads is
    /// said by whoever answers for it.
    fn opens(&self, guard: &IpNet, ip: IpAddr, target: &Target) -> bool {
        match &self.what {
            What::Network(network) => guard.contains(network) && network.contains(&ip),
            What::Name(name) => name == "localhost" && self.names(target) && ip.is_loopback(),
            What::Below(_) => false,
        }
    }

    /// True when it is for this address or name and this port, and nothing else.
    fn is_exactly(&self, ip: IpAddr, target: &Target) -> bool {
        let one = match &self.what {
            What::Network(network) => network.prefix_len() == network.max_prefix_len() && self.holds(ip),
            What::Name(_) => self.names(target),
            What::Below(_) => false,
        };
        one && self.ports.start() == self.ports.end()
    }
}

/// The address that is meant: of one that holds an IPv4 address, that.
pub fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    inner(v6).map_or(ip, IpAddr::V4)
}

/// The IPv4 address inside an IPv6 address: mapped, compatible, NAT64 (RFC 6052), 6to4 or Teredo.
fn inner(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = ip.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        [0x2001, 0, .., high, low] => of(!high, !low),
        _ => None,
    }
}

/// The same for a network whose addresses all hold IPv4 addresses.
fn canonical_network(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let inside = v6.prefix_len().checked_sub(96).zip(inner(v6.network()));
    let plain = inside.and_then(|(prefix, ip)| Ipv4Net::new(ip, prefix).ok());
    plain.filter(|_| !matches!(v6.network().segments(), [0x2001 | 0x2002, ..])).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::super::authority::parse;
    use super::*;
    use crate::snapshot::{AllowEntry, ConnectRules};

    fn list(entries: &[(&str, u16, u16)]) -> Vec<AllowEntry> {
        let entry = |(what, low, high): &(&str, u16, u16)| {
            let network = what.parse().ok().or(what.parse::<IpAddr>().ok().map(IpNet::from));
            let name = network.is_none().then(|| (*what).to_owned());
            AllowEntry { network, name, low: *low, high: *high }
        };
        entries.iter().map(entry).collect()
    }

    fn rules(only_safe: bool, never: &[&str]) -> ConnectRules {
        let never = never.iter().map(|address| address.parse().expect("an address")).collect();
        ConnectRules { only_safe, never, failed_status: None }
    }

    fn allowed(entries: &[(&str, u16, u16)]) -> Allowed {
        Allowed::new(&list(entries), &rules(false, &[]))
    }

    /// What is said of a target that leads to `ip`.
    fn judged(allowed: &Allowed, target: &str, ip: &str) -> Result<(), Denied> {
        let target = parse(target.as_bytes()).expect(target);
        allowed.judge(&target, ip.parse().expect(ip), |ip| ip == IpAddr::from([192, 0, 2, 1]))
    }

    #[test]
    fn nothing_is_allowed_that_is_not_written() {
        let nothing = allowed(&[]);
        assert!(nothing.is_empty());
        assert_eq!(nothing.judge_name(&parse(b"a.example:443").expect("a target")), ByName::No);
        assert_eq!(judged(&nothing, "10.1.2.3:443", "10.1.2.3"), Err(Denied::Unlisted));
        let some = allowed(&[("10.0.0.0/8", 10250, 10250), ("*.corp.example", 443, 443), ("db.example", 1, 1024)]);
        for (target, ip, expected) in [
            ("10.1.2.3:10250", "10.1.2.3", Ok(())),
            ("10.1.2.3:10251", "10.1.2.3", Err(Denied::Unlisted)),
            ("11.1.2.3:10250", "11.1.2.3", Err(Denied::Unlisted)),
            ("node.example:10250", "10.1.2.3", Ok(())),
            ("node.example:10250", "11.1.2.3", Err(Denied::Unlisted)),
            ("a.b.corp.example:443", "192.0.2.9", Ok(())),
            ("corp.example:443", "192.0.2.9", Err(Denied::Unlisted)),
            ("evilcorp.example:443", "192.0.2.9", Err(Denied::Unlisted)),
            ("db.example:1024", "192.0.2.9", Ok(())),
            ("db.example:1025", "192.0.2.9", Err(Denied::Unlisted)),
        ] {
            assert_eq!(judged(&some, target, ip), expected, "{target} at {ip}");
        }
        let by_name = |target: &str| some.judge_name(&parse(target.as_bytes()).expect(target));
        assert_eq!(by_name("x.example:10250"), ByName::Maybe, "its address decides");
        assert_eq!(by_name("x.example:443"), ByName::No, "no look-up can help it");
        assert_eq!(by_name("x.corp.example:443"), ByName::Maybe);
    }

    #[test]
    fn case_39_what_is_guarded_is_opened_by_no_entry_around_it() {
        let everything = allowed(&[("0.0.0.0/0", 1, 65535), ("::/0", 1, 65535), ("*.example", 1, 65535)]);
        for ip in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "2001:0:5ef5:79fb::80ff:fffe",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::23",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            let target = if ip.contains(':') { format!("[{ip}]:80") } else { format!("{ip}:80") };
            assert_eq!(judged(&everything, &target, ip), Err(Denied::Guarded), "{ip}");
            assert_eq!(judged(&everything, "a.example:80", ip), Err(Denied::Guarded), "a name that leads to {ip}");
        }
        assert_eq!(judged(&everything, "10.1.2.3:80", "10.1.2.3"), Ok(()));
        assert_eq!(judged(&everything, "[fd00::1]:80", "fd00::1"), Ok(()));
    }

    #[test]
    fn an_entry_inside_what_is_guarded_opens_its_own_part_of_it() {
        let some = allowed(&[("127.0.0.0/30", 80, 80), ("169.254.0.0/16", 80, 80), ("localhost", 81, 81)]);
        assert_eq!(judged(&some, "127.0.0.1:80", "127.0.0.1"), Ok(()));
        assert_eq!(judged(&some, "[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(judged(&some, "127.0.0.1:81", "127.0.0.1"), Err(Denied::Guarded));
        assert_eq!(judged(&some, "127.0.0.4:80", "127.0.0.4"), Err(Denied::Guarded));
        assert_eq!(judged(&some, "169.254.1.1:80", "169.254.1.1"), Ok(()));
        assert_eq!(judged(&some, "169.254.169.254:80", "169.254.169.254"), Err(Denied::Guarded));
        assert_eq!(judged(&some, "localhost:81", "::1"), Ok(()));
        assert_eq!(judged(&some, "localhost:81", "169.254.169.254"), Err(Denied::Guarded));
        let named = allowed(&[("db.example", 80, 80)]);
        assert_eq!(judged(&named, "db.example:80", "127.0.0.1"), Err(Denied::Guarded));
    }

    #[test]
    fn our_own_ports_are_opened_by_their_exact_address_or_name_only() {
        let never = rules(false, &["127.0.0.1:8003", "0.0.0.0:9000"]);
        let wide = Allowed::new(&list(&[("127.0.0.0/8", 1, 65535), ("192.0.2.0/24", 1, 65535)]), &never);
        assert_eq!(judged(&wide, "127.0.0.1:8003", "127.0.0.1"), Err(Denied::Guarded));
        assert_eq!(judged(&wide, "127.0.0.1:8004", "127.0.0.1"), Ok(()));
        assert_eq!(judged(&wide, "192.0.2.1:9000", "192.0.2.1"), Err(Denied::Guarded), "an address of this machine");
        assert_eq!(judged(&wide, "192.0.2.2:9000", "192.0.2.2"), Ok(()));
        let exact = Allowed::new(&list(&[("127.0.0.1", 8003, 8003), ("192.0.2.1", 9000, 9000)]), &never);
        assert_eq!(judged(&exact, "127.0.0.1:8003", "127.0.0.1"), Ok(()));
        assert_eq!(judged(&exact, "192.0.2.1:9000", "192.0.2.1"), Ok(()));
    }

    #[test]
    fn what_is_safe_is_everything_that_is_not_guarded() {
        let safe = Allowed::new(&list(&[("127.0.0.1", 80, 80)]), &rules(true, &[]));
        assert_eq!(judged(&safe, "192.0.2.9:1", "192.0.2.9"), Ok(()));
        assert_eq!(judged(&safe, "a.example:80", "127.0.0.1"), Ok(()));
        assert_eq!(judged(&safe, "a.example:81", "127.0.0.1"), Err(Denied::Guarded));
    }

    #[test]
    fn an_address_that_holds_another_one_is_judged_by_that() {
        let some = allowed(&[("10.0.0.0/8", 1, 65535), ("::ffff:192.0.2.0/120", 1, 65535)]);
        for ip in ["::ffff:10.1.2.3", "64:ff9b::a01:203", "192.0.2.77"] {
            assert_eq!(judged(&some, "a.example:1", ip), Ok(()), "{ip}");
        }
        assert_eq!(judged(&some, "a.example:1", "2001:db8::1"), Err(Denied::Unlisted));
    }
}
