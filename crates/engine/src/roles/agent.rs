//! An agent: offers local services as endpoints, over tunnels that it opens itself.
//!
//! Each endpoint has its own tunnels (compat.md §1.1: one session per listener). Each
//! tunnel has a place that keeps one up, `slot`, which asks `choice` what it is made of.

pub mod numbers;
pub mod service;
pub mod slot;
pub mod state;
pub mod tunnel;
pub mod turns;
pub mod works;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::info;

use super::handle::{Role, StartError};
use super::link::Changes;
use crate::connect::Gateway;
use crate::event::Events;
use crate::metrics::Page;
use crate::proxy::access::AccessLog;
use crate::proxy::shared::{Proxy, Settings};
use crate::registry::Registry;
use crate::shutdown::Drain;
use crate::snapshot::{self, Snapshot, Transport};
use crate::worker::Workers;

use service::Offered;
use slot::Slot;
use tunnel::Dialler;

/// How long tunnels may take to end after their last stream.
const TUNNELS_END: Duration = Duration::from_secs(1);

/// A running agent.
pub struct Agent {
    offers: Vec<Arc<Offered>>,
    proxy: Arc<Proxy>,
    tunnels: Drain,
    dialler: Arc<Dialler>,
    version: String,
    since: Instant,
    workers: Workers,
}

impl Agent {
    /// Starts an agent. Its tunnels come up by themselves, and come back.
    pub fn start(snapshot: snapshot::Agent, events: &Arc<Events>) -> Result<Self, StartError> {
        // What can be wrong is found before anything is started.
        let (gateways, token) = Gateway::all(&snapshot.connect).map_err(StartError::Snapshot)?;
        let offers = Offered::all(&snapshot).map_err(StartError::Snapshot)?;
        let access = AccessLog::open(&snapshot.access_log, false, None)?;

        // One thread carries more than one machine's services answer.
        let workers = Workers::start("agent", 1, events)?;
        let settings = Settings::new(&snapshot.timeouts, &snapshot.limits);
        let list = workers.list().clone();
        let proxy = Proxy::new(settings, &snapshot.limits, Registry::new(), access, Drain::new(), list);
        proxy.keep_pools_clean();

        // Tunnels end after the streams on them, so they are drained apart.
        let tunnels = Drain::new();
        let dialler = Arc::new(Dialler::new((gateways, token), &snapshot, proxy.clone(), tunnels.clone()));
        let runtime = &workers.list()[0].runtime;
        for offer in &offers {
            tunnels.spawn_on(runtime, service::watch(offer.clone(), proxy.drain.begun()));
            for slot in 0..snapshot.connections {
                tunnels.spawn_on(runtime, Slot::new(dialler.clone(), offer.clone(), slot).keep());
            }
        }
        Ok(Agent { offers, proxy, tunnels, dialler, version: snapshot.version, since: Instant::now(), workers })
    }
}

impl Role for Agent {
    fn apply(&self, _: Snapshot) -> Result<(), StartError> {
        Err(StartError::Snapshot("an agent takes a new configuration when it is started again".to_owned()))
    }

    fn status(&self) -> Value {
        let (requests, errors) = self.proxy.metrics.totals();
        let endpoints: Vec<Value> = self.offers.iter().map(|offer| offer.describe()).collect();
        json!({
            "role": "agent",
            "version": self.version,
            "uptime": self.since.elapsed().as_secs_f64(),
            "state": if self.proxy.drain.is_begun() { "draining" } else { "running" },
            "endpoints": endpoints,
            "totals": {"requests": requests, "errors": errors},
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        self.proxy.metrics.render(&mut page);
        page.family("tidegate_tunnels", "gauge", "Tunnels that are up, by endpoint and what they are made of.");
        for offer in &self.offers {
            for transport in [Transport::WebSocket, Transport::Quic, Transport::QuicTunnel].map(Transport::word) {
                let up = offer.tunnels.iter().filter(|tunnel| tunnel.is_up_over(transport));
                page.value(&[("endpoint", &offer.name), ("transport", transport)], up.count() as f64);
            }
        }
        page.family(
            "tidegate_udp_sessions",
            "gauge",
            "Source addresses of datagrams that are served, or flows of them.",
        );
        for (offer, flows) in self.offers.iter().filter_map(|offer| Some((offer, offer.flows()?))) {
            page.value(&[("endpoint", &offer.name)], flows as f64);
        }
        Changes::render([&self.dialler.changes], &mut page);
        page.finish()
    }

    fn drain(&self, grace: Duration) {
        let requests = self.proxy.metrics.in_flight.load(Ordering::Relaxed);
        let sessions: usize = self.offers.iter().map(|offer| offer.connected()).sum();
        info!(requests, sessions, "draining");
        let (proxy, tunnels) = (self.proxy.clone(), self.tunnels.clone());
        self.workers.list()[0].runtime.spawn(async move {
            // Gateways are told at once and give up what they keep idle; then the tunnels can go.
            let clean = proxy.drain.finish(grace).await;
            tunnels.finish(TUNNELS_END).await;
            info!(clean, "stopped");
        });
    }

    fn set_token(&self, token: String) -> Result<(), String> {
        self.dialler.token.set(token);
        Ok(())
    }

    fn stop(&self) {
        self.proxy.drain.cut();
        self.proxy.close_log();
        self.tunnels.cut();
    }
}
