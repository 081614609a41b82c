//! The first bytes of a connection as strangers send them: what is read, what is refused, and that neither depends on
//! how the bytes were cut.

mod client_hello;
mod proxy_header;

/// The ClientHello that rustls sends for a name, in one record.
pub(crate) fn hello_of_rustls(name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written to memory");
    bytes
}

/// A ClientHello made by hand.
#[derive(Clone)]
pub(crate) struct Made {
    /// Bytes of the session id.
    pub session: Vec<u8>,
    /// Types and contents.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Made {
    /// A hello without a name.
    pub(crate) fn new() -> Self {
        Made { session: vec![7; 32], extensions: vec![(43, vec![2, 3, 4])] }
    }

    /// A hello with one server name.
    pub(crate) fn named(name: &[u8]) -> Self {
        Made::new().and(0, &names(&[(0, name)]))
    }

    /// The same with another extension.
    pub(crate) fn and(mut self, kind: u16, content: &[u8]) -> Self {
        self.extensions.push((kind, content.to_vec()));
        self
    }

    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, content) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(long(content));
        }
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.push(self.session.len() as u8);
        body.extend(&self.session);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        body.extend(long(&extensions));
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
    }

    /// The message in one record.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        record(&self.message())
    }
}

/// The content of a server_name extension.
pub(crate) fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend(long(name));
    }
    long(&list)
}

/// Bytes with a length of two bytes before them.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A handshake record.
pub(crate) fn record(content: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &long(content)].concat()
}
