//! Who may take the way that a request takes: from where, and with what credential.
//!
//! Decided on the head that is routed, after the route was found and before anything is said about where it leads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::secured::Secured;
use super::shared::Proxy;
use super::site::Site;
use super::table::{Lead, Table};
use crate::allowance::TooMuch;
use crate::error::{Code, Error, Result};
use crate::forwarded::Visitor;
use crate::identity::Identity;
use crate::message::{Fields, RequestHead};
use crate::verdict::Policy;

/// How long a request may wait for a verdict: longer than a key may take to be fetched.
pub const WITHIN: Duration = Duration::from_secs(10);

/// Somebody who was let in.
pub struct Admitted {
    /// Who that is.
    pub identity: Arc<Identity>,
    /// `Authorization` was the credential, and ends here.
    pub hides: bool,
}

/// Something that is asked for before a request goes on.
pub enum Demand {
    /// Nothing.
    Nothing,
    /// A credential, and whose it is is known.
    Known(Admitted),
    /// A credential that has to be looked at.
    Credential(Arc<Policy>),
}

/// What a request is asked for, on its way by `lead` of `table` or by the name that it says itself. Waits for nothing.
///
/// # Errors
/// It comes from where nobody may come from, or shows nothing that could be asked about.
pub fn demand(
    proxy: &Proxy,
    site: &Site,
    table: &Table,
    lead: Option<&Lead>,
    head: &RequestHead,
    visitor: &Visitor,
    secured: Option<&Secured>,
) -> Result<Demand> {
    let Site::Listener(listener) = site else { return Ok(Demand::Nothing) };
    let access = listener.access(table);
    let from = visitor.client.ip();
    if !access.neighbours.admit(from) || lead.is_some_and(|lead| !lead.neighbours.admit(from)) {
        return Err(Error::new(Code::AddressDenied, ""));
    }
    let usual = access.policy.as_ref();
    let policy = lead.map_or(usual, |lead| lead.policy(usual));
    let Some(policy) = policy else { return Ok(Demand::Nothing) };
    let certificate = secured.and_then(|secured| secured.client.as_deref());
    let known = || -> Result<Option<Admitted>> {
        let shown = policy.shown(&head.fields, certificate.is_some())?;
        let ask = policy.ask(shown.as_ref(), &head.fields, certificate)?;
        let hides = !policy.pass && shown.as_ref().is_some_and(|shown| shown.in_authorization);
        Ok(proxy.verdicts.known(&ask.digest()).map(|identity| Admitted { identity, hides }))
    };
    match known() {
        Ok(Some(admitted)) => Ok(Demand::Known(admitted)),
        Ok(None) => Ok(Demand::Credential(policy.clone())),
        Err(error) => {
            proxy.verdicts.count(error.code);
            Err(error)
        }
    }
}

/// Finds out who shows what a policy asks for.
///
/// # Errors
/// Whatever speaks against it.
pub async fn admit(
    proxy: &Proxy,
    policy: &Policy,
    head: &RequestHead,
    visitor: &Visitor,
    secured: Option<&Secured>,
) -> Result<Admitted> {
    let certificate = secured.and_then(|secured| secured.client.as_deref());
    let shown = policy.shown(&head.fields, certificate.is_some())?;
    let ask = policy.ask(shown.as_ref(), &head.fields, certificate)?;
    let identity = proxy.verdicts.judge(&ask, ask.digest(), visitor.client.ip(), WITHIN).await;
    let hides = !policy.pass && shown.as_ref().is_some_and(|shown| shown.in_authorization);
    identity.map(|identity| Admitted { identity, hides }).map_err(|error| policy.challenge(error))
}

/// Finds out whose the credential of a head is, or the certificate of its connection, for a whole connection.
///
/// # Errors
/// Whatever speaks against it.
pub async fn identify(
    proxy: &Proxy,
    policy: &Policy,
    fields: &Fields,
    certificate: Option<&[u8]>,
    from: IpAddr,
) -> Result<Arc<Identity>> {
    let counted = |error: Error| {
        proxy.verdicts.count(error.code);
        error
    };
    let shown = policy.shown(fields, certificate.is_some()).map_err(counted)?;
    let ask = policy.ask(shown.as_ref(), fields, certificate).map_err(counted)?;
    proxy.verdicts.judge(&ask, ask.digest(), from, WITHIN).await.map_err(|error| policy.challenge(error))
}

/// Why somebody gets no more, as an answer.
pub fn too_many(too_much: TooMuch) -> Error {
    let seconds = too_much.after.as_secs_f64().ceil().clamp(1.0, 3600.0);
    Error::new(Code::TooMany, format!("more {} than are allowed", too_much.what))
        .with("Retry-After", seconds.to_string())
}
