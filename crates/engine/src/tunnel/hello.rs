//! What two ends say before a tunnel or a byte stream over WebSocket begins.
//!
//! Text in, text out. The paths and the refusals are Piko's (compat.md §1.1 and §1.3); what is ours stands in headers
//! that are never needed.

use crate::error::{Code, Error, Result};
use crate::message::{Fields, Known, RequestHead, ResponseHead, Version, tokens};

use super::websocket::accept_key;

/// Where agents connect; the endpoint's name follows.
pub const UPSTREAM_PATH: &str = "/piko/v1/upstream/";

/// Where byte streams to an endpoint are opened; its name follows.
pub const TCP_PATH: &str = "/_piko/v1/tcp/";

/// What a forward asks for on the first stream of a connection of QUIC; over TCP it is not served.
pub const REACH_PATH: &str = "/_tidegate/v1/reach";

/// The longest reason that an agent gives, in characters.
const LONGEST_REASON: usize = 200;

/// What both ends said they can do. Nothing of it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The agent says by `x-tidegate-error` that a request was not delivered, and keeps its application from saying so.
    pub retry: bool,
    /// Kept streams may carry any request: the agent never closes an idle one by itself.
    pub reuse: bool,
    /// A byte stream over WebSocket tells its two ends apart.
    pub half_close: bool,
    /// The agent's streams carry HTTP/2, which its service speaks.
    pub h2: bool,
    /// The agent takes flows of datagrams, and no streams; the gateway knows of them.
    pub datagram: bool,
}

impl Features {
    /// Everything this build knows, whatever the endpoint.
    pub const OURS: &'static str = "retry, reuse, half-close";

    /// What `fields` offer; unknown words are ignored, so that versions can differ.
    pub fn of(fields: &Fields) -> Self {
        let offered = fields.find("x-tidegate-features");
        let has = |word| lists(offered, word);
        let (retry, reuse, half_close) = (has("retry"), has("reuse"), has("half-close"));
        Features { retry, reuse, half_close, h2: has("h2"), datagram: has("datagram") }
    }
}

/// How an agent says that nothing came back from where it has looked for QUIC.
pub const NO_ANSWER: &str = "no answer on UDP";

/// How one says that there is none.
pub const NOT_OFFERED: &str = "the gateway offers no QUIC";

/// Why an agent's tunnel is no QUIC, where it says so. Whoever is asked knows better what is offered.
pub fn not_quic(fields: &Fields, offers: &Offers) -> Option<String> {
    let said = visible(&String::from_utf8_lossy(fields.find("x-tidegate-not-quic")?));
    match offers {
        Offers::No if said.starts_with(NO_ANSWER) => Some(NOT_OFFERED.to_owned()),
        _ => (!said.is_empty()).then_some(said),
    }
}

/// What may stand in a field of a head, and in a line of a table.
pub fn visible(text: &str) -> String {
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.trim().chars().map(shown).take(LONGEST_REASON).collect()
}

/// The key of a WebSocket upgrade; an error where the request is none (RFC 6455 §4.2.1).
pub fn websocket_key(head: &RequestHead) -> Result<String> {
    let refuse = |why: &'static str| Err(Error::new(Code::MalformedRequest, why));
    if !is_plain_get(head) {
        return refuse("a WebSocket begins with GET over HTTP/1.1");
    }
    if !upgrades_to(head, "websocket") {
        return refuse("this path serves WebSocket only: send Upgrade: websocket");
    }
    if head.fields.find("sec-websocket-version") != Some(b"13") {
        return refuse("only version 13 of WebSocket is served");
    }
    match head.fields.find("sec-websocket-key") {
        Some(key) if key.len() == 24 && key.is_ascii() => Ok(String::from_utf8_lossy(key).into_owned()),
        _ => refuse("a WebSocket needs a Sec-WebSocket-Key of 24 characters"),
    }
}

/// What a tunnel over QUIC upgrades its first stream to.
pub const QUIC_UPGRADE: &str = "tidegate/1";

/// What a stream of a forward's session is upgraded to, to carry bytes as they are.
pub const BYTES_UPGRADE: &str = "tidegate-bytes";

/// Where flows of datagrams to an endpoint are opened; its name follows.
pub const UDP_PATH: &str = "/_piko/v1/udp/";

/// What the stream of a forward's flow is upgraded to, to stand for datagrams.
pub const DATAGRAMS_UPGRADE: &str = "tidegate-datagrams";

