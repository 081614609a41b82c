//! Keeps what a group knows fresh: looks its names up again, and asks its addresses whether they work.
//!
//! On a runtime of the caller's choice, apart from the workers; ended by the group's own end or by the drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use super::group::Group;
use super::health::{check, pause};
use super::resolve::look_up;
use super::tcp::Address;
use crate::shutdown::Drain;
use crate::snapshot::upstream::Health;

/// Checks of one group that run at the same time.
const CHECKS: usize = 64;

/// The longest wait before a look-up that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Gives up what is kept for an upstream, by its id.
pub type Forget = Arc<dyn Fn(u64) + Send + Sync>;

/// Begins to tend a group.
pub fn tend(group: &Arc<Group>, runtime: &Handle, drain: &Drain, forget: &Forget) {
    for (position, name) in group.names() {
        drain.spawn_on(runtime, until_ended(group, drain, resolve(group.clone(), position, name, forget.clone())));
    }
    if let Some(health) = group.made_from.health.clone() {
        drain.spawn_on(runtime, until_ended(group, drain, watch(group.clone(), health)));
    }
}

fn until_ended(
    group: &Group,
    drain: &Drain,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let (ended, begun) = (group.ended.clone().cancelled_owned(), drain.begun());
    async move {
        tokio::select! {
            () = work => {}
            () = ended => {}
            () = begun => {}
        }
    }
}

async fn resolve(group: Arc<Group>, position: usize, name: String, forget: Forget) {
    let interval = group.made_from.resolve_interval;
    loop {
        let wait = match look_up(&name).await {
            Ok(ips) => {
                for address in group.found(position, &ips) {
                    forget(address.id);
                }
                interval
            }
            Err(error) => {
                group.not_found(position, &error.to_string());
                interval.min(AGAIN)
            }
        };
        sleep(wait).await;
    }
}

async fn watch(group: Arc<Group>, health: Health) {
    let health = Arc::new(health);
    loop {
        let next = sleep(pause(&health));
        // Dropping the set ends the checks.
        let mut checks = JoinSet::new();
        let room = Arc::new(Semaphore::new(CHECKS));
        for address in group.addresses() {
            let (health, room) = (health.clone(), room.clone());
            checks.spawn(async move {
                // Never closed, so always given.
                let _place = room.acquire().await;
                let outcome = check(&address, &health).await;
                (address, outcome)
            });
        }
        while let Some(done) = checks.join_next().await {
            let Ok((address, outcome)) = done else { continue };
            if address.condition.checked(outcome.is_ok(), &health) && address.is_open() {
                judge(&group, &address, outcome);
            }
        }
        next.await;
    }
}

/// A verdict has changed, or is the first one.
fn judge(group: &Group, address: &Address, outcome: Result<(), String>) {
    match outcome {
        Err(reason) => {
            address.condition.set_down(true, &reason);
            warn!(upstream = &*group.name, address = %address, reason, "upstream down");
        }
        Ok(()) if address.condition.is_down() => {
            address.condition.set_down(false, "");
            info!(upstream = &*group.name, address = %address, reason = "its check works again", "upstream up");
        }
        Ok(()) => {}
    }
}
