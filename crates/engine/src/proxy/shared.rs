//! What all connections of a role share.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::access::{Access, AccessLog, Record};
use super::budget::Budget;
use super::http1::Http1;
use super::http2::channels::Channels;
use super::table::Table;
use crate::http1::head::HeadLimits;
use crate::identity::{Directory, Identity};
use crate::io::BoxedIo;
use crate::metrics::{Metrics, Sample};
use crate::registry::Registry;
use crate::shutdown::Drain;
use crate::snapshot::{Destination, Limits, Timeouts};
use crate::upstream::tending::{Forget, tend};
use crate::upstream::{Group, Pool, UpstreamSet};
use crate::verdict::Verdicts;
use crate::worker::Worker;

/// How often kept connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// The deadlines and limits in force. A request keeps those it began with.
#[derive(Clone)]
pub struct Settings {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Sizes of heads.
    pub head: HeadLimits,
    /// Share of requests that may be tried again, in percent.
    pub retry_percent: u32,
    /// Requests that one connection of HTTP/2 may have running.
    pub http2_streams: u32,
}

/// One for all listeners of a role, so that upstream connections are shared.
pub struct Proxy {
    /// The deadlines and limits in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The routes and upstreams in force; empty in an agent.
    pub table: ArcSwap<Table>,
    /// Who offers what; empty in an agent.
    pub registry: Registry,
    /// What is counted.
    pub metrics: Metrics,
    /// One line a request, or none.
    pub access: Access,
    /// Ends everything.
    pub drain: Drain,
    /// The threads.
    pub workers: Arc<[Worker]>,
    /// Nobody in particular.
    pub anonymous: Arc<Identity>,
    /// Everybody who was let in with a credential.
    pub directory: Arc<Directory>,
    /// Whose credentials are good.
    pub verdicts: Verdicts,
    locals: Box<[Local]>,
    next_request: AtomicU64,
}

/// What one worker has for itself.
struct Local {
    pool: Mutex<Pool<Box<Http1>>>,
    channels: Arc<Channels>,
    budget: Mutex<Budget>,
}

impl Settings {
    /// Settings as the snapshot has them.
    pub fn new(timeouts: &Timeouts, limits: &Limits) -> Arc<Self> {
        Arc::new(Settings {
            timeouts: timeouts.clone(),
            head: HeadLimits { bytes: limits.head_bytes, fields: limits.head_fields },
            retry_percent: limits.retry_percent,
            http2_streams: limits.http2_streams,
        })
    }
}

impl Proxy {
    /// A proxy without a connection.
    pub fn new(
        settings: Arc<Settings>,
        limits: &Limits,
        registry: Registry,
        access: Option<AccessLog>,
        drain: Drain,
        workers: Arc<[Worker]>,
    ) -> Arc<Self> {
        let keep = settings.timeouts.upstream_keep_alive;
        let local = || Local {
            pool: Mutex::new(Pool::new(limits.idle_upstreams, keep)),
            channels: Arc::default(),
            budget: Mutex::new(Budget::new(Instant::now())),
        };
        let directory: Arc<Directory> = Arc::default();
        Arc::new(Proxy {
            settings: Arc::new(ArcSwap::new(settings)),
            table: ArcSwap::from_pointee(Table::empty()),
            registry,
            metrics: Metrics::new(workers.len()),
            access: Access::new(access),
            drain,
            locals: workers.iter().map(|_| local()).collect(),
            workers,
            anonymous: Identity::anonymous(),
            verdicts: Verdicts::new(directory.clone()),
            directory,
            // Ids of two runs should not look alike in a log.
            next_request: AtomicU64::new(getrandom::u64().unwrap_or_default()),
        })
    }

