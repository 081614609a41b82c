//! What TLS settles about a connection before its first request: whose it is, and which requests may come by it.
//!
//! One function decides what becomes of a server name, and the same function says later whether a request's Host
//! belongs to the connection it came by: no Host walks around what its own server name would have met. Neither needs a
//! connection, so that `explain` asks them too.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::shared::Proxy;
use super::site::{HttpListener, Site};
use super::table::Table;
use crate::error::{Code, Error, Result};
use crate::http1::target;
use crate::message::{Known, RequestHead, Version};
use crate::route::server_name::Decision;
use crate::sniff::name;
use crate::tls::server::{Acceptor, CertificateNames};
use crate::tunnel::Session;

/// What becomes of a TLS connection on a listener of kind http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed through, to where the route at this position leads.
    PassThrough(usize),
    /// Its TLS ends here, and it is shown the certificate at this position.
    Terminate(usize),
    /// Nobody here has its name.
    Unknown,
}

/// What a listener of kind http goes by, besides the routes.
pub struct Rules<'a> {
    /// Its name.
    pub listener: &'a str,
    /// The names of what it shows; none: it ends no TLS.
    pub certificates: Option<&'a CertificateNames>,
    /// A request may name an endpoint by itself.
    pub names_endpoints: bool,
}

impl<'a> Rules<'a> {
    /// Those of a listener that is open, by `table`. `acceptor`: what ends TLS on it, if anything.
    pub fn of(listener: &'a HttpListener, table: &Table, acceptor: Option<&'a Acceptor>) -> Rules<'a> {
        let names_endpoints = listener.access(table).dynamic.permits_any();
        Rules { listener: &listener.name, certificates: acceptor.map(Acceptor::names), names_endpoints }
    }

    /// What becomes of a connection for `name`, in normal form.
    ///
    /// Routes come first. Where TLS ends here the certificate for the name is shown; the first one where there is no
    /// name, or where there is no certificate for it and a request could still be answered.
    pub fn fate_of(&self, name: Option<&str>, table: &Table) -> Fate {
        match (table.decide(self.listener, name, self.certificates.is_some()), self.certificates) {
            (Decision::PassThrough(position), _) => Fate::PassThrough(position),
            (Decision::Unknown, _) | (_, None) => Fate::Unknown,
            (Decision::Terminate, Some(certificates)) => {
                let Some(name) = name else { return Fate::Terminate(0) };
                match certificates.find(name) {
                    Some(certificate) => Fate::Terminate(certificate),
                    None if table.answers(self.listener, name) || self.names_endpoints => Fate::Terminate(0),
                    None => Fate::Unknown,
                }
            }
        }
    }

    /// Refuses a request whose Host would not have led to the connection it came by (RFC 9110 §15.5.20), of which
    /// `ours` was decided. `shared`: it came by HTTP/2.
    ///
    /// In HTTP/2, where connections are shared between names, the name has to have the same certificate. In HTTP/1 it
    /// must not be one that is passed through: nobody gets to see its requests, nor to answer them.
    pub fn admit(&self, ours: Fate, head: &RequestHead, shared: bool, table: &Table) -> Result<()> {
        let (host, _) = target::split(head.fields.get(Known::Host).unwrap_or_default());
        let host = if name::is_ip(host) { None } else { name::normal(host) };
        match self.fate_of(host.as_deref(), table) {
            Fate::Terminate(_) | Fate::Unknown if !shared => Ok(()),
            theirs if theirs == ours => Ok(()),
            _ => Err(Error::new(Code::Misdirected, "open another connection, with this host as its server name")),
        }
    }
}

/// A connection whose TLS ended here.
pub struct Secured {
    /// The certificate that the downstream has shown, checked against `client_ca`; none where it showed none.
    pub client: Option<CertificateDer<'static>>,
    /// It speaks HTTP/2.
    pub http2: bool,
    /// What was decided by the name.
    pub fate: Fate,
    /// What ended TLS.
    pub acceptor: Arc<Acceptor>,
    /// The session that it is a stream of, where it is one.
    pub session: Option<Within>,
}

/// A session that connections are streams of, as it was when one of them began.
pub struct Within {
    /// The session.
    pub session: Session,
    /// Where its other end was.
    pub from: IpAddr,
    /// Dropped with the connection, whoever serves it then.
    pub stay: Box<dyn Send + Sync>,
}

impl Within {
    /// Refuses what is asked in the name of an address that the session has left.
    fn admit(&self) -> Result<()> {
        match self.session.remote() {
            Some(now) if now.ip().to_canonical() != self.from => {
                Err(Error::new(Code::Misdirected, "the address has changed: open another stream"))
            }
            _ => Ok(()),
        }
    }
}

impl Secured {
    /// Refuses a request that does not belong to this connection.
    pub fn admit(&self, head: &RequestHead, site: &Site, proxy: &Proxy) -> Result<()> {
        let Site::Listener(listener) = site else { return Ok(()) };
        self.session.as_ref().map_or(Ok(()), Within::admit)?;
        let (table, shared) = (proxy.table.load(), head.version == Version::Http2);
        if !shared && !table.pass_through() {
            return Ok(());
        }
        Rules::of(listener, &table, Some(&self.acceptor)).admit(self.fate, head, shared, &table)
    }
}
