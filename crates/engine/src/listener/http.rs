//! Connections of a listener of kind http.

use std::sync::Arc;

use super::arrive::Arrival;
use crate::proxy::secured::Secured;
use crate::proxy::serve::{Connection, serve};
use crate::proxy::serve_http2::serve_http2;
use crate::proxy::shared::Proxy;
use crate::proxy::site::{HttpListener, Site};

/// Serves a connection that has arrived.
pub async fn connection(
    proxy: Arc<Proxy>,
    worker: usize,
    listener: Arc<HttpListener>,
    arrival: Arrival,
    secured: Option<Arc<Secured>>,
) {
    let Arrival { io, read, client, place } = arrival;
    let connection = Connection {
        io,
        read,
        client,
        identity: proxy.anonymous.clone(),
        site: Site::Listener(listener),
        head: None,
        secured,
        place: Some(place),
        patient: false,
    };
    // Without TLS the first bytes tell.
    match &connection.secured {
        Some(secured) if secured.http2 => serve_http2(proxy, worker, connection).await,
        _ => serve(proxy, worker, connection).await,
    }
}
