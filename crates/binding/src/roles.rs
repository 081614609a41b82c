//! A running role as a Python object.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use tidegate_engine::event::Events;
use tidegate_engine::roles;
use tidegate_engine::verdict::Kind;

use crate::errors::{EngineError, raised};

/// A running gateway, agent or forward.
#[pyclass(frozen, module = "tidegate._engine")]
pub(crate) struct Role {
    role: Box<dyn roles::Role>,
    events: Arc<Events>,
}

#[pymethods]
impl Role {
    /// Readable while events wait.
    #[getter]
    fn event_fd(&self) -> i32 {
        self.events.fd()
    }

    /// Takes the events that wait, each a JSON object.
    fn events(&self) -> Vec<Cow<'static, [u8]>> {
        self.events.take().into_iter().map(Cow::Owned).collect()
    }

    /// Replaces the whole configuration, or raises and changes nothing.
    fn apply(&self, py: Python<'_>, snapshot: &[u8]) -> PyResult<()> {
        py.detach(|| {
            let _subscribed = tidegate_engine::event::subscribe(&self.events);
            roles::read(snapshot).and_then(|snapshot| self.role.apply(snapshot))
        })
        .map_err(raised)
    }

    /// The state of everything, one JSON object.
    fn status(&self, py: Python<'_>) -> Cow<'static, [u8]> {
        Cow::Owned(py.detach(|| self.role.status().to_string().into_bytes()))
    }

    /// Routes and upstreams, one JSON object.
    fn lists(&self, py: Python<'_>) -> Cow<'static, [u8]> {
        Cow::Owned(py.detach(|| self.role.lists().to_string().into_bytes()))
    }

    /// All metrics in Prometheus' text format.
    fn metrics(&self, py: Python<'_>) -> Cow<'static, [u8]> {
        Cow::Owned(py.detach(|| self.role.metrics().into_bytes()))
    }

    /// What becomes of a request, and why, one JSON object.
    fn explain(&self, py: Python<'_>, question: &[u8]) -> PyResult<Cow<'static, [u8]>> {
        let told = py.detach(|| roles::question(question).and_then(|question| self.role.explain(&question)));
        told.map(|told| Cow::Owned(told.to_string().into_bytes())).map_err(EngineError::new_err)
    }

    /// Waits for the next question about a credential, one JSON object.
    fn next_question(&self, py: Python<'_>, kind: &str, timeout: f64) -> PyResult<Option<Cow<'static, [u8]>>> {
        let kind = Kind::of(kind).ok_or_else(|| EngineError::new_err(format!("\"{kind}\" is no kind of question")))?;
        let timeout = Duration::try_from_secs_f64(timeout).map_err(|error| EngineError::new_err(error.to_string()))?;
        Ok(py.detach(|| self.role.next_question(kind, timeout)).map(Cow::Owned))
    }

    /// Answers a question.
    fn answer(&self, py: Python<'_>, number: u64, verdict: &[u8]) -> PyResult<()> {
        py.detach(|| self.role.answer(number, verdict)).map_err(EngineError::new_err)
    }

    /// Ends what was verified by these keys.
    fn revoke(&self, py: Python<'_>, keys: Vec<String>) -> usize {
        py.detach(|| self.role.revoke(&keys))
    }

    /// Shows this token to gateways from the next connection on.
    fn set_token(&self, token: &[u8]) -> PyResult<()> {
        let token = std::str::from_utf8(token).map_err(|error| EngineError::new_err(error.to_string()))?;
        self.role.set_token(token.to_owned()).map_err(EngineError::new_err)
    }

    /// Keeps events up to this level: error, warn, info, debug, trace.
    fn set_level(&self, level: &str) -> PyResult<()> {
        let rank = ["error", "warn", "info", "debug", "trace"].iter().position(|word| *word == level);
        let rank = rank.ok_or_else(|| EngineError::new_err(format!("\"{level}\" is no level")))?;
        self.events.set_level(rank as u8 + 1);
        Ok(())
    }

    /// Begins to leave.
    fn drain(&self, grace: f64) -> PyResult<()> {
        let grace = Duration::try_from_secs_f64(grace).map_err(|error| EngineError::new_err(error.to_string()))?;
        let _subscribed = tidegate_engine::event::subscribe(&self.events);
        self.role.drain(grace);
        Ok(())
    }

    /// Ends everything now.
    fn stop(&self) {
        self.role.stop();
    }
}

/// What would become of a request under a snapshot, and why, one JSON object.
#[pyfunction]
pub(crate) fn explain(py: Python<'_>, snapshot: &[u8], question: &[u8]) -> PyResult<Cow<'static, [u8]>> {
    let told = py.detach(|| {
        let snapshot = roles::read(snapshot).map_err(raised)?;
        let told = roles::question(question).and_then(|question| roles::explain(snapshot, &question));
        told.map_err(EngineError::new_err)
    })?;
    Ok(Cow::Owned(told.to_string().into_bytes()))
}

/// Starts what the snapshot describes.
#[pyfunction]
pub(crate) fn start(py: Python<'_>, snapshot: &[u8]) -> PyResult<Role> {
    py.detach(|| {
        let events = Events::new().map_err(roles::StartError::from)?;
        let role = roles::start(roles::read(snapshot)?, &events)?;
        Ok(Role { role, events })
    })
    .map_err(raised)
}
