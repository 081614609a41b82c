//! The addresses that a name stands for, as the system's resolver says: `/etc/hosts`, DNS, IPv4 and IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::dial;

/// How long a look-up may take; the system's own patience is often longer than anybody's.
const PATIENCE: Duration = Duration::from_secs(10);

/// Look-ups at the same time; each occupies a thread, and some systems answer slowly.
static ROOM: Semaphore = Semaphore::const_new(32);

/// True for what is looked up. An address is itself; `localhost` is this machine, whichever loopback answers.
pub fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && !host.eq_ignore_ascii_case("localhost")
}

/// Every address behind a name, in order, once. Those to which this machine has no route are left out where others are
/// left: where there is no IPv6, the name of a service that has both is no reason for errors.
pub async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    // Never closed, so always given.
    let _place = ROOM.acquire().await;
    let found = tokio::time::timeout(PATIENCE, dial::resolve(name, 0)).await;
    let found = found.map_err(|_| io::Error::other(format!("no answer within {PATIENCE:?}")))??;
    let mut all: Vec<IpAddr> = found.into_iter().map(|address| address.ip()).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return Err(io::Error::other("no address"));
    }
    let routed: Vec<IpAddr> = all.iter().copied().filter(|ip| has_route(*ip)).collect();
    Ok(if routed.is_empty() { all } else { routed })
}

/// Asks the kernel; nothing is sent.
fn has_route(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(SocketAddr::new(ip, 9))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_this_machine_are_not_looked_up() {
        assert!(["10.0.0.7", "::1", "localhost", "LOCALHOST"].iter().all(|host| !is_name(host)));
        assert!(is_name("shop.internal") && is_name("shop") && is_name("10.0.0"));
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        let ip: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(look_up("127.0.0.1").await.ok(), Some(vec![ip]));
    }
}
