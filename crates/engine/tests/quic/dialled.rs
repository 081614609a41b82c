//! A gateway that takes tunnels over QUIC, and whoever dials it, who says exactly what is wanted.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime,
    TransportConfig,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::gate::{Gate, configuration, listener};

/// The protocol of tunnels.
pub(crate) const TIDEGATE: &[&[u8]] = &[b"tidegate/1"];

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, both PEM.
    pub(crate) fn issue(&self, use_: ExtendedKeyUsagePurpose) -> (String, KeyPair) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages.push(use_);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key)
    }
}

/// A gateway with the listeners `web` and `agents`, which takes tunnels over QUIC. `agents` and `changes` are laid over
/// the listener and the configuration.
pub(crate) fn gate(authority: &Authority, agents: Value, changes: Value) -> Gate {
    let (cert, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let mut tls = json!({
        "certificates": [{"cert": cert, "key": key.serialize_pem(), "name": "a"}],
        "client_ca": null, "client_certificate": "required", "min_version": "1.2",
    });
    let mut more = json!({"transports": ["websocket", "quic"]});
    for (key, value) in agents.as_object().unwrap() {
        match key.as_str() {
            "client_ca" => tls["client_ca"] = value.clone(),
            key => more[key] = value.clone(),
        }
    }
    more["tls"] = tls;
    let listeners = json!([listener("web", "http", json!({})), listener("agents", "tunnel", more)]);
    Gate::start(&configuration(listeners, changes))
}

/// A number of a metric; 0 where there is none.
pub(crate) fn counted(gate: &Gate, series: &str) -> f64 {
    let page = gate.role.metrics();
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
}

/// What somebody brings who dials.
pub(crate) struct Brings<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) protocols: &'a [&'a [u8]],
    pub(crate) identity: Option<(String, KeyPair)>,
}

impl<'a> Brings<'a> {
    pub(crate) fn nothing(authority: &'a Authority) -> Self {
        Brings { authority, protocols: TIDEGATE, identity: None }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.0.der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((cert, key)) => {
                use rustls::pki_types::CertificateDer;
                use rustls::pki_types::pem::PemObject;
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        // Whoever is let say something before the handshake is over does.
        config.enable_early_data = true;
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let mut transport = TransportConfig::default();
        // As agents do it: whoever dials keeps its connection alive.
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
        config.transport_config(Arc::new(transport));
        config
    }

    /// A connection, after its handshake, which the gateway may end only then.
    pub(crate) async fn dial(&self, endpoint: &Endpoint, gate: SocketAddr) -> Result<Connection, ConnectionError> {
        let connection = endpoint.connect_with(self.config(), gate, "localhost").unwrap().await?;
        // A client's certificate is judged after the client has all it needs.
        match tokio::time::timeout(Duration::from_millis(300), connection.closed()).await {
            Ok(why) => Err(why),
            Err(_) => Ok(connection),
        }
    }
}

/// Whoever dials, on a port of loopback.
pub(crate) fn endpoint() -> Endpoint {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap()
}

/// Where all of this runs.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What asks for a tunnel for an endpoint.
pub(crate) fn hello(endpoint: &str, more: &str) -> String {
    format!(
        "GET /piko/v1/upstream/{endpoint} HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: tidegate/1\r\n\
         x-tidegate-features: retry, reuse, half-close\r\n{more}\r\n"
    )
}

/// Says this on the first stream; the answer's head, and the stream.
pub(crate) async fn ask(connection: &Connection, says: &str) -> (String, SendStream, RecvStream) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(says.as_bytes()).await.unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(recv.read(&mut byte).await, Ok(Some(_))) {
        head.extend_from_slice(&byte);
    }
    (String::from_utf8(head).unwrap(), send, recv)
}