/// What both ends of one name by ALPN.
pub const QUIC_PROTOCOLS: &[&[u8]] = &[QUIC_UPGRADE.as_bytes()];

/// The same of quic-reverse-http-tunnel, where nothing is said before the first stream.
pub const QUIC_TUNNEL_PROTOCOLS: &[&[u8]] = &[b"quic-echo-example"];

/// An error where the request does not ask for a tunnel on the connection of QUIC that it came by.
pub fn quic_upgrade(head: &RequestHead) -> Result<()> {
    if upgrades_to(head, QUIC_UPGRADE) {
        return Ok(());
    }
    Err(Error::new(Code::MalformedRequest, "a tunnel over QUIC begins with GET over HTTP/1.1 and Upgrade: tidegate/1"))
}

/// True where a request asks for bytes as they are, on a stream that can carry them.
pub fn wants_bytes(head: &RequestHead) -> bool {
    upgrades_to(head, BYTES_UPGRADE)
}

/// True where a request asks for its stream to stand for datagrams.
pub fn wants_datagrams(head: &RequestHead) -> bool {
    upgrades_to(head, DATAGRAMS_UPGRADE)
}

/// The answer that begins a flow of datagrams.
pub fn accept_datagrams() -> Vec<u8> {
    switching(&Upgrade::Datagrams, "")
}

fn upgrades_to(head: &RequestHead, word: &str) -> bool {
    let wants = |known, word| lists(head.fields.all(known), word);
    is_plain_get(head) && wants(Known::Upgrade, word) && wants(Known::Connection, "upgrade")
}

fn is_plain_get(head: &RequestHead) -> bool {
    head.method() == b"GET" && head.version == Version::Http11
}

/// Whether a word stands in lists, in any case.
fn lists<'a>(values: impl IntoIterator<Item = &'a [u8]>, word: &str) -> bool {
    values.into_iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
}

/// The answer that begins a byte stream over WebSocket, and says where QUIC is to whoever could have come by it.
pub fn accept_channel(key: &str, half_close: bool, quic: &Offers) -> Vec<u8> {
    let words = [(half_close, "half-close"), (*quic == Offers::SamePort, "quic")];
    let words: Vec<_> = words.into_iter().filter(|(said, _)| *said).map(|(_, word)| word).collect();
    let mut fields = String::new();
    if !words.is_empty() {
        fields += &format!("x-tidegate-features: {}\r\n", words.join(", "));
    }
    if let Offers::At(at) = quic {
        fields += &format!("x-tidegate-quic: {at}\r\n");
    }
    switching(&Upgrade::WebSocket(key), &fields)
}

/// The answer that begins a stream of bytes as they are.
pub fn accept_bytes() -> Vec<u8> {
    switching(&Upgrade::Bytes, "")
}

/// What a connection or a stream becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade<'a> {
    /// A WebSocket, with this key.
    WebSocket(&'a str),
    /// The first stream of a session over QUIC.
    Session,
    /// A stream of bytes as they are.
    Bytes,
    /// A flow's, which stands for datagrams.
    Datagrams,
}

/// What a gateway tells an agent that it accepts.
pub struct Welcome<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The program's version.
    pub version: &'a str,
    /// Where the endpoint is reached, as far as the gateway knows.
    pub url: Option<&'a str>,
    /// Where tunnels over QUIC are taken.
    pub quic: &'a Offers,
}

/// Where a gateway takes tunnels over QUIC, as its answers over WebSocket say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offers {
    /// Nowhere.
    #[default]
    No,
    /// At the UDP port with the number of the URL's.
    SamePort,
    /// At this host and port.
    At(String),
}

impl Offers {
    /// What `fields` say.
    fn of(fields: &Fields) -> Self {
        match fields.find("x-tidegate-quic") {
            Some(at) if at.len() <= 255 && at.is_ascii() => Offers::At(String::from_utf8_lossy(at).into_owned()),
            _ if lists(fields.find("x-tidegate-features"), "quic") => Offers::SamePort,
            _ => Offers::No,
        }
    }
}

/// The answer that begins a tunnel; `key` is that of a WebSocket.
pub fn accept_tunnel(key: Option<&str>, welcome: &Welcome<'_>) -> Vec<u8> {
    let mut fields = format!(
        "x-tidegate-features: {}{}{}\r\nx-tidegate-node: {}\r\nx-tidegate-version: {}\r\n",
        Features::OURS,
        if key.is_none() { ", datagram" } else { "" },
        if *welcome.quic == Offers::SamePort { ", quic" } else { "" },
        welcome.node,
        welcome.version
    );
    if let Some(url) = welcome.url {
        fields += &format!("x-tidegate-url: {url}\r\n");
    }
    if let Offers::At(at) = welcome.quic {
        fields += &format!("x-tidegate-quic: {at}\r\n");
    }
    switching(&key.map_or(Upgrade::Session, Upgrade::WebSocket), &fields)
}

