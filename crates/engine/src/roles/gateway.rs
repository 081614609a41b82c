//! A gateway: downstreams on one side, agents on the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tracing::info;

use super::handle::{Role, StartError};
use crate::event::Events;
use crate::http1::head::HeadLimits;
use crate::listener::Listeners;
use crate::listener::hail::{Greeting, Tunnels};
use crate::metrics::Page;
use crate::proxy::access::AccessLog;
use crate::proxy::explain::{Place, Question, explain};
use crate::proxy::shared::{Proxy, Settings};
use crate::proxy::table::Table;
use crate::registry::Registry;
use crate::shutdown::Drain;
use crate::snapshot::{self, Snapshot};
use crate::upstream::{Address, Endpoint, Group};
use crate::verdict::Kind;
use crate::worker::Workers;

/// How long sessions may take to end after their last request.
const SESSIONS_END: Duration = Duration::from_secs(1);

/// A running gateway.
pub struct Gateway {
    // Listeners first: fields are dropped in this order.
    listeners: Arc<Listeners>,
    tunnels: Arc<Tunnels>,
    proxy: Arc<Proxy>,
    version: String,
    since: Instant,
    applying: Mutex<()>,
    workers: Workers,
    /// What takes its time and carries no traffic: look-ups of names, checks of addresses.
    control: Workers,
}

impl Gateway {
    /// Starts a gateway.
    pub fn start(snapshot: snapshot::Gateway, events: &Arc<Events>) -> Result<Self, StartError> {
        // What can be wrong is found before anything is started.
        let table = Arc::new(Table::compile(&snapshot, &Table::empty()).map_err(StartError::Snapshot)?);
        let tls = Listeners::compile_tls(&snapshot, None).map_err(StartError::Snapshot)?;
        let access = AccessLog::open(&snapshot.access_log, true, None)?;
        let settings = Settings::new(&snapshot.timeouts, &snapshot.limits);

        let workers = Workers::start("gateway", snapshot.workers, events)?;
        let control = Workers::start("control", 1, events)?;
        let registry = Registry::new();

        // One proxy for all listeners, so that upstream connections are shared.
        let proxy = Proxy::new(settings, &snapshot.limits, registry, access, Drain::new(), workers.list().clone());
        proxy.keep_pools_clean();
        proxy.put_in_force(&table, &control.list()[0].runtime);
        proxy.verdicts.configure(table.credential_ids().clone(), snapshot.tenants.as_ref());
        control.list()[0].runtime.spawn(ended_in_time(proxy.clone()));

        // Tunnels end after the requests on them, so they are drained apart.
        let tunnels = Arc::new(Tunnels {
            proxy: proxy.clone(),
            greeting: ArcSwap::from_pointee(greeting(&snapshot)),
            drain: Drain::new(),
            local_port: AtomicU16::new(0),
        });

        // Bound last: nothing is accepted before it can be answered.
        let listeners = Listeners::new(proxy.clone(), tunnels.clone(), snapshot.limits.connections);
        let listeners = Arc::new(listeners.map_err(StartError::System)?);
        listeners.apply(&snapshot, &table, tls, || ())?;

        let (version, since) = (snapshot.version, Instant::now());
        Ok(Gateway { listeners, tunnels, proxy, version, since, applying: Mutex::default(), workers, control })
    }
}

impl Role for Gateway {
    fn apply(&self, snapshot: Snapshot) -> Result<(), StartError> {
        let Snapshot::Gateway(snapshot) = snapshot else {
            return Err(StartError::Snapshot("a running gateway cannot become something else".to_owned()));
        };
        // One at a time: what goes on as it was is taken from what is in force.
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let table = Arc::new(Table::compile(&snapshot, &self.proxy.table.load()).map_err(StartError::Snapshot)?);
        let tls = Listeners::compile_tls(&snapshot, Some(&self.listeners)).map_err(StartError::Snapshot)?;
        let before = self.proxy.access.current();
        let access = AccessLog::open(&snapshot.access_log, true, before.as_deref())?;
        let mut old = None;
        self.listeners.apply(&snapshot, &table, tls, || {
            self.proxy.configure(&snapshot.timeouts, &snapshot.limits);
            self.proxy.access.swap(access);
            self.tunnels.greeting.store(Arc::new(greeting(&snapshot)));
            self.proxy.verdicts.configure(table.credential_ids().clone(), snapshot.tenants.as_ref());
            old = Some(self.proxy.put_in_force(&table, &self.control.list()[0].runtime));
        })?;
        if let Some(old) = old {
            self.proxy.drain.spawn_beside(&self.control.list()[0].runtime, drop_late(old));
        }
        Ok(())
    }

