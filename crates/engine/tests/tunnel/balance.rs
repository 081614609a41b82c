//! Which session of an endpoint gets a request where one of them is not heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tidegate_engine::identity::Identity;
use tidegate_engine::registry::Registry;
use tidegate_engine::tunnel::hello::Features;
use tidegate_engine::tunnel::{Session, memory};
use tidegate_engine::upstream::ejection::Condition;
use tidegate_engine::upstream::{AgentSession, Endpoint, Upstream, UpstreamSet, next_id};

use crate::quic;

/// Requests that run on a session which would not be picked but for its silent neighbour.
const BUSY: usize = 5;

fn session(tunnel: Session, agent: &str, not_quic: Option<&str>, requests: usize) -> Arc<AgentSession> {
    Arc::new(AgentSession {
        id: next_id(),
        tenant: "".into(),
        endpoint: "web".into(),
        agent: Some(agent.into()),
        address: ([127, 0, 0, 1], 1).into(),
        since: SystemTime::now(),
        identity: Identity::anonymous(),
        features: Features::default(),
        not_quic: not_quic.map(Arc::from),
        tunnel,
        open_timeout: Duration::from_secs(1),
        worker: 0,
        in_flight: AtomicUsize::new(requests),
        condition: Condition::default(),
        doubted_by: ArcSwapOption::empty(),
    })
}

fn picked(endpoint: &Arc<Endpoint>) -> u64 {
    let set = UpstreamSet::Endpoint(endpoint.clone());
    let ids: Vec<u64> =
        (0..4).map(|_| set.pick(0, &[]).map(|upstream: Upstream| upstream.id()).expect("one")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    ids[0]
}

#[tokio::test]
async fn a_session_that_is_not_heard_is_picked_only_where_there_is_no_other() {
    let (_far, tunnel, relay) = quic::relayed(30.0, 10.0).await;
    let (_agent, other) = memory::pair();
    let (silent, busy) = (session(tunnel.clone(), "one.0", None, 0), session(other, "two.0", None, BUSY));
    let endpoint = Arc::new(Endpoint::new("".into(), "web".into()));
    endpoint.set_sessions(vec![silent.clone(), busy.clone()]);
    assert_eq!(picked(&endpoint), silent.id);

    relay.cut(true);
    let _stream = tunnel.open().expect("it is not known yet");
    tokio::time::timeout(Duration::from_secs(10), tunnel.silence(true)).await.expect("it is silent");
    assert_eq!(picked(&endpoint), busy.id);
    endpoint.set_sessions(vec![silent.clone()]);
    assert_eq!(picked(&endpoint), silent.id);
}

#[tokio::test]
async fn an_agent_that_came_by_websocket_instead_is_not_sent_for_over_quic() {
    let (_far, tunnel) = quic::pair().await;
    let (agent, websocket) = memory::pair();
    let registry = Registry::new();
    let old = session(tunnel, "one.1", None, 0);
    registry.add(old.clone());
    let (_stranger, strangers) = memory::pair();
    registry.add(session(strangers, "two.0", Some("no answer on UDP 8001"), 2 * BUSY));
    let endpoint = registry.find("", "web").expect("it is offered");
    assert_eq!(picked(&endpoint), old.id, "what a stranger says of its own way is nothing to it");

    let young = session(websocket, "one.0", Some("no answer on UDP 8001"), BUSY);
    registry.add(young.clone());
    assert_eq!(picked(&endpoint), young.id);
    young.in_flight.store(3 * BUSY, Ordering::Relaxed);
    assert_ne!(picked(&endpoint), old.id);
    // It takes the WebSocket back: QUIC works again.
    agent.go_away();
    while young.tunnel.is_open() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(picked(&endpoint), old.id);
}
