//! The terms of a listener: what it asks of whoever connects, and how long connections may go by it.
//!
//! A connection holds the terms under which it was taken. They are revoked when a new configuration asks for something
//! else: what runs goes on to its end, and nothing begins any more. When the listener is gone they end, and are revoked
//! a moment later: whoever was let in just before is still served.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::identity::Identity;
use crate::shutdown::Drain;
use crate::snapshot::{Auth, ClientCertificate, Listener, ListenerKind, Neighbours, TlsVersion};

/// How long something may begin at a listener that is gone.
const MOMENT: Duration = Duration::from_secs(2);

/// What a listener asks of whoever connects, while it does.
pub struct Terms {
    asked: Asked,
    /// Which credentials are taken: those of others end nobody's session.
    auth: watch::Sender<Option<Auth>>,
    ended: OnceLock<Instant>,
    revoked: AtomicBool,
    drain: Drain,
    /// For those who wait; a token has a lock, so whoever asks with every request reads what stands above.
    closing: CancellationToken,
}

/// Everything that a connection was let in by. Which certificate it was shown is not: that is ours to renew.
#[derive(PartialEq)]
struct Asked {
    tls: Tls,
    balancers: Vec<IpNet>,
    agents: Option<Agents>,
}

/// What a session is let in by: a request is asked each time, a session once.
#[derive(PartialEq)]
struct Agents {
    credential: bool,
    neighbours: Neighbours,
    tenant: String,
    /// What those offer who name nothing.
    quic_tunnel: Option<String>,
}

#[derive(PartialEq)]
enum Tls {
    None,
    PassedThrough,
    Ended { oldest: TlsVersion, clients: Option<(Authorities, ClientCertificate)> },
}

/// Certificates, whatever stands around them and in whatever order.
type Authorities = BTreeSet<Vec<u8>>;

/// Those of a PEM file; one that cannot be read has been refused before.
fn authorities(pem: &str) -> Authorities {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    certificates.map(|certificate| certificate.to_vec()).collect()
}

impl Asked {
    fn by(listener: &Listener) -> Asked {
        let tls = match &listener.tls {
            None => Tls::None,
            Some(tls) if tls.certificates.is_empty() => Tls::PassedThrough,
            Some(tls) => Tls::Ended {
                oldest: tls.min_version,
                clients: tls.client_ca.as_deref().map(|pem| (authorities(pem), tls.client_certificate)),
            },
        };
        let mut balancers = listener.proxy_protocol.clone();
        balancers.sort_unstable();
        balancers.dedup();
        let agents = matches!(listener.kind, ListenerKind::Tunnel {}).then(|| Agents {
            credential: listener.auth.is_some(),
            neighbours: Neighbours { allow: listener.allow.clone(), deny: listener.deny.clone() },
            tenant: listener.tenant.clone(),
            quic_tunnel: listener.quic_tunnel.clone(),
        });
        Asked { tls, balancers, agents }
    }
}

impl Terms {
    /// What a listener asks from now on. `drain` ends the listener, if nothing else does.
    pub fn of(listener: &Listener, drain: &Drain) -> Arc<Terms> {
        let (asked, auth) = (Asked::by(listener), watch::Sender::new(listener.auth.clone()));
        let (ended, revoked, closing) = (OnceLock::new(), AtomicBool::new(false), drain.part());
        Arc::new(Terms { asked, auth, ended, revoked, drain: drain.clone(), closing })
    }

    /// Goes on with the credentials that `listener` takes, which asks for the same otherwise.
    pub fn go_on(&self, listener: &Listener) {
        self.auth.send_if_modified(|auth| {
            let is_other = *auth != listener.auth;
            *auth = listener.auth.clone();
            is_other
        });
    }

    /// Resolves when nobody of `tenant` may come in any more by what `key` has verified.
    pub async fn refuse(&self, key: &str, tenant: &str) {
        let mut auth = self.auth.subscribe();
        let takes = |auth: &Option<Auth>| auth.as_ref().is_none_or(|auth| auth.takes(key, tenant));
        // The sender is ours, so there is always a next one to wait for.
        let _ = auth.wait_for(|auth| !takes(auth)).await;
    }

