//! Connects to the target of a CONNECT: looks its name up once, and dials those of the addresses that are allowed.
//!
//! What is dialled is what was judged: nothing is looked up a second time. What is allowed is `target::allowed`'s.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::dial;
use crate::error::{Code, Error, Result};
use crate::target::allowed::{Allowed, ByName, Denied};
use crate::target::{Host, Target};

/// Connects to a target within `within`, if it is allowed. `resolve` finds the addresses of a host; what it finds is
/// noted in `found`, for the log.
///
/// # Errors
/// It is not allowed, or cannot be reached; nothing was sent to it.
pub async fn reach<R: Future<Output = io::Result<Vec<SocketAddr>>>>(
    allowed: &Allowed,
    target: &Target,
    within: Duration,
    resolve: impl FnOnce(String, u16) -> R,
    found: &mut String,
) -> Result<TcpStream> {
    if allowed.judge_name(target) == ByName::No {
        return Err(denied(Denied::Unlisted, target));
    }
    let deadline = Instant::now() + within;
    let host = match &target.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.clone(),
    };
    let addresses = match timeout_at(deadline, resolve(host.clone(), target.port)).await {
        Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
        Ok(_) => return Err(unreachable(format!("cannot resolve {host}"))),
        Err(_) => return Err(late(format!("cannot resolve {host} within {} s", within.as_secs_f64()))),
    };
    *found = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let (mut open, mut why) = (Vec::new(), Denied::Unlisted);
    for address in addresses {
        match allowed.judge(target, address.ip(), is_local) {
            Ok(()) => open.push(address),
            Err(Denied::Guarded) => why = Denied::Guarded,
            Err(Denied::Unlisted) => {}
        }
    }
    if open.is_empty() {
        return Err(denied(why, target));
    }
    match timeout_at(deadline, dial::first_of(open)).await {
        Ok(Ok(stream)) => {
            // Only fails on a connection that is gone already, and then so does its first use.
            let _ = stream.set_nodelay(true);
            if let Ok(peer) = stream.peer_addr() {
                *found = peer.to_string();
            }
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(unreachable(format!("nothing listens on {target}")))
        }
        Ok(Err(error)) => Err(unreachable(format!("cannot connect to {target}: {error}"))),
        Err(_) => Err(late(format!("no answer from {target} within {} s", within.as_secs_f64()))),
    }
}

/// True for an address of this machine: only such a one can be bound.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn unreachable(detail: String) -> Error {
    Error::undelivered(Code::UpstreamUnreachable, detail)
}

fn late(detail: String) -> Error {
    Error::undelivered(Code::UpstreamTimeout, detail)
}

/// A target that is not dialled. Where it leads is not told: that would say what a network looks like inside.
fn denied(why: Denied, target: &Target) -> Error {
    let detail = match why {
        Denied::Unlisted => format!("not allowed: add --allow {target} to the agent"),
        Denied::Guarded => "a loopback, link-local or metadata address, or a port of the agent's own".to_owned(),
    };
    Error::new(Code::TargetDenied, detail)
}
