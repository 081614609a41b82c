//! TLS towards whoever connects: which certificate is shown, whose are believed, and the stream that results.
//!
//! The hello has been read before (`sniff::tls`) and the certificate is chosen by the name in it, so that routes, logs
//! and certificates go by one form of a name. The caller has the deadline.

use std::io;
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

use super::pem::{authorities, certificates, provider};
use super::stream::Encrypted;
use crate::io::BoxedIo;
use crate::snapshot::{Certificate, ClientCertificate, ServerTls, TlsVersion};

/// Sessions of TLS 1.2 that are kept for clients without tickets; a few hundred bytes each.
const SESSIONS: usize = 1024;

/// Ends TLS under one policy. Sessions are resumed on every worker, and never under another policy.
pub struct Acceptor {
    policy: ServerTls,
    protocols: &'static [&'static [u8]],
    /// One for each certificate.
    configs: Vec<Arc<ServerConfig>>,
    names: CertificateNames,
}

/// What a handshake has agreed on.
pub struct Agreed {
    /// HTTP/2 is spoken.
    pub http2: bool,
    /// The certificate that the client has shown and proved to hold, checked against `client_ca`.
    pub client: Option<CertificateDer<'static>>,
    /// An earlier session goes on.
    pub resumed: bool,
}

/// A handshake that failed: why, and the connection, on which an alert may still be on its way.
pub type Failed = (io::Error, BoxedIo);

impl Acceptor {
    /// Compiles a policy that has a certificate, or says in one sentence what is wrong with it. `protocols` are offered
    /// by ALPN, the preferred one first; none: whatever the client offers is let be.
    pub fn new(policy: &ServerTls, protocols: &'static [&'static [u8]]) -> Result<Acceptor, String> {
        let names = CertificateNames::of(&policy.certificates)?;
        let keys: Vec<CertifiedKey> = policy.certificates.iter().map(certified).collect::<Result<_, _>>()?;
        let verifier = verifier(policy)?;
        // Without a client's certificate a session stands for nobody. With one it would outlive what made it good.
        let resumes = policy.client_ca.is_none();
        let failed = |error: rustls::Error| format!("TLS cannot be used: {error}");
        let ticketer = if resumes { Some(Ticketer::new().map_err(failed)?) } else { None };
        let storage: Arc<dyn rustls::server::StoresServerSessions> = match resumes {
            true => ServerSessionMemoryCache::new(SESSIONS),
            false => Arc::new(NoServerSessionStorage {}),
        };
        let mut configs = Vec::new();
        for key in keys {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(versions(policy.min_version))
                .map_err(failed)?
                .with_client_cert_verifier(verifier.clone())
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config.session_storage = storage.clone();
            match &ticketer {
                Some(ticketer) => config.ticketer = ticketer.clone(),
                None => config.send_tls13_tickets = 0,
            }
            configs.push(Arc::new(config));
        }
        Ok(Acceptor { policy: policy.clone(), protocols, configs, names })
    }

    /// True when it was made from the same: then its tickets are to go on.
    pub fn is_of(&self, policy: &ServerTls, protocols: &[&[u8]]) -> bool {
        self.policy == *policy && self.protocols == protocols
    }

    /// Which certificate has which name.
    pub fn names(&self) -> &CertificateNames {
        &self.names
    }

    /// Shakes hands over `io`, from the first byte of the hello on, and shows this certificate.
    pub async fn accept(&self, io: BoxedIo, certificate: usize) -> Result<(BoxedIo, Agreed), Failed> {
        let Some(config) = self.configs.get(certificate) else {
            return Err((io::ErrorKind::NotFound.into(), io));
        };
        let stream = TlsAcceptor::from(config.clone()).accept(io).into_fallible().await?;
        let (_, tls) = stream.get_ref();
        let agreed = Agreed {
            http2: tls.alpn_protocol() == Some(b"h2"),
            client: tls.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned()),
            resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        };
        Ok((Box::new(Encrypted::new(stream)), agreed))
    }
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    }
}

fn chain(certificate: &Certificate) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&certificate.cert, &format!("certificate \"{}\": its file", certificate.name))
}

/// A certificate with its key, which must be its own.
pub(super) fn certified(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let name = &certificate.name;
    let chain = chain(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose().as_bytes())
        .map_err(|_| format!("certificate \"{name}\": its key file holds no PEM private key"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!("certificate \"{name}\": the key belongs to another certificate"),
        error => format!("certificate \"{name}\": it cannot be used: {error}"),
    })
}

/// Whose certificates are believed. An authority that cannot be read closes the door: it never opens it.
pub(super) fn verifier(policy: &ServerTls) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(pem) = &policy.client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let roots = Arc::new(authorities(pem, "client_ca")?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match policy.client_certificate {
        ClientCertificate::Required => builder,
        ClientCertificate::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| format!("client_ca cannot be used: {error}"))
}

/// The names of certificates, and which certificate each is of.
#[derive(Default)]
pub struct CertificateNames {
    exact: HashMap<Box<str>, usize>,
    /// By what follows `*.`
    wildcard: HashMap<Box<str>, usize>,
}

impl CertificateNames {
    /// Reads the names, or says which certificate cannot be read. Keys are not looked at.
    pub fn of(certificates: &[Certificate]) -> Result<CertificateNames, String> {
        let mut names = CertificateNames::default();
        for (position, certificate) in certificates.iter().enumerate() {
            let chain = chain(certificate)?;
            let leaf = chain.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
            for name in leaf.iter().flat_map(|leaf| leaf.valid_dns_names()) {
                names.add(name, position);
            }
        }
        Ok(names)
    }

    /// The certificate for a server name in normal form: the first of those with this very name, else the first of
    /// those with a wildcard in the place of its first label.
    pub fn find(&self, name: &str) -> Option<usize> {
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(parent).copied()
    }

    fn add(&mut self, name: &str, certificate: usize) {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.into()).or_insert(certificate),
            None => self.exact.entry(name.into_boxed_str()).or_insert(certificate),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label_and_behind_the_very_name() {
        let mut names = CertificateNames::default();
        names.add("*.Example.com", 0);
        names.add("a.example.com.", 1);
        names.add("a.example.com", 2);
        assert_eq!(names.find("a.example.com"), Some(1));
        assert_eq!(names.find("b.example.com"), Some(0));
        assert_eq!(names.find("example.com"), None);
        assert_eq!(names.find("b.c.example.com"), None);
        assert_eq!(names.find("com"), None);
    }
}