    /// Looks through kept connections, on every worker, until the role ends.
    pub fn keep_pools_clean(self: &Arc<Self>) {
        for worker in self.workers.iter() {
            let (proxy, index) = (self.clone(), worker.index);
            self.drain.spawn_beside(&worker.runtime, async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    let gone = proxy.pool(index, |pool| match proxy.drain.is_begun() {
                        true => pool.clear(),
                        false => pool.sweep(|kept| kept.is_quiet()),
                    });
                    close_kept(gone);
                    let keep = proxy.settings.load().timeouts.upstream_keep_alive;
                    let keep = if proxy.drain.is_begun() { Duration::ZERO } else { keep };
                    proxy.channels(index).sweep(keep);
                }
            });
        }
    }

    /// Does something with a worker's pool.
    pub fn pool<T>(&self, worker: usize, with: impl FnOnce(&mut Pool<Box<Http1>>) -> T) -> T {
        with(&mut self.locals[worker].pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A worker's connections that many requests share.
    pub fn channels(&self, worker: usize) -> &Arc<Channels> {
        &self.locals[worker].channels
    }

    /// Puts new deadlines and limits in force for whatever begins from now on.
    pub fn configure(&self, timeouts: &Timeouts, limits: &Limits) {
        for worker in self.workers.iter() {
            self.pool(worker.index, |pool| pool.resize(limits.idle_upstreams, timeouts.upstream_keep_alive));
        }
        self.settings.store(Settings::new(timeouts, limits));
    }

    /// Writes the last lines of the access log; nothing is logged from then on.
    pub fn close_log(&self) {
        if let Some(access) = self.access.swap(None) {
            access.close();
        }
    }

    /// Closes what is kept for an upstream, on every worker.
    pub fn forget(&self, upstream: u64) {
        for worker in self.workers.iter() {
            close_kept(self.pool(worker.index, |pool| pool.remove(upstream)));
            self.channels(worker.index).remove(upstream);
        }
    }

    /// Puts a table in force and returns the one that was. Upstreams that are new are tended on `runtime` from now on;
    /// of those that are gone nothing is kept.
    pub fn put_in_force(self: &Arc<Self>, table: &Arc<Table>, runtime: &Handle) -> Arc<Table> {
        let before = self.table.swap(table.clone());
        let forget: Forget = {
            let proxy = self.clone();
            Arc::new(move |upstream| proxy.forget(upstream))
        };
        let is_in =
            |table: &Table, group: &Arc<Group>| table.group(&group.name).is_some_and(|one| Arc::ptr_eq(one, group));
        for group in table.groups().filter(|group| !is_in(&before, group)) {
            tend(group, runtime, &self.drain, &forget);
        }
        let stays: HashSet<u64> = table.groups().flat_map(|group| group.ids()).collect();
        for group in before.groups().filter(|group| !is_in(table, group)) {
            group.end();
            for address in group.addresses().iter().filter(|address| !stays.contains(&address.id)) {
                address.leave();
                self.forget(address.id);
            }
        }
        before
    }

    /// Where a listener or route leads a downstream, and what logs and metrics call it; none where nobody offers the
    /// endpoint. `tenant`: whose that is where the destination does not say.
    pub fn destination(&self, to: &Destination, tenant: &str, client: IpAddr) -> Option<(UpstreamSet, Arc<str>)> {
        match to {
            Destination::Endpoint(to) => {
                let endpoint = self.registry.find(to.owner(tenant), &to.endpoint)?;
                let label = endpoint.name.clone();
                Some((UpstreamSet::Endpoint(endpoint), label))
            }
            Destination::Upstream(name) => Some(UpstreamSet::of_group(self.table.load().group(name)?, None, client)),
        }
    }

    /// The id of the next request.
    pub fn next_request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// A request began at `now`: it earns its share of a retry.
    pub fn earn_retry(&self, worker: usize, now: Instant) {
        self.budget(worker, |budget| budget.earn(now));
    }

    /// Takes a retry from the budget, where there is one left.
    pub fn spend_retry(&self, worker: usize) -> bool {
        let percent = self.settings.load().retry_percent;
        let spent = self.budget(worker, |budget| budget.spend(Instant::now(), percent));
        if spent {
            self.metrics.retries.fetch_add(1, Ordering::Relaxed);
        }
        spent
    }

    fn budget<T>(&self, worker: usize, with: impl FnOnce(&mut Budget) -> T) -> T {
        with(&mut self.locals[worker].budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts and logs a finished request or stream.
    pub fn finish(&self, worker: usize, record: &Record) {
        self.metrics.record(
            worker,
            &Sample {
                listener: &record.listener,
                tenant: record.owner(),
                endpoint: record.label(),
                status: record.status,
                error: record.error.as_ref().map(|error| error.code),
                duration: record.began.elapsed(),
                bytes_in: record.bytes_in,
                bytes_out: record.bytes_out,
            },
        );
        self.access.write(record);
    }

    /// Goes on with a stream on another worker than this one, or here where it cannot be moved.
    pub fn carry_on<T: Future<Output = ()> + Send + 'static>(
        &self,
        drain: &Drain,
        io: BoxedIo,
        (here, there): (usize, usize),
        carry: impl FnOnce(usize, BoxedIo) -> T + Send + 'static,
    ) {
        if here == there {
            return drain.spawn_on(self.runtime(here), carry(here, io));
        }
        match io.detach() {
            Ok(detached) => drain.spawn_on(self.runtime(there), async move {
                // It fails only where the process has no memory or descriptor left: the connection ends.
                if let Ok(io) = detached.attach() {
                    carry(there, io).await;
                }
            }),
            Err(io) => drain.spawn_on(self.runtime(here), carry(here, io)),
        }
    }

    /// The runtime of a worker.
    pub fn runtime(&self, worker: usize) -> &Handle {
        &self.workers[worker].runtime
    }
}

/// Ends kept connections in an orderly way: an idle stream that is simply dropped would look broken.
fn close_kept(connections: impl IntoIterator<Item = Box<Http1>>) {
    for mut connection in connections {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        // What cannot be closed at once is dropped, which ends it too.
        let _ = connection.poll_shutdown(&mut cx);
    }
}
