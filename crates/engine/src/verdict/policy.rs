//! What a listener or route asks for, and what a head shows of that.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::cache::Digest;
use crate::credential::head::{self, Credential, Shows};
use crate::error::{Code, Error, Result};
use crate::message::{Fields, is_value};
use crate::snapshot::DynamicEndpoints;
use crate::snapshot::auth::{Auth, Neighbours, VerifierSet};

/// Who may come in by a listener or take a route.
#[derive(Default)]
pub struct Access {
    /// From where.
    pub neighbours: Neighbours,
    /// The owner of what it leads to, where nothing else says; empty where there are no tenants.
    pub tenant: Arc<str>,
    /// Which endpoints a request may name by itself; none where that is nothing that requests come by.
    pub dynamic: DynamicEndpoints,
    /// With what credential; none: with any or none.
    pub policy: Option<Arc<Policy>>,
}

/// Which credentials are taken.
pub struct Policy {
    set: Option<Arc<VerifierSet>>,
    by_tenant: Option<HashMap<String, Arc<VerifierSet>>>,
    basic: Option<Arc<str>>,
    certificate: Option<Arc<str>>,
    realm: String,
    /// `Authorization` is passed on although it was the credential.
    pub pass: bool,
    /// A tunnel ends with its token.
    pub disconnect_on_expiry: bool,
    /// Where credentials are shown.
    by: Shows,
}

/// Something to be asked.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// What it is asked under.
    pub id: &'a str,
    /// The tenant that is asked for; empty where none is.
    pub tenant: &'a str,
    /// What is shown.
    pub evidence: Evidence<'a>,
}

/// What vouches for somebody.
#[derive(Clone, Copy)]
pub enum Evidence<'a> {
    /// A bearer token, and what it has to look like.
    Token(&'a str, &'a VerifierSet),
    /// A name and a password.
    Password(&'a str, &'a str),
    /// The leaf of a client's certificate, in DER, which TLS has checked.
    Certificate(&'a [u8]),
}

fn sha256<const N: usize>(parts: [&[u8]; N]) -> Digest {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Digest(digest)
}

impl Ask<'_> {
    /// What tells this question apart from every other one.
    pub fn digest(&self) -> Digest {
        let (kind, first, second): (u8, &[u8], &[u8]) = match self.evidence {
            Evidence::Token(token, _) => (0, token.as_bytes(), b""),
            Evidence::Password(user, password) => (1, user.as_bytes(), password.as_bytes()),
            Evidence::Certificate(der) => (2, der, b""),
        };
        let mut lengths = [0; 13];
        lengths[0] = kind;
        for (at, part) in [self.id.as_bytes(), self.tenant.as_bytes(), first].iter().enumerate() {
            lengths[1 + 4 * at..5 + 4 * at].copy_from_slice(&(part.len() as u32).to_le_bytes());
        }
        // With their lengths in front no part can end in what another one begins with.
        sha256([&lengths, self.id.as_bytes(), self.tenant.as_bytes(), first, second])
    }

    /// What tells the credential apart, whatever it is asked under. A token's signature is no part of it: of some there
    /// are several that are good.
    pub fn credential(&self) -> Digest {
        match self.evidence {
            Evidence::Token(token, _) => {
                let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
                sha256([b"token", signed.as_bytes()])
            }
            Evidence::Password(user, _) => sha256([b"user:", user.as_bytes()]),
            Evidence::Certificate(der) => sha256([b"certificate", der]),
        }
    }
}

/// What a head shows, to be asked about.
pub struct Shown<'a> {
    tenant: Option<&'a str>,
    credential: Credential<'a>,
    /// It stood in `Authorization`, which an upstream would see.
    pub in_authorization: bool,
}