    /// Resolves when `identity` has ended at a listener whose sessions end with their credential.
    pub async fn expire(&self, identity: &Identity) {
        let mut auth = self.auth.subscribe();
        loop {
            let _ = auth.wait_for(|auth| auth.as_ref().is_some_and(|auth| auth.disconnect_on_expiry)).await;
            tokio::select! {
                () = identity.ended() => return,
                _ = auth.wait_for(|auth| auth.as_ref().is_none_or(|auth| !auth.disconnect_on_expiry)) => {}
            }
        }
    }

    /// True when a listener asks for just this.
    pub fn are_of(&self, listener: &Listener) -> bool {
        self.asked == Asked::by(listener)
    }

    /// The listener is gone.
    pub fn end(&self) {
        self.ended.get_or_init(Instant::now);
        self.closing.cancel();
    }

    /// The listener asks for something else now.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.end();
    }

    /// True when they are in force no more, whatever becomes of the gateway.
    pub fn have_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// True when nothing may begin under them any more.
    pub fn are_revoked(&self) -> bool {
        self.ended.get().is_some_and(|at| self.revoked.load(Ordering::Acquire) || at.elapsed() >= MOMENT)
    }

    /// True when connections should end, after what runs.
    pub fn are_closing(&self) -> bool {
        self.have_ended() || self.drain.is_begun()
    }

    /// Resolves when connections should end, after what runs.
    pub fn closing(&self) -> WaitForCancellationFutureOwned {
        self.closing.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::identity::{Directory, Permitted};

    fn listener(tls: Value, proxy_protocol: Value) -> Listener {
        let whole = json!({
            "name": "web", "bind": [], "tls": tls, "proxy_protocol": proxy_protocol, "transports": ["websocket"],
            "kind": "http", "dynamic_endpoints": "unnamed",
        });
        serde_json::from_value(whole).expect("a listener")
    }

    fn pem(base64: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    }

    fn ended(certificates: &[&str], client_ca: Option<&str>, client_certificate: &str, min_version: &str) -> Listener {
        let certificates = certificates.iter().map(|pem| json!({"cert": pem, "key": pem, "name": "a"}));
        let tls = json!({
            "certificates": certificates.collect::<Value>(), "client_ca": client_ca,
            "client_certificate": client_certificate, "min_version": min_version,
        });
        listener(tls, json!([]))
    }

    #[test]
    fn certificates_of_ours_may_come_and_go_under_the_same_terms() {
        let terms = Terms::of(&ended(&["old"], Some(&pem("AAAA")), "required", "1.2"), &Drain::new());
        assert!(terms.are_of(&ended(&["new", "more"], Some(&pem("AAAA")), "required", "1.2")));
    }

    #[test]
    fn whatever_is_asked_of_a_connection_makes_other_terms() {
        let plain = || listener(Value::Null, json!([]));
        let all = [
            plain(),
            listener(Value::Null, json!(["10.0.0.0/8"])),
            listener(Value::Null, json!(["10.0.0.0/8", "fd00::/8"])),
            ended(&[], None, "required", "1.2"),
            ended(&["a"], None, "required", "1.2"),
            ended(&["a"], None, "required", "1.3"),
            ended(&["a"], Some(&pem("AAAA")), "required", "1.2"),
            ended(&["a"], Some(&pem("AAAA")), "optional", "1.2"),
            ended(&["a"], Some(&pem("BBBB")), "required", "1.2"),
        ];
        for (at, one) in all.iter().enumerate() {
            let terms = Terms::of(one, &Drain::new());
            for (other, listener) in all.iter().enumerate() {
                assert_eq!(terms.are_of(listener), at == other, "{at} and {other}");
            }
        }
    }

    #[tokio::test]
    async fn only_whoever_shows_what_is_taken_no_more_is_refused() {
        let tunnel = |auth: Value| -> Listener {
            let whole = json!({
                "name": "t", "bind": [], "tls": null, "proxy_protocol": [], "transports": ["websocket"],
                "kind": "tunnel", "auth": auth,
            });
            serde_json::from_value(whole).expect("a listener")
        };
        let by_tenant = json!({"set": "main", "by_tenant": {"acme": "shared", "globex": "shared"}});
        let terms = Terms::of(&tunnel(by_tenant), &Drain::new());
        let all = [("main/1", ""), ("shared/1", "acme"), ("shared/1", "globex")];
        let refused = async || {
            let mut refused = Vec::new();
            for (key, tenant) in all {
                refused.push(tokio::time::timeout(Duration::ZERO, terms.refuse(key, tenant)).await.is_ok());
            }
            refused
        };
        assert_eq!(refused().await, [false, false, false]);
        for (auth, expected) in [
            (json!({"set": "main", "by_tenant": {"acme": "shared"}}), [false, false, true]),
            (json!({"set": "ops", "by_tenant": {"acme": "shared", "globex": "shared"}}), [true, false, false]),
            (json!({"set": "shared"}), [true, false, false]),
            (json!({"set": "ops,main,shared;1"}), [false, false, false]),
            (json!({"set": "main-2;1"}), [true, true, true]),
        ] {
            // Whoever shows the same goes on: these are no other terms.
            assert!(terms.are_of(&tunnel(auth.clone())));
            terms.go_on(&tunnel(auth));
            assert_eq!(refused().await, expected);
        }
    }

    #[tokio::test]
    async fn a_session_ends_with_its_credential_where_the_listener_says_so_now() {
        let tunnel = |cut: bool| -> Listener {
            let whole = json!({"name": "t", "bind": [], "tls": null, "proxy_protocol": [], "kind": "tunnel",
                               "transports": ["websocket"], "auth": {"set": "main", "disconnect_on_expiry": cut}});
            serde_json::from_value(whole).expect("a listener")
        };
        let over = Directory::default();
        let past = SystemTime::now() - Duration::from_secs(1);
        let identity = over.enter(Identity::new("", Permitted::All, Permitted::All, Some(past)));
        let terms = Terms::of(&tunnel(false), &Drain::new());
        let expired = async || tokio::time::timeout(Duration::from_millis(10), terms.expire(&identity)).await.is_ok();
        assert!(!expired().await);
        terms.go_on(&tunnel(true));
        assert!(!expired().await);
        over.expire(SystemTime::now());
        assert!(expired().await);
        terms.go_on(&tunnel(false));
        assert!(!expired().await);
    }

    #[test]
    fn the_order_of_networks_is_nothing_that_is_asked() {
        let terms = Terms::of(&listener(Value::Null, json!(["10.0.0.0/8", "fd00::/8"])), &Drain::new());
        assert!(terms.are_of(&listener(Value::Null, json!(["fd00::/8", "10.0.0.0/8"]))));
    }

    #[test]
    fn the_order_of_authorities_and_what_stands_around_them_is_nothing_that_is_asked() {
        let (one, other) = (pem("AAAA"), pem("BBBB"));
        let of = |authorities: &str| ended(&["a"], Some(authorities), "required", "1.2");
        let terms = Terms::of(&of(&format!("{one}{other}")), &Drain::new());
        assert!(terms.are_of(&of(&format!("# Ours\n{other}\r\n\nIts name\n{one}{other}"))));
        assert!(!terms.are_of(&of(&one)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_came_just_before_a_listener_was_gone_has_a_moment() {
        let listener = listener(Value::Null, json!([]));
        let (gone, other) = (Terms::of(&listener, &Drain::new()), Terms::of(&listener, &Drain::new()));
        gone.end();
        other.revoke();
        assert!(gone.have_ended() && other.have_ended());
        assert!(!gone.are_revoked() && other.are_revoked());
        tokio::time::advance(MOMENT).await;
        assert!(gone.are_revoked());
    }

    #[tokio::test]
    async fn a_drain_closes_and_revokes_nothing() {
        let drain = Drain::new();
        let terms = Terms::of(&listener(Value::Null, json!([])), &drain);
        assert!(!terms.are_closing());
        drain.begin();
        terms.closing().await;
        assert!(terms.are_closing() && !terms.have_ended() && !terms.are_revoked());
    }
}
