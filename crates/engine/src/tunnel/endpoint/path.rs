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

/// Tries what is larger than 1,200 bytes, up to this.
pub fn discovery(largest: u16) -> MtuDiscoveryConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(largest);
    discovery
}

/// What is worth trying on the way to an address: [`USUAL`] where the system does not say more.
pub fn largest(to: SocketAddr) -> u16 {
    let known = first_link(to).unwrap_or_default();
    u16::try_from(known).unwrap_or(u16::MAX).clamp(USUAL, LARGEST)
}

/// The bytes of a datagram that the first link towards an address carries.
fn first_link(to: SocketAddr) -> io::Result<u32> {
    let to = match to.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), to.port()),
        IpAddr::V6(_) => to,
    };
    let own: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting sends nothing: it looks up the route.
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(to)?;
    let whole = if to.is_ipv4() { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? };
    Ok(whole.saturating_sub(if to.is_ipv4() { 28 } else { 48 }))
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
