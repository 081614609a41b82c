//! TLS towards a server: whom we trust and what we show.
//!
//! Dialling is `dial`'s; the caller has the deadline.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

use super::pem::{authorities, certificates, provider};
use super::stream::Encrypted;
use crate::io::BoxedIo;
use crate::snapshot::ClientTls;
use crate::snapshot::upstream::Protocol;

/// Makes TLS connections under one policy. Cheap to clone; sessions are resumed among clones.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Compiles a policy, or says in one sentence what is wrong with it.
    pub fn new(policy: &ClientTls) -> Result<Connector, String> {
        let config = config(policy, &[&TLS13, &TLS12])?;
        let server_name = policy.server_name.as_deref().map(server_name).transpose()?;
        Ok(Connector { tls: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// The same for another protocol: HTTP/2 is asked for by ALPN, and insisted on.
    pub fn speaking(mut self, protocol: Protocol) -> Connector {
        if protocol == Protocol::Http2 {
            let mut config = ClientConfig::clone(self.tls.config());
            config.alpn_protocols = vec![b"h2".to_vec()];
            self.tls = TlsConnector::from(Arc::new(config));
        }
        self
    }

    /// Shakes hands over `io`; `host` is the name or address that was dialled.
    pub async fn connect(&self, io: BoxedIo, host: &str) -> io::Result<BoxedIo> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        let stream = self.tls.connect(name, io).await?;
        // One that knows no ALPN would take the words of HTTP/2 for a broken request.
        if !self.tls.config().alpn_protocols.is_empty() && stream.get_ref().1.alpn_protocol().is_none() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it does not speak HTTP/2 (ALPN h2)"));
        }
        Ok(Box::new(Encrypted::new(stream)))
    }
}

/// Whom a policy trusts and what it shows.
pub(super) fn config(
    policy: &ClientTls,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, String> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let builder = if policy.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let roots = match &policy.ca {
            Some(pem) => Arc::new(authorities(pem, "the CA file")?),
            None => system_authorities()?,
        };
        builder.with_root_certificates(roots)
    };
    match (&policy.cert, &policy.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|_| "the client key is no PEM private key".to_owned())?;
            builder
                .with_client_auth_cert(certificates(cert, "the client certificate")?, key)
                .map_err(|error| format!("the client certificate and key cannot be used: {error}"))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
}

/// The system's authorities, read once in the life of the process.
fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    static AUTHORITIES: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = AUTHORITIES.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err(
            "the system has no certificate authorities (install ca-certificates, or name a file of your own)".into()
        );
    }
    Ok(Arc::clone(roots))
}

/// The name that a server's certificate must have, where `host` was dialled.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("{host:?} is no name that a certificate could have"))
}

/// Accepts whatever certificate is shown, but still wants proof that its key is held.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
