//! How large datagrams to somewhere may be, as far as the system knows: what lies behind the first link is found out by
//! trying, and not worth trying where that one carries no more.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use quinn::MtuDiscoveryConfig;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

/// What Ethernet carries beside IPv6, UDP and a little.
pub const USUAL: u16 = 1_452;

/// What is tried at most, on jumbo frames and inside a machine. Ten of them, which `quinn` gives the system in one
/// piece, may have 65,507 bytes; an idle connection keeps room for one and a little.
pub const LARGEST: u16 = 3_600;

/// More than a packet of Ethernet.
const ETHERNET_AND_MORE: u32 = 1_501;

/// What of a packet is IPv6 and UDP, and so no datagram.
const HEADS: u32 = 48;

/// Tries what is larger than 1,200 bytes, up to this.
pub fn discovery(largest: u16) -> MtuDiscoveryConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(largest);
    discovery
}

/// What is worth trying on the way to an address: [`USUAL`] where the first link is not known to carry more than
/// Ethernet does.
pub fn largest(to: SocketAddr) -> u16 {
    match first_link(to) {
        Ok(packet @ ETHERNET_AND_MORE..) => u16::try_from(packet - HEADS).unwrap_or(u16::MAX).min(LARGEST),
        _ => USUAL,
    }
}

/// The largest packet that the first link towards an address carries.
fn first_link(to: SocketAddr) -> io::Result<u32> {
    let to = match to.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), to.port()),
        IpAddr::V6(_) => to,
    };
    let own: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting sends nothing: it looks up the route.
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(to)?;
    Ok(if to.is_ipv4() { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn inside_a_machine_large_datagrams_are_worth_trying() {
        assert_eq!(largest("127.0.0.1:9".parse().unwrap()), LARGEST);
        assert_eq!(largest("[::ffff:127.0.0.1]:9".parse().unwrap()), LARGEST);
    }

    #[test]
    fn where_the_system_knows_no_way_the_usual_is_tried() {
        // The way to an address of a link that does not exist.
        let nowhere = SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, u32::MAX);
        assert_eq!(largest(nowhere.into()), USUAL);
    }
}
