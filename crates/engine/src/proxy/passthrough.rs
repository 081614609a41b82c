//! Carries connections that nobody here decrypts: of TCP listeners, and TLS whose server name has a route.
//!
//! Accepted connection and upstream are joined from the first byte on, on the worker that has a tunnel to the endpoint
//! where there is one; long flows between two TCP connections stay inside the kernel (`splice`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::access::{Answered, Record};
use super::admission::too_many;
use super::relay::Leg;
use super::shared::Proxy;
use super::stream::relay_tcp;
use super::table::Lead;
use crate::allowance::{Taken, Wanted};
use crate::error::{Code, Error, Result};
use crate::io::{BoxedIo, Buffer};
use crate::room::Place;
use crate::upstream::UpstreamSet;

/// A connection that is carried as it is.
pub struct Opaque {
    /// The byte stream.
    pub io: BoxedIo,
    /// Bytes that were read from it already: the first that the upstream gets.
    pub read: Buffer,
    /// Who connected.
    pub client: SocketAddr,
    /// The listener it came by.
    pub listener: Arc<str>,
    /// The server name that its ClientHello says, for the log.
    pub server_name: Option<String>,
    /// The route that it took, for the log; empty where it took none.
    pub route: Arc<str>,
    /// Held as long as the connection lives.
    pub place: Place,
}

/// Passes a connection through to where a route leads, from where that is permitted. `tenant`: whose endpoint that is
/// where the route does not say.
pub fn pass_to(proxy: &Arc<Proxy>, worker: usize, connection: Opaque, lead: &Lead, tenant: &str) {
    lead.requests.fetch_add(1, Ordering::Relaxed);
    let client = connection.client.ip();
    if !lead.neighbours.admit(client) {
        return pass(proxy, worker, connection, Err(denied()));
    }
    let to = match (&lead.group, lead.forward()) {
        (Some(group), _) => Some(UpstreamSet::of_group(group, None, client)),
        (None, Some(forward)) => proxy.destination(&forward.to, tenant, client),
        (None, None) => None,
    };
    pass(proxy, worker, connection, to.ok_or_else(nobody));
}

/// Nobody is there to pass a connection to.
pub fn nobody() -> Error {
    Error::undelivered(Code::NoUpstream, "")
}

/// A connection comes from where none may come from.
pub fn denied() -> Error {
    Error::undelivered(Code::AddressDenied, "")
}

/// Passes a connection through, to whom and what logs and metrics call that, or resets it and notes why.
pub fn pass(proxy: &Arc<Proxy>, worker: usize, connection: Opaque, to: Result<(UpstreamSet, Arc<str>)>) {
    let Opaque { mut io, read, client, listener, server_name, route, place } = connection;
    let mut record = Record::new(proxy.next_request(), client, listener, Answered::Gateway);
    record.server_name = server_name;
    record.route = Some(route);
    let (upstreams, label) = match to {
        Ok(to) => to,
        Err(error) => {
            io.reset();
            record.error = Some(error);
            return proxy.finish(worker, &record);
        }
    };
    record.endpoint = Some(label);
    if let Some(owner) = upstreams.owner() {
        record.tenant = Some(owner.clone());
        match Taken::from(proxy.verdicts.allowance_of(owner), Wanted::Stream) {
            Ok(taken) => record.taken = taken,
            Err(too_much) => {
                io.reset();
                record.error = Some(too_many(too_much));
                return proxy.finish(worker, &record);
            }
        }
    }
    let (there, proxy_there) = (upstreams.better_worker(worker).unwrap_or(worker), proxy.clone());
    proxy.carry_on(&proxy.drain, io, (worker, there), move |worker, io| async move {
        let (_place, proxy) = (place, proxy_there);
        proxy.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        relay_tcp(&proxy, worker, &upstreams, Leg { io, read }, client, &mut record).await;
        proxy.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        record.charge();
        proxy.finish(worker, &record);
    });
}