    fn status(&self) -> Value {
        let (requests, errors) = self.proxy.metrics.totals();
        let endpoints: Vec<Value> = self.proxy.registry.all().iter().map(|endpoint| describe(endpoint)).collect();
        json!({
            "role": "gateway",
            "version": self.version,
            "uptime": self.since.elapsed().as_secs_f64(),
            "state": if self.proxy.drain.is_begun() { "draining" } else { "running" },
            "workers": self.workers.list().len(),
            "listeners": self.listeners.status(),
            "endpoints": endpoints,
            "connections": self.listeners.room().iter().map(|(open, _)| open).sum::<usize>(),
            "totals": {"requests": requests, "errors": errors},
            "problems": self.problems(),
        })
    }

    fn explain(&self, question: &Question) -> Result<Value, String> {
        let configured = self.listeners.configured();
        let places: Vec<Place<'_>> =
            configured.iter().map(|(listener, addresses)| Place { listener, addresses: addresses.clone() }).collect();
        let offers = |tenant: &str, name: &str| {
            let endpoint = self.proxy.registry.find(tenant, name)?;
            (!endpoint.sessions().is_empty()).then(|| describe(&endpoint))
        };
        explain(&self.proxy.table.load(), &places, question, Some(&offers))
    }

    fn lists(&self) -> Value {
        let table = self.proxy.table.load_full();
        json!({
            "upstreams": upstreams(&table).iter().map(|group| group.describe()).collect::<Value>(),
            "routes": table.leads().iter().map(|lead| lead.describe()).collect::<Value>(),
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.proxy.metrics.render(&mut page);
        self.proxy.verdicts.render(&mut page);
        self.listeners.render_shed(&mut page);
        page.family("tidegate_connections", "gauge", "Open connections, by listener.");
        for (listener, open) in self.listeners.open() {
            page.value(&[("listener", &listener)], open as f64);
        }
        page.family("tidegate_sessions", "gauge", "Sessions of agents, by endpoint and what carries them.");
        for endpoint in self.proxy.registry.all() {
            let mut carried: BTreeMap<&str, usize> = BTreeMap::new();
            for session in endpoint.sessions().iter() {
                *carried.entry(session.tunnel.transport().word()).or_default() += 1;
            }
            for (transport, sessions) in carried {
                let labels = [("tenant", &*endpoint.tenant), ("endpoint", &*endpoint.name), ("transport", transport)];
                page.value(&labels, sessions as f64);
            }
        }
        self.upstream_metrics(&mut page);
        if let Some(access) = self.proxy.access.current() {
            page.family("tidegate_access_log_dropped_total", "counter", "Lines of the access log that were dropped.");
            page.value(&[], access.dropped() as f64);
        }
        page.finish()
    }

    fn drain(&self, grace: Duration) {
        let (requests, streams, sessions) = running(&self.proxy);
        info!(requests, streams, sessions, "draining");
        let (listeners, proxy, tunnels) = (self.listeners.clone(), self.proxy.clone(), self.tunnels.clone());
        self.workers.list()[0].runtime.spawn(async move {
            listeners.stop();
            // Downstreams finish first; agents are told at once, and let go when nothing runs on them any more.
            let clean = proxy.drain.finish(grace).await;
            tunnels.drain.finish(SESSIONS_END).await;
            proxy.verdicts.close();
            info!(clean, "stopped");
        });
    }

    fn next_question(&self, kind: Kind, timeout: Duration) -> Option<Vec<u8>> {
        self.proxy.verdicts.next_question(kind, timeout)
    }

    fn answer(&self, number: u64, verdict: &[u8]) -> Result<(), String> {
        self.proxy.verdicts.answer(number, verdict)
    }

    fn revoke(&self, keys: &[String]) -> usize {
        self.proxy.verdicts.revoke(keys)
    }

    fn stop(&self) {
        self.listeners.stop();
        self.proxy.verdicts.close();
        self.proxy.drain.cut();
        self.proxy.close_log();
        self.tunnels.drain.cut();
    }
}

impl Gateway {
    /// What an operator should look at, in sentences.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for ((open, most), whose) in self.listeners.room().into_iter().zip(["visitors", "agents"]) {
            if open >= most {
                problems.push(format!(
                    "{open} connections of {whose}, as many as limits.connections allows: for another one that is idle \
                     ends, else it is refused"
                ));
            }
        }
        let dropped = self.proxy.access.current().map_or(0, |access| access.dropped());
        if dropped > 0 {
            problems.push(format!("{dropped} lines of the access log were dropped: it cannot be written fast enough"));
        }
        for group in upstreams(&self.proxy.table.load()) {
            problems.extend(group.problems());
        }
        problems
    }

