//! Errors of the engine as Python's exceptions.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tidegate_engine::error::Code;
use tidegate_engine::roles::StartError;

create_exception!(tidegate._engine, EngineError, PyException, "The engine could not do what was asked.");
create_exception!(tidegate._engine, ListenError, EngineError, "An address could not be bound.");
create_exception!(tidegate._engine, SnapshotError, EngineError, "The snapshot was refused whole; nothing changed.");

/// The exception for an error of starting or applying.
pub(crate) fn raised(error: StartError) -> PyErr {
    match error {
        StartError::Listen(error) => {
            let errno = error.error.raw_os_error().unwrap_or_default();
            ListenError::new_err((error.to_string(), error.listener, error.address.to_string(), errno))
        }
        StartError::Snapshot(why) => SnapshotError::new_err(why),
        StartError::System(error) => EngineError::new_err(error.to_string()),
    }
}

/// The one list of error codes.
pub(crate) fn codes() -> Vec<(&'static str, u16, &'static str, &'static str)> {
    Code::ALL.iter().map(|code| (code.as_str(), code.status(), code.message(), code.meaning().trim())).collect()
}
