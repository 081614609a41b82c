//! What a group keeps when its names or its configuration change.

use std::time::Duration;

use super::*;
use crate::message::Version;
use crate::snapshot::upstream::{Ejection, Health, Protocol, UpstreamAddress};

fn upstream(hosts: &[&str], balance: Balance) -> snapshot::Upstream {
    let address = |host: &&str| UpstreamAddress {
        host: (*host).to_owned(),
        port: 80,
        tls: None,
        protocol: Protocol::Http1,
        weight: 1,
    };
    snapshot::Upstream {
        name: "shop".into(),
        addresses: hosts.iter().map(address).collect(),
        balance,
        health: None,
        ejection: Some(Ejection { failures: 2, time: Duration::from_secs(10) }),
        resolve_interval: Duration::from_secs(30),
        proxy_protocol: None,
    }
}

fn timeouts(connect: u64) -> Timeouts {
    let second = Duration::from_secs(1);
    Timeouts {
        connect: Duration::from_secs(connect),
        handshake: second,
        head: second,
        response: second,
        idle: second,
        keep_alive: second,
        upstream_keep_alive: second,
    }
}

fn group(hosts: &[&str], balance: Balance, before: Option<&Group>) -> Arc<Group> {
    Group::new(&upstream(hosts, balance), &timeouts(1), before).expect("a group")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn shown(group: &Group) -> Vec<String> {
    group.addresses().iter().map(|address| address.to_string()).collect()
}

#[test]
fn a_name_is_every_address_behind_it_and_those_that_stay_keep_what_they_are() {
    let group = group(&["10.0.0.1", "shop.internal"], Balance::RoundRobin, None);
    assert_eq!(group.names(), [(1, "shop.internal".to_owned())]);
    assert_eq!(shown(&group), ["10.0.0.1:80", "shop.internal:80"]);
    let first = group.ids()[0];
    let vanished = group.found(1, &ips(&["10.0.0.2", "fd00::3"]));
    assert_eq!(vanished.len(), 1);
    assert!(!vanished[0].is_open());
    assert_eq!(shown(&group), ["10.0.0.1:80", "10.0.0.2:80", "[fd00::3]:80"]);
    let before = group.ids();
    assert_eq!(before[0], first);

    assert!(group.found(1, &ips(&["10.0.0.2", "fd00::3"])).is_empty());
    assert_eq!(group.ids(), before);
    let vanished = group.found(1, &ips(&["10.0.0.2", "10.0.0.4"]));
    assert_eq!(vanished.iter().map(|address| address.id).collect::<Vec<_>>(), [before[2]]);
    assert_eq!(group.ids()[..2], before[..2]);
}

#[test]
fn a_failed_look_up_keeps_the_last_addresses_and_is_a_problem_until_it_works() {
    let group = group(&["shop.internal"], Balance::RoundRobin, None);
    group.found(0, &ips(&["10.0.0.2"]));
    group.not_found(0, "no such name");
    assert_eq!(shown(&group), ["10.0.0.2:80"]);
    assert!(group.problems()[0].contains("shop.internal cannot be looked up (no such name)"));
    group.found(0, &ips(&["10.0.0.2"]));
    assert!(group.problems().is_empty());
}

#[test]
fn a_changed_configuration_keeps_the_addresses_that_are_as_they_were() {
    let before = group(&["10.0.0.1", "shop.internal"], Balance::RoundRobin, None);
    before.found(1, &ips(&["10.0.0.2"]));
    let after = group(&["10.0.0.9", "shop.internal", "10.0.0.1"], Balance::LeastRequests, Some(&before));
    assert_eq!(shown(&after), ["10.0.0.9:80", "10.0.0.2:80", "10.0.0.1:80"]);
    assert_eq!(after.ids()[1..], [before.ids()[1], before.ids()[0]]);

    let same = upstream(&["10.0.0.1", "shop.internal"], Balance::RoundRobin);
    assert!(before.is_as_in(&same, &timeouts(1)) && !before.is_as_in(&same, &timeouts(2)));
    let slower = Group::new(&same, &timeouts(2), Some(&before)).expect("a group");
    assert_ne!(slower.ids()[0], before.ids()[0]);
}

#[test]
fn failures_leave_one_out_but_never_the_last() {
    let group = group(&["10.0.0.1", "10.0.0.2"], Balance::RoundRobin, None);
    let addresses = group.addresses();
    let told = group.describe();
    assert!(told["addresses"].as_array().expect("addresses").iter().all(|one| one["since"].as_f64() > Some(0.0)));
    for _ in 0..5 {
        addresses.iter().for_each(|address| group.report(address, Some(&"refused")));
    }
    let states: Vec<_> = addresses.iter().map(|address| address.condition.known().state).collect();
    assert_eq!(states, ["ejected", "up"]);
    for _ in 0..4 {
        let picked = group.pick(0, 0, &[]).expect("one is left");
        assert_eq!(picked.id(), addresses[1].id);
    }
    assert_eq!(group.problems(), ["upstream shop: 1 of 2 addresses do not work"]);
}

#[test]
fn requests_belong_together_by_their_cookie_else_by_their_source() {
    let group = group(&["10.0.0.1"], Balance::Cookie("sid".into()), None);
    let head = |cookies: &[&[u8]]| {
        let mut head = RequestHead::new();
        head.set(b"GET", b"/", Version::Http11);
        cookies.iter().for_each(|cookie| head.fields.push(b"Cookie", cookie));
        head
    };
    let (one, other) = (ips(&["192.0.2.1"])[0], ips(&["192.0.2.2"])[0]);
    let key = |cookies: &[&[u8]], client| group.key_of(Some(&head(cookies)), client);
    assert_eq!(key(&[b"a=b; sid=7"], one), key(&[b"x=y", b"sid=7; z=1"], other));
    assert_ne!(key(&[b"sid=7"], one), key(&[b"sid=8"], one));
    assert_eq!(key(&[b"xsid=7; sid2=7"], one), group.key_of(None, one));
    assert_ne!(group.key_of(None, one), group.key_of(None, other));
    assert_eq!(group.key_of(None, one), group.key_of(None, ips(&["::ffff:192.0.2.1"])[0]));
}

#[test]
fn checks_in_a_row_are_counted_on_when_another_address_comes() {
    let second = Duration::from_secs(1);
    let health = Health { path: None, host: None, interval: second, timeout: second, fall: 3, rise: 2 };
    let checked = |hosts: &[&str], before: Option<&Group>| {
        let from = snapshot::Upstream { health: Some(health.clone()), ..upstream(hosts, Balance::RoundRobin) };
        Group::new(&from, &timeouts(1), before).expect("a group")
    };
    let says = |group: &Group, worked: bool| group.addresses()[0].condition.checked(worked, &health);
    let one = checked(&["10.0.0.1"], None);
    assert!(says(&one, true) && !says(&one, false));
    let two = checked(&["10.0.0.1", "10.0.0.2"], Some(&one));
    assert!(!says(&two, false) && says(&two, false));
    assert!(two.addresses()[1].condition.checked(false, &health));
}
