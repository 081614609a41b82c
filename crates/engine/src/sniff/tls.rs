//! What a ClientHello says, read before anything is answered: the server name decides whose connection it is.
//!
//! A hello may come in any number of TCP segments and TLS records; the verdict depends on its bytes alone, and the
//! first verdict is final. What is refused here, and with which alert (RFC 8446 §6.2):
//!
//! | what came | alert |
//! |---|---|
//! | SSLv2, or another major version | `protocol_version` |
//! | another record or message than a ClientHello, or an empty record | `unexpected_message` |
//! | a record of more than 16 KiB | `record_overflow` |
//! | a length that does not fit, an empty name or list, more than 64 KiB in all | `decode_error` |
//! | an extension twice, two host names | `illegal_parameter` |
//! | a server name that is no DNS name: NUL, over 253 bytes, `*` | `unrecognized_name` |
//!
//! An IP address as server name counts as none (RFC 6066 §3 forbids it, old clients send it). With Encrypted Client
//! Hello the outer name counts. The TLS handshake itself is rustls's, or the upstream's.

use super::name;

/// The most bytes that a hello may take, with the headers of its records.
pub const MAX_HELLO: usize = 64 * 1024;

/// The most bytes of one record.
const MAX_RECORD: usize = 1 << 14;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HOST_NAME: u8 = 0;
const SERVER_NAME: u16 = 0;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Not enough of them to tell.
    More,
    /// A whole ClientHello.
    Hello(ClientHello),
    /// Text: HTTP without TLS, or something like it.
    PlainHttp,
    /// Nothing that is served; to be answered with this.
    Refuse(Alert),
}

/// What a ClientHello says that we decide by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name it is for, in normal form (`sniff::name`).
    pub server_name: Option<String>,
}

/// A fatal alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// Not what has to come here.
    UnexpectedMessage = 10,
    /// A record that is too long.
    RecordOverflow = 22,
    /// No agreement is possible.
    HandshakeFailure = 40,
    /// Something that contradicts itself.
    IllegalParameter = 47,
    /// Lengths that do not fit, or too much.
    DecodeError = 50,
    /// A version that nobody should speak.
    ProtocolVersion = 70,
    /// A name that nobody here has.
    UnrecognizedName = 112,
}

impl Alert {
    /// The record that says it, before there are keys.
    pub fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }

    /// Its name in the RFCs, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Alert::UnexpectedMessage => "unexpected_message",
            Alert::RecordOverflow => "record_overflow",
            Alert::HandshakeFailure => "handshake_failure",
            Alert::IllegalParameter => "illegal_parameter",
            Alert::DecodeError => "decode_error",
            Alert::ProtocolVersion => "protocol_version",
            Alert::UnrecognizedName => "unrecognized_name",
        }
    }
}

/// Reads a hello that comes bit by bit; each byte is looked at once.
#[derive(Default)]
pub struct Sniffer {
    /// The handshake message, out of its records.
    message: Vec<u8>,
    /// Bytes of the connection that have been looked at.
    seen: usize,
    /// Bytes of the current record that are still to come.
    record_left: usize,
}

