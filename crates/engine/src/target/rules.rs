//! Which endpoint a listener of kind connect leads a target to: the first rule of its list that is for it.
//!
//! An address is compared with networks only and a name with names only: nothing is looked up here, so what a resolver
//! says changes no way.

use std::net::IpAddr;

use ipnet::IpNet;

use super::allowed::canonical;
use super::authority::{Host, Target};
use crate::snapshot::{ConnectTo, EndpointRef};

/// The rules of one listener.
#[derive(Debug, Default)]
pub struct Rules(Vec<(For, EndpointRef)>);

#[derive(Debug)]
enum For {
    Network(IpNet),
    Name(String),
    /// Every name that ends in this; empty: every name.
    Below(String),
}

impl Rules {
    /// Those of a snapshot.
    pub fn new(rules: &[ConnectTo]) -> Self {
        let rule = |rule: &ConnectTo| {
            let of = match (&rule.network, &rule.name) {
                (Some(network), _) => For::Network(*network),
                (None, Some(name)) => match name.strip_prefix('*') {
                    Some(below) => For::Below(below.to_owned()),
                    None => For::Name(name.clone()),
                },
                (None, None) => return None,
            };
            Some((of, rule.to.clone()))
        };
        Rules(rules.iter().filter_map(rule).collect())
    }

    /// Where a target leads; none where no rule is for it.
    pub fn find(&self, target: &Target) -> Option<&EndpointRef> {
        let is_for = |of: &For| match (of, &target.host) {
            (For::Network(network), Host::Ip(ip)) => holds(network, *ip),
            (For::Name(own), Host::Name(name)) => own == name,
            (For::Below(suffix), Host::Name(name)) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            _ => false,
        };
        self.0.iter().find(|(of, _)| is_for(of)).map(|(_, to)| to)
    }
}

fn holds(network: &IpNet, ip: IpAddr) -> bool {
    network.contains(&ip) || network.contains(&canonical(ip))
}

#[cfg(test)]
mod tests {
    use super::super::authority::parse;
    use super::*;

    fn rules(all: &[(Option<&str>, Option<&str>, &str)]) -> Rules {
        let rule = |(network, name, endpoint): &(Option<&str>, Option<&str>, &str)| ConnectTo {
            network: network.map(|network| network.parse().expect("a network")),
            name: name.map(str::to_owned),
            to: EndpointRef { tenant: String::new(), endpoint: (*endpoint).to_owned() },
        };
        Rules::new(&all.iter().map(rule).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_rule_counts_that_is_for_a_target() {
        let rules = rules(&[
            (Some("10.9.0.0/16"), None, "lab"),
            (Some("10.0.0.0/8"), None, "dc1"),
            (None, Some("db.corp.example"), "db"),
            (None, Some("*.corp.example"), "dc2"),
            (None, Some("*"), "rest"),
        ]);
        for (target, endpoint) in [
            ("10.9.1.1:1", Some("lab")),
            ("10.1.1.1:1", Some("dc1")),
            ("[::ffff:10.9.1.1]:1", Some("lab")),
            ("11.1.1.1:1", None),
            ("[fd00::1]:1", None),
            ("db.corp.example:1", Some("db")),
            ("DB.corp.example.:1", Some("db")),
            ("a.b.corp.example:1", Some("dc2")),
            ("corp.example:1", Some("rest")),
            ("localhost:1", Some("rest")),
        ] {
            let found = rules.find(&parse(target.as_bytes()).expect(target)).map(|to| to.endpoint.as_str());
            assert_eq!(found, endpoint, "{target}");
        }
    }
}
