//! The frontier between Python and the engine: conversion, no decisions.
//!
//! The manual of this module is `python/tidegate/_engine.pyi`; `make lint` proves one against the other.

mod errors;
mod roles;

use pyo3::prelude::*;

/// The extension module `tidegate._engine`.
#[pymodule]
mod _engine {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::errors::{EngineError, ListenError, SnapshotError};
    #[pymodule_export]
    use crate::roles::{Role, explain, start};

    /// Every error code: name, HTTP status, message, meaning.
    #[pyfunction]
    fn error_codes() -> Vec<(&'static str, u16, &'static str, &'static str)> {
        crate::errors::codes()
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("version", env!("CARGO_PKG_VERSION"))
    }
}