impl Sniffer {
    /// Looks at a connection's first bytes, all that there are so far. Once the answer is not [`Sniffed::More`] it is
    /// the last.
    pub fn sniff(&mut self, bytes: &[u8]) -> Sniffed {
        let within = &bytes[..bytes.len().min(MAX_HELLO)];
        match self.read(within) {
            Ok(None) if within.len() == MAX_HELLO => Sniffed::Refuse(Alert::DecodeError),
            Ok(None) => Sniffed::More,
            Ok(Some(hello)) => Sniffed::Hello(hello),
            Err(_) if within.first().is_some_and(u8::is_ascii_alphabetic) => Sniffed::PlainHttp,
            Err(alert) => Sniffed::Refuse(alert),
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, Alert> {
        // Known by its first byte, so that nobody waits for a record's header that will not come.
        match bytes.first() {
            None | Some(&HANDSHAKE) => {}
            // The two-byte length of SSLv2 has its highest bit set.
            Some(first) if *first >= 0x80 => return Err(Alert::ProtocolVersion),
            Some(_) => return Err(Alert::UnexpectedMessage),
        }
        loop {
            if self.record_left == 0 {
                let Some(header) = bytes.get(self.seen..self.seen + RECORD_HEADER) else { return Ok(None) };
                self.record_left = record_length(header)?;
                self.seen += RECORD_HEADER;
            }
            let here = &bytes[self.seen..(self.seen + self.record_left).min(bytes.len())];
            let needed = self.needed()?.saturating_sub(self.message.len());
            let taken = &here[..here.len().min(needed)];
            if taken.is_empty() {
                return Ok(None);
            }
            self.message.extend_from_slice(taken);
            self.seen += taken.len();
            self.record_left -= taken.len();
            let needed = self.needed()?;
            if self.message.len() == needed && needed > MESSAGE_HEADER {
                return hello(&self.message[MESSAGE_HEADER..]).map(Some);
            }
        }
    }

    /// The length of the whole message, as far as it is known.
    fn needed(&self) -> Result<usize, Alert> {
        let Some([kind, high, middle, low]) = self.message.first_chunk() else { return Ok(MESSAGE_HEADER) };
        if *kind != CLIENT_HELLO {
            return Err(Alert::UnexpectedMessage);
        }
        match usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low) {
            0 | MAX_HELLO.. => Err(Alert::DecodeError),
            length => Ok(MESSAGE_HEADER + length),
        }
    }
}

fn record_length(header: &[u8]) -> Result<usize, Alert> {
    let [kind, major, _, high, low] = *header else { return Err(Alert::DecodeError) };
    match usize::from(u16::from_be_bytes([high, low])) {
        _ if kind != HANDSHAKE => Err(Alert::UnexpectedMessage),
        _ if major != 3 => Err(Alert::ProtocolVersion),
        0 => Err(Alert::UnexpectedMessage),
        length if length > MAX_RECORD => Err(Alert::RecordOverflow),
        length => Ok(length),
    }
}

/// Reads the body of a ClientHello (RFC 8446 §4.1.2).
fn hello(body: &[u8]) -> Result<ClientHello, Alert> {
    let mut rest = Reader(body);
    if rest.u16()? >> 8 != 3 {
        return Err(Alert::ProtocolVersion);
    }
    rest.take(32)?;
    let session = rest.short()?;
    let ciphers = rest.long()?;
    let compressions = rest.short()?;
    if session.0.len() > 32 || ciphers.0.is_empty() || ciphers.0.len() % 2 != 0 || compressions.0.is_empty() {
        return Err(Alert::DecodeError);
    }
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = rest.long()?;
    rest.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.long()?;
        seen.push(kind);
        if kind == SERVER_NAME {
            hello.server_name = server_name(content)?;
        }
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Alert::IllegalParameter);
    }
    Ok(hello)
}

fn server_name(mut content: Reader<'_>) -> Result<Option<String>, Alert> {
    let mut list = content.long()?.not_empty()?;
    content.end()?;
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.long()?.not_empty()?.0;
        if kind == HOST_NAME && found.replace(name).is_some() {
            return Err(Alert::IllegalParameter);
        }
    }
    match found {
        None => Ok(None),
        Some(name) if is_address(name) => Ok(None),
        Some(name) => Ok(Some(name::normal(name).ok_or(Alert::UnrecognizedName)?.into_owned())),
    }
}

fn is_address(name: &[u8]) -> bool {
    name::is_ip(name) || std::str::from_utf8(name).is_ok_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Takes what a length promises, and nothing beyond.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Alert> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Alert::DecodeError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Alert> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Alert> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows a length of one byte.
    fn short(&mut self) -> Result<Reader<'a>, Alert> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    /// What follows a length of two bytes.
    fn long(&mut self) -> Result<Reader<'a>, Alert> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }

    fn not_empty(self) -> Result<Self, Alert> {
        if self.0.is_empty() { Err(Alert::DecodeError) } else { Ok(self) }
    }

    fn end(&self) -> Result<(), Alert> {
        if self.0.is_empty() { Ok(()) } else { Err(Alert::DecodeError) }
    }
}
