//! What a configuration needs bound, for TCP, for QUIC and for datagrams, and what of it is there already.
//!
//! Everything new is bound here, before anything old is given up; putting it in force is `set`'s.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::bind::{ListenError, bind, bind_both, bind_udp, keep, overlap};
use crate::snapshot::{Listener, ListenerKind, Transport};
use crate::tunnel::endpoint::ids;

/// Sockets that are in use: the listener's name, the address as it was asked for, the address that it got.
pub(super) type Used<'a> = (&'a str, SocketAddr, SocketAddr);

/// Where the sockets of an address come from.
pub(super) enum Origin<S> {
    /// They are in use already: the position among all that are.
    Kept(usize),
    /// They are new, at the address that they got.
    Bound(SocketAddr, Vec<S>),
}

/// What a listener accepts on: each address as it was asked for, and its sockets.
#[derive(Default)]
pub(super) struct Plan {
    /// For TCP.
    pub(super) tcp: Vec<(SocketAddr, Origin<TcpListener>)>,
    /// For QUIC.
    pub(super) udp: Vec<(SocketAddr, Origin<UdpSocket>)>,
    /// For kind udp.
    pub(super) datagrams: Vec<(SocketAddr, Origin<UdpSocket>)>,
}

/// Binds what is not in use, for so many workers. `shared`: another program may have the same ports.
///
/// # Errors
/// The first address that could not be bound; then everything that was bound is given back.
pub(super) fn plan(
    wanted: &[Listener],
    (tcp, udp, datagrams): (&[Used<'_>], &[Used<'_>], &[Used<'_>]),
    workers: usize,
    shared: bool,
) -> Result<Vec<Plan>, ListenError> {
    let kept_tcp = keep(wanted, tcp, |listener| binds(listener, Transport::WebSocket));
    let kept_udp = keep(wanted, udp, |listener| binds(listener, Transport::Quic));
    let kept_datagrams = keep(wanted, datagrams, datagrams_at);
    let all_udp = &[udp, datagrams].concat()[..];
    let mut plans = Vec::new();
    for (((listener, kept_tcp), kept_udp), kept) in wanted.iter().zip(kept_tcp).zip(kept_udp).zip(kept_datagrams) {
        let mut plan = Plan::default();
        for (address, kept) in datagrams_at(listener).iter().zip(kept) {
            let origin = match kept {
                Some(at) => Origin::Kept(at),
                None => {
                    let met = shared || all_udp.iter().any(|(_, _, other)| overlap(*other, *address));
                    let (listener, address) = (listener.name.clone(), *address);
                    let (got, sockets) =
                        bind_udp(address, workers, met).map_err(|error| ListenError { listener, address, error })?;
                    Origin::Bound(got, sockets)
                }
            };
            plan.datagrams.push((*address, origin));
        }
        for (position, address) in listener.bind.iter().enumerate() {
            // Of a transport that the listener does not take there is nothing to keep or bind.
            let kept = [kept_tcp.get(position).copied(), kept_udp.get(position).copied()];
            let met = |used: &[Used<'_>]| shared || used.iter().any(|(_, _, other)| overlap(*other, *address));
            let many = workers.min(ids::WORKERS);
            let failed_at = |address: SocketAddr| {
                let listener = listener.name.clone();
                move |error: io::Error| ListenError { listener, address, error }
            };
            let failed = failed_at(*address);
            let (mut new_tcp, mut new_udp) = (None, None);
            match kept {
                [Some(None), Some(None)] => {
                    let (got, of_tcp, mut of_udp) =
                        bind_both(*address, workers, met(tcp) || met(all_udp)).map_err(failed)?;
                    of_udp.truncate(many);
                    (new_tcp, new_udp) = (Some((got, of_tcp)), Some((got, of_udp)));
                }
                // A port that the system picked is the same for both.
                [Some(None), Some(Some(at))] => {
                    let at = same_port(*address, udp[at].2);
                    new_tcp = Some(bind(at, workers, met(tcp)).map_err(failed_at(at))?);
                }
                [Some(Some(at)), Some(None)] => {
                    let at = same_port(*address, tcp[at].2);
                    new_udp = Some(bind_udp(at, many, met(all_udp)).map_err(failed_at(at))?);
                }
                [Some(None), None] => new_tcp = Some(bind(*address, workers, met(tcp)).map_err(failed)?),
                [None, Some(None)] => new_udp = Some(bind_udp(*address, many, met(all_udp)).map_err(failed)?),
                _ => {}
            }
            let bound = |(got, sockets)| Origin::Bound(got, sockets);
            let origin = new_tcp.map(bound).or(kept[0].flatten().map(Origin::Kept));
            plan.tcp.extend(origin.map(|origin| (*address, origin)));
            let bound = |(got, sockets)| Origin::Bound(got, sockets);
            let origin = new_udp.map(bound).or(kept[1].flatten().map(Origin::Kept));
            plan.udp.extend(origin.map(|origin| (*address, origin)));
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// The addresses at which a listener takes this.
fn binds(listener: &Listener, transport: Transport) -> &[SocketAddr] {
    if listener.takes(transport) { &listener.bind } else { &[] }
}

/// The addresses at which a listener takes datagrams.
fn datagrams_at(listener: &Listener) -> &[SocketAddr] {
    if matches!(listener.kind, ListenerKind::Udp { .. }) { &listener.bind } else { &[] }
}

fn same_port(asked: SocketAddr, got: SocketAddr) -> SocketAddr {
    SocketAddr::new(asked.ip(), if asked.port() == 0 { got.port() } else { asked.port() })
}
