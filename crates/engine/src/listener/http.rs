//! Connections of a listener of kind http.

use std::sync::Arc;

use super::arrive::Arrival;
use crate::io::Buffer;
use crate::proxy::serve::{Connection, serve};
use crate::proxy::shared::Proxy;
use crate::proxy::site::{HttpListener, Site};

/// Serves a connection that has arrived.
pub async fn connection(proxy: Arc<Proxy>, worker: usize, listener: Arc<HttpListener>, arrival: Arrival) {
    let Arrival { stream, read, client, place, .. } = arrival;
    let connection = Connection {
        io: Box::new(stream),
        read: Buffer::from(read),
        client,
        identity: proxy.anonymous.clone(),
        site: Site::Listener(listener),
        head: None,
        secured: None,
        place: Some(place),
        patient: false,
    };
    serve(proxy, worker, connection).await;
}
