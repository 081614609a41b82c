//! Sockets that take and make QUIC connections on the loopback, as tunnels use them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::{ClientConfig, Connecting, Endpoint, ServerConfig};
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use tidegate_engine::snapshot::{ClientTls, ServerTls, Tunnel};
use tidegate_engine::tls::quic;
use tidegate_engine::tunnel::quic::transport;

/// What both ends speak.
pub(crate) const PROTOCOL: &[u8] = b"tidegate/1";

/// A certificate for `gate.test` as a snapshot has it, and what believes it.
pub(crate) fn certificate() -> (Value, ClientTls) {
    let made = generate_simple_self_signed(vec!["gate.test".to_owned()]).expect("a certificate");
    let shown = json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem(), "name": "gate.pem"});
    let believes = ClientTls {
        ca: Some(made.cert.pem()),
        cert: None,
        key: None,
        server_name: Some("gate.test".to_owned()),
        insecure_skip_verify: false,
    };
    (shown, believes)
}

/// A listener's policy that shows `certificate`.
pub(crate) fn policy(certificate: Value, client_ca: Option<&str>) -> ServerTls {
    serde_json::from_value(json!({
        "certificates": [certificate], "client_ca": client_ca, "client_certificate": "required", "min_version": "1.2",
    }))
    .expect("a policy")
}

/// How sessions are watched: seconds until an idle peer is asked, and until it is given up.
pub(crate) fn tunnel(ping_interval: f64, ping_timeout: f64) -> Tunnel {
    let watched = json!({"ping_interval": ping_interval, "ping_timeout": ping_timeout, "congestion": "cubic"});
    serde_json::from_value(watched).expect("a snapshot's part")
}

/// A socket on the loopback that takes connections under `policy`.
pub(crate) fn server(policy: &ServerTls, tunnel: &Tunnel) -> Endpoint {
    let crypto = quic::server(policy, &[PROTOCOL]).expect("a policy that can hold");
    let mut config = ServerConfig::with_crypto(crypto);
    config.transport_config(Arc::new(transport(tunnel, false)));
    Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("bind")
}

/// Another socket on the loopback, which connects to `address`.
pub(crate) fn dial(policy: &ClientTls, protocol: &[u8], tunnel: &Tunnel, address: SocketAddr) -> Connecting {
    let client = quic::client(policy, &[protocol]).expect("a policy that can hold");
    let name = client.name("127.0.0.1").expect("a name");
    let mut config = ClientConfig::new(client.crypto);
    config.transport_config(Arc::new(transport(tunnel, true)));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    endpoint.connect_with(config, address, &name).expect("connect")
}
