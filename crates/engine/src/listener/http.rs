//! Connections of a listener of kind http.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::io::Buffer;
use crate::proxy::serve::{Connection, serve};
use crate::proxy::shared::Proxy;
use crate::proxy::site::{HttpListener, Site};
use crate::room::Place;

/// Serves an accepted connection.
pub async fn connection(
    proxy: Arc<Proxy>,
    worker: usize,
    listener: Arc<HttpListener>,
    stream: TcpStream,
    client: SocketAddr,
    place: Place,
) {
    let connection = Connection {
        io: Box::new(stream),
        read: Buffer::new(),
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
