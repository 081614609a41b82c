//! Two ends of a QUIC connection on the loopback, as tunnels use them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use tidegate_engine::snapshot::{ClientTls, ServerTls, Tunnel};
use tidegate_engine::tls::quic;
use tidegate_engine::tunnel::quic::transport;

/// What both ends speak.
pub(crate) const PROTOCOL: &[u8] = b"tidegate/1";
/// The first words on the first stream, in both directions.
const HELLO: &[u8] = b"hello";

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

/// How sessions are watched where a test says nothing else.
pub(crate) fn tunnel() -> Tunnel {
    serde_json::from_value(json!({"ping_interval": 30.0, "ping_timeout": 10.0})).expect("a snapshot's part")
}

/// The ends of a new connection: the client's and the server's.
pub(crate) async fn connected(tunnel: &Tunnel) -> (Connection, Connection) {
    let (certificate, believes) = certificate();
    let transport = || Arc::new(transport(tunnel, false));
    let crypto = quic::server(&policy(certificate, None), &[PROTOCOL]).expect("a policy that can hold");
    let mut server = ServerConfig::with_crypto(crypto);
    server.transport_config(transport());
    let gateway = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    let client = quic::client(&believes, &[PROTOCOL]).expect("a policy that can hold");
    let name = client.name("127.0.0.1").expect("a name");
    let mut config = ClientConfig::new(client.crypto);
    config.transport_config(transport());
    let agent = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    let address = gateway.local_addr().expect("address");
    let connecting = agent.connect_with(config, address, &name).expect("connect");
    let accepting = async { gateway.accept().await.expect("an Initial").await.expect("a handshake") };
    let (agent, gateway) = tokio::join!(connecting, accepting);
    (agent.expect("a handshake"), gateway)
}

/// The first stream of a new connection, after words in both directions: the client's end and the server's.
pub(crate) async fn greeted(client: &Connection, server: &Connection) -> [(SendStream, RecvStream); 2] {
    let mut said = [0; HELLO.len()];
    let (mut send, mut recv) = client.open_bi().await.expect("open");
    send.write_all(HELLO).await.expect("write");
    let (mut answer, mut asked) = server.accept_bi().await.expect("accept");
    asked.read_exact(&mut said).await.expect("read");
    answer.write_all(HELLO).await.expect("write");
    recv.read_exact(&mut said).await.expect("read");
    [(send, recv), (answer, asked)]
}