fn switching(upgrade: &Upgrade<'_>, fields: &str) -> Vec<u8> {
    let (word, accept) = match upgrade {
        Upgrade::WebSocket(key) => ("websocket", format!("\r\nSec-WebSocket-Accept: {}", accept_key(key))),
        Upgrade::Session => (QUIC_UPGRADE, String::new()),
        Upgrade::Bytes => (BYTES_UPGRADE, String::new()),
        Upgrade::Datagrams => (DATAGRAMS_UPGRADE, String::new()),
    };
    let upgrade = format!("Upgrade: {word}\r\nConnection: Upgrade{accept}");
    format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n{fields}\r\n").into_bytes()
}

/// What an agent or forward asks of a gateway.
pub struct Ask<'a> {
    /// The gateway's host and port, as in its URL.
    pub authority: &'a str,
    /// The whole path.
    pub path: &'a str,
    /// What is asked for.
    pub upgrade: Upgrade<'a>,
    /// The bearer token.
    pub token: Option<&'a str>,
    /// The tenant; empty for none.
    pub tenant: &'a str,
    /// The agent's id and the number of the tunnel.
    pub agent: Option<&'a str>,
    /// The program's version.
    pub version: &'a str,
    /// Streams may carry HTTP/2.
    pub h2: bool,
    /// Flows of datagrams are taken, and no streams.
    pub datagram: bool,
    /// Why the tunnel is no QUIC, in visible characters; empty where there is nothing to say.
    pub not_quic: &'a str,
}

/// The request that opens a tunnel or a byte stream. Every value has been checked to hold no control character.
pub fn request(ask: &Ask<'_>) -> Vec<u8> {
    let upgrade = match ask.upgrade {
        Upgrade::WebSocket(key) => format!("websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"),
        Upgrade::Session => QUIC_UPGRADE.to_owned(),
        Upgrade::Bytes => BYTES_UPGRADE.to_owned(),
        Upgrade::Datagrams => DATAGRAMS_UPGRADE.to_owned(),
    };
    let mut text = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
         User-Agent: tidegate/{}\r\nx-tidegate-features: {}{}{}\r\n",
        ask.path,
        ask.authority,
        ask.version,
        Features::OURS,
        if ask.h2 { ", h2" } else { "" },
        if ask.datagram { ", datagram" } else { "" },
    );
    for (name, value) in [
        ("Authorization: Bearer", ask.token.unwrap_or_default()),
        ("x-piko-tenant-id:", ask.tenant),
        ("x-tidegate-agent:", ask.agent.unwrap_or_default()),
        ("x-tidegate-not-quic:", ask.not_quic),
    ] {
        if !value.is_empty() {
            text += &format!("{name} {value}\r\n");
        }
    }
    text += "\r\n";
    text.into_bytes()
}

/// What a gateway told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What both ends can do.
    pub features: Features,
    /// The node's name; empty for a Piko server.
    pub node: String,
    /// Where the endpoint is reached; empty where the gateway did not say.
    pub url: String,
    /// Where it takes tunnels over QUIC.
    pub quic: Offers,
}

/// Reads the head of the answer to a request for `upgrade`. An error says why there is none.
pub fn told(head: &ResponseHead, upgrade: &Upgrade<'_>) -> std::result::Result<Told, String> {
    let text = |name: &str| {
        let value = head.fields.find(name).unwrap_or_default();
        String::from_utf8_lossy(&value[..value.len().min(1024)]).into_owned()
    };
    if head.status != 101 {
        return Err(format!("answered {}", head.status));
    }
    if let Upgrade::WebSocket(key) = upgrade
        && head.fields.find("sec-websocket-accept") != Some(accept_key(key).as_bytes())
    {
        return Err("its Sec-WebSocket-Accept does not fit: it is no WebSocket server".to_owned());
    }
    Ok(Told {
        features: Features::of(&head.fields),
        node: text("x-tidegate-node"),
        url: text("x-tidegate-url"),
        quic: Offers::of(&head.fields),
    })
}

/// True for a status after which asking again makes sense (compat.md §1.1).
pub fn may_ask_again(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
