//! Targets of CONNECT: nothing panics, what is read has one form, and nothing that is guarded passes a list of
//! everything, whatever stands in front of the address.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tidegate_engine::snapshot::{AllowEntry, ConnectRules};
use tidegate_engine::target::Host;
use tidegate_engine::target::allowed::{Allowed, ByName, canonical};
use tidegate_engine::target::authority::parse;

fuzz_target!(|input: &[u8]| {
    let Ok(target) = parse(input) else { return };
    assert!(target.port > 0 && input.is_ascii() && !input.contains(&b'@') && !input.contains(&b'%'));
    assert_eq!(parse(target.to_string().as_bytes()).as_ref(), Ok(&target));
    let all = |network: &str| AllowEntry { network: network.parse().ok(), name: None, low: 1, high: 65535 };
    let everything = Allowed::new(&[all("0.0.0.0/0"), all("::/0")], &ConnectRules::default());
    assert_eq!(everything.judge_name(&target), ByName::Maybe);
    match &target.host {
        Host::Ip(ip) => {
            let own = canonical(*ip);
            let link = matches!(own, IpAddr::V4(own) if own.is_link_local() || own.octets()[0] == 0);
            if own.is_loopback() || own.is_unspecified() || own.is_multicast() || link {
                assert!(everything.judge(&target, *ip, |_| false).is_err());
            }
            assert!(Allowed::default().judge(&target, *ip, |_| false).is_err());
        }
        Host::Name(name) => {
            assert!((1..=253).contains(&name.len()) && name.parse::<IpAddr>().is_err());
            assert_eq!(Allowed::default().judge_name(&target), ByName::No);
            assert!(everything.judge(&target, IpAddr::from([127, 0, 0, 1]), |_| false).is_err());
        }
    }
});
