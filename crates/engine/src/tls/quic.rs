//! TLS inside QUIC, by the same policies as over TCP: version 1.3 only, no early data, nothing is resumed.
//!
//! Which addresses are dialled or bound, and with which transport parameters, is decided above.

use std::fmt;
use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, client::Resumption};

use super::client::{config, server_name};
use super::pem::provider;
use super::server::{CertificateNames, certified, verifier};
use crate::snapshot::{ClientTls, ServerTls};
use crate::sniff::name;

/// What a client believes and shows. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// For a `quinn::ClientConfig`.
    pub crypto: Arc<QuicClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Client {
    /// The name to expect from a server that was dialled as `host`.
    pub fn name(&self, host: &str) -> Result<String, String> {
        match &self.server_name {
            Some(name) => Ok(name.to_str().into_owned()),
            None => server_name(host).map(|name| name.to_str().into_owned()),
        }
    }
}

fn unusable(error: impl fmt::Display) -> String {
    format!("TLS cannot be used: {error}")
}

/// Compiles a client's policy, or says in one sentence what is wrong with it. `protocols` are offered by ALPN.
pub fn client(policy: &ClientTls, protocols: &[&[u8]]) -> Result<Client, String> {
    let mut config = config(policy, &[&TLS13])?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(config).map_err(|error: NoInitialCipherSuite| unusable(error))?;
    let server_name = policy.server_name.as_deref().map(server_name).transpose()?;
    Ok(Client { crypto: Arc::new(crypto), server_name })
}

/// Compiles a policy that has a certificate, or says in one sentence what is wrong with it. Whoever offers none of
/// `protocols` by ALPN is refused.
pub fn server(policy: &ServerTls, protocols: &[&[u8]]) -> Result<Arc<QuicServerConfig>, String> {
    let names = CertificateNames::of(&policy.certificates)?;
    let keys: Vec<Arc<CertifiedKey>> =
        policy.certificates.iter().map(|one| certified(one).map(Arc::new)).collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier(policy)?)
        .with_cert_resolver(Arc::new(Certificates { names, keys }));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // An agent connects rarely: what a session would save is not worth what it could carry over.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config).map_err(|error: NoInitialCipherSuite| unusable(error))?;
    Ok(Arc::new(crypto))
}

/// Chooses by the server name, in the one form of names; the first certificate where no name fits.
struct Certificates {
    names: CertificateNames,
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|asked| name::normal(asked.as_bytes()));
        let place = asked.and_then(|asked| self.names.find(&asked)).unwrap_or(0);
        self.keys.get(place).cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.keys.len())
    }
}