    fn upstream_metrics(&self, page: &mut Page) {
        let addresses: Vec<_> = upstreams(&self.proxy.table.load())
            .into_iter()
            .flat_map(|group| group.addresses().into_iter().map(move |address| (group.name.clone(), address)))
            .map(|(upstream, address)| (upstream, address.to_string(), address))
            .collect();
        let mut family = |name, kind, help, of: fn(&Address) -> f64| {
            page.family(name, kind, help);
            for (upstream, shown, address) in &addresses {
                page.value(&[("upstream", upstream), ("address", shown)], of(address));
            }
        };
        let help = "1 where an address of an upstream gets requests, 0 where it is left out.";
        family("tidegate_upstream_up", "gauge", help, |one| f64::from(u8::from(one.condition.is_usable())));
        let help = "Requests and streams tried on an address of an upstream.";
        family("tidegate_upstream_requests_total", "counter", help, |one| one.requests.load(Ordering::Relaxed) as f64);
        let help = "Those that failed: not reached, no answer, or 502, 503, 504.";
        family("tidegate_upstream_failures_total", "counter", help, |one| one.failures.load(Ordering::Relaxed) as f64);
    }
}

/// The upstreams of a table, by name.
fn upstreams(table: &Table) -> Vec<Arc<Group>> {
    let mut groups: Vec<_> = table.groups().cloned().collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups
}

fn greeting(snapshot: &snapshot::Gateway) -> Greeting {
    Greeting {
        node: snapshot.node.clone(),
        version: snapshot.version.clone(),
        public_url: snapshot.public_url.clone(),
        tunnel: snapshot.tunnel.clone(),
        handshake: snapshot.timeouts.handshake,
        head: HeadLimits { bytes: snapshot.limits.head_bytes, fields: snapshot.limits.head_fields },
    }
}

/// Ends whatever lives under a credential when that expires.
async fn ended_in_time(proxy: Arc<Proxy>) {
    proxy.directory.keep().await;
}

/// Drops a table where nobody waits: to free thousands of routes takes a worker longer than a request may wait.
async fn drop_late(table: Arc<Table>) {
    // A worker holds it for as long as it takes to find a route.
    for _ in 0..100 {
        if Arc::strong_count(&table) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Requests, streams inside tunnels and sessions that run.
fn running(proxy: &Proxy) -> (u64, usize, usize) {
    let requests = proxy.metrics.in_flight.load(Ordering::Relaxed);
    let endpoints = proxy.registry.all();
    let streams = endpoints.iter().flat_map(|e| e.sessions().iter().map(|s| s.tunnel.streams()).collect::<Vec<_>>());
    (requests, streams.sum(), endpoints.iter().map(|e| e.sessions().len()).sum())
}

fn describe(endpoint: &Endpoint) -> Value {
    let sessions: Vec<Value> = endpoint
        .sessions()
        .iter()
        .map(|session| {
            let stats = session.tunnel.stats();
            json!({
                "session": session.id,
                "agent": session.agent.as_deref(),
                "address": session.tunnel.remote().unwrap_or(session.address).to_string(),
                "transport": session.tunnel.transport().word(),
                "not_quic": session.not_quic.as_deref().unwrap_or_default(),
                "worker": session.worker,
                "state": session.condition.known().state,
                "since": session.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
                "requests_in_flight": session.in_flight.load(Ordering::Relaxed),
                "streams": session.tunnel.streams(),
                "rtt_ms": stats.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                "lost": stats.lost,
                "mtu": stats.mtu,
                "silent": session.tunnel.is_silent(),
                "bytes_in": stats.bytes_in,
                "bytes_out": stats.bytes_out,
            })
        })
        .collect();
    json!({"tenant": &*endpoint.tenant, "name": &*endpoint.name, "listeners": sessions})
}