impl Policy {
    /// What `auth` asks for, with the sets of the same snapshot; `by` says where it is shown.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn compile(auth: &Auth, by: Shows, sets: &[VerifierSet]) -> Result<Arc<Policy>, String> {
        let of = |id: &String| {
            let set = sets.iter().find(|set| set.id == *id);
            set.cloned().map(Arc::new).ok_or_else(|| format!("there is no verifier set \"{id}\""))
        };
        let by_tenant = auth
            .by_tenant
            .as_ref()
            .map(|sets| sets.iter().map(|(tenant, id)| Ok((tenant.clone(), of(id)?))).collect::<Result<_, String>>());
        if auth.ids().next().is_none() && auth.by_tenant.is_none() {
            return Err("auth takes no credential".to_owned());
        }
        if !is_value(auth.realm.as_bytes()) {
            return Err("the realm has control characters".to_owned());
        }
        Ok(Arc::new(Policy {
            set: auth.set.as_ref().map(of).transpose()?,
            by_tenant: by_tenant.transpose()?,
            basic: auth.basic.as_deref().map(Arc::from),
            certificate: auth.certificate.as_deref().map(Arc::from),
            realm: auth.realm.replace('\\', "\\\\").replace('"', "\\\""),
            pass: auth.pass,
            disconnect_on_expiry: auth.disconnect_on_expiry,
            by,
        }))
    }

    /// The kinds of credentials that it takes, in words.
    pub fn takes(&self) -> Vec<&'static str> {
        let kinds = [
            (self.set.is_some() || self.by_tenant.is_some(), "token"),
            (self.basic.is_some(), "password"),
            (self.certificate.is_some(), "certificate"),
        ];
        kinds.into_iter().filter(|(taken, _)| *taken).map(|(_, word)| word).collect()
    }

    fn takes_fields(&self) -> bool {
        self.set.is_some() || self.by_tenant.is_some() || self.basic.is_some()
    }

    /// What a head shows that may be asked about; none where only the connection can.
    ///
    /// # Errors
    /// What it shows cannot be read.
    pub fn shown<'a>(&self, fields: &'a Fields, has_certificate: bool) -> Result<Option<Shown<'a>>> {
        let tenant = head::tenant(fields).map_err(|error| self.challenge(error))?;
        let by_connection = has_certificate && self.certificate.is_some();
        if !self.takes_fields() {
            return Ok(None);
        }
        let shown = match head::find(fields, self.by) {
            Ok(shown) => shown,
            // What is meant for the service behind us is no credential of ours.
            Err(error) if by_connection && error.code != Code::MalformedRequest => None,
            Err(error) => return Err(self.challenge(error)),
        };
        let taken = |credential: &Credential<'_>| match credential {
            Credential::Token(_) => self.set.is_some() || self.by_tenant.is_some(),
            Credential::Password { .. } => self.basic.is_some(),
        };
        match shown {
            Some(shown) if taken(&shown.credential) => {
                Ok(Some(Shown { tenant, credential: shown.credential, in_authorization: shown.in_authorization }))
            }
            None | Some(_) if by_connection => Ok(None),
            None => Err(self.missing(tenant)),
            Some(_) => Err(self.challenge(Error::new(Code::UnsupportedAuthType, ""))),
        }
    }

    fn missing(&self, tenant: Option<&str>) -> Error {
        let code = match &self.by_tenant {
            Some(sets) if self.set.is_none() && self.basic.is_none() => match tenant {
                Some(tenant) if sets.contains_key(tenant) => Code::MissingAuthorization,
                _ => Code::UnknownTenant,
            },
            _ if self.by == Shows::ToProxy => Code::ProxyAuthorizationRequired,
            _ => Code::MissingAuthorization,
        };
        self.challenge(Error::new(code, ""))
    }

    /// The question about what was shown, by a head or, where that shows nothing, by the connection.
    ///
    /// # Errors
    /// There is nothing to ask.
    pub fn ask<'a>(
        &'a self,
        shown: Option<&'a Shown<'_>>,
        fields: &'a Fields,
        certificate: Option<&'a [u8]>,
    ) -> Result<Ask<'a>> {
        let Some(shown) = shown else {
            let tenant = head::tenant(fields).map_err(|error| self.challenge(error))?.unwrap_or_default();
            return match (&self.certificate, certificate) {
                (Some(id), Some(der)) => Ok(Ask { id, tenant, evidence: Evidence::Certificate(der) }),
                _ => Err(self.missing(None)),
            };
        };
        let tenant = shown.tenant.unwrap_or_default();
        match (&shown.credential, &self.basic) {
            (Credential::Token(token), _) => {
                let own = self.by_tenant.as_ref().and_then(|sets| sets.get(tenant));
                // A tenant that has no verifiers of its own has none of another one's.
                let usual = self.set.as_ref().filter(|_| self.by_tenant.is_none() || tenant.is_empty());
                let set = own.or(usual).ok_or_else(|| self.challenge(Error::new(Code::UnknownTenant, "")))?;
                Ok(Ask { id: &set.id, tenant, evidence: Evidence::Token(token, set) })
            }
            (Credential::Password { user, password }, Some(id)) => {
                Ok(Ask { id, tenant, evidence: Evidence::Password(user, password) })
            }
            (Credential::Password { .. }, None) => Err(self.challenge(Error::new(Code::UnsupportedAuthType, ""))),
        }
    }

    /// The error with what to show instead in its answer, as every 401 and 407 has it (RFC 9110 §11.6.1, §11.7.1): a
    /// challenge for each kind that is taken.
    pub fn challenge(&self, error: Error) -> Error {
        if !matches!(error.code.status(), 401 | 407) {
            return error;
        }
        let field = match self.by {
            Shows::ToService => "WWW-Authenticate",
            Shows::ToProxy => "Proxy-Authenticate",
        };
        let mut error = error;
        if self.set.is_some() || self.by_tenant.is_some() {
            let why = match error.code {
                Code::InvalidToken | Code::ExpiredToken => ", error=\"invalid_token\"",
                _ => "",
            };
            error = error.with(field, format!("Bearer realm=\"{}\"{why}", self.realm));
        }
        if self.basic.is_some() {
            error = error.with(field, format!("Basic realm=\"{}\", charset=\"UTF-8\"", self.realm));
        }
        if self.certificate.is_some() {
            // No scheme is registered for what TLS shows; an unknown one says to any client that it has none of these.
            error = error.with(field, format!("Certificate realm=\"{}\"", self.realm));
        }
        error
    }
}
