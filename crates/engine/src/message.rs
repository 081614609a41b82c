//! Heads of requests and responses, as everything above sees them: whichever HTTP version brought them.
//!
//! A head that is used again allocates nothing. Fields keep their order and spelling; each name is classified once,
//! when it is pushed. What arrives from a peer is checked by the codec that read it (`http1::head`), not here.

/// The HTTP version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

/// The field names that this crate acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Connection.
    Connection,
    /// Content-Length.
    ContentLength,
    /// Any other Content-*: what describes a body.
    Content,
    /// Transfer-Encoding.
    TransferEncoding,
    /// Host.
    Host,
    /// Upgrade.
    Upgrade,
    /// Accept.
    Accept,
    /// Expect.
    Expect,
    /// TE.
    Te,
    /// Trailer.
    Trailer,
    /// Keep-Alive.
    KeepAlive,
    /// HTTP2-Settings, which belongs to an upgrade that we never pass on.
    Http2Settings,
    /// Proxy-Connection.
    ProxyConnection,
    /// Proxy-Authorization.
    ProxyAuthorization,
    /// Proxy-Authenticate.
    ProxyAuthenticate,
    /// Authorization.
    Authorization,
    /// Cookie.
    Cookie,
    /// Set-Cookie.
    SetCookie,
    /// Via.
    Via,
    /// Forwarded.
    Forwarded,
    /// X-Forwarded-For, an underscore counted as a dash.
    XForwardedFor,
    /// X-Forwarded-Host, likewise.
    XForwardedHost,
    /// X-Forwarded-Proto, likewise.
    XForwardedProto,
    /// Any other X-Forwarded-* and X-Real-IP, likewise: what speaks of the client to applications.
    XForwarded,
    /// Any X-Tidegate-*, likewise.
    XTidegate,
    /// Any X-Piko-*, likewise.
    XPiko,
    /// Every other name.
    Other,
}

impl Known {
    /// What `name` is.
    pub fn of(name: &[u8]) -> Known {
        use Known::*;
        // Length and first letter leave one name to compare with, mostly none: every field of every head comes by here.
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        if first == b'x' {
            return Known::with_x(name);
        }
        let (wanted, known) = match (name.len(), first) {
            (2, b't') => ("te", Te),
            (3, b'v') => ("via", Via),
            (4, b'h') => ("host", Host),
            (6, b'c') => ("cookie", Cookie),
            (6, b'a') => ("accept", Accept),
            (6, b'e') => ("expect", Expect),
            (7, b'u') => ("upgrade", Upgrade),
            (7, b't') => ("trailer", Trailer),
            (9, b'f') => ("forwarded", Forwarded),
            (10, b'c') => ("connection", Connection),
            (10, b'k') => ("keep-alive", KeepAlive),
            (10, b's') => ("set-cookie", SetCookie),
            (13, b'a') => ("authorization", Authorization),
            (14, b'c') => ("content-length", ContentLength),
            (14, b'h') => ("http2-settings", Http2Settings),
            (16, b'p') => ("proxy-connection", ProxyConnection),
            (17, b't') => ("transfer-encoding", TransferEncoding),
            (18, b'p') => ("proxy-authenticate", ProxyAuthenticate),
            (19, b'p') => ("proxy-authorization", ProxyAuthorization),
            _ => ("", Other),
        };
        match known {
            Other => {}
            _ if name.eq_ignore_ascii_case(wanted.as_bytes()) => return known,
            _ => {}
        }
        let describes = first == b'c' && name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-"));
        if describes { Content } else { Other }
    }

    /// The same of a name that begins with an X.
    fn with_x(name: &[u8]) -> Known {
        use Known::*;
        match name.len() {
            9 if alias(name, "x-real-ip") => XForwarded,
            15 if alias(name, "x-forwarded-for") => XForwardedFor,
            16 if alias(name, "x-forwarded-host") => XForwardedHost,
            17 if alias(name, "x-forwarded-proto") => XForwardedProto,
            _ if starts(name, "x-tidegate-") => XTidegate,
            _ if starts(name, "x-piko-") => XPiko,
            _ if starts(name, "x-forwarded-") => XForwarded,
            _ => Other,
        }
    }
}

/// True when `name` is `wanted` with some dashes written as underscores: CGI and WSGI cannot tell the two apart.
fn alias(name: &[u8], wanted: &str) -> bool {
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.len() == wanted.len() && name.iter().zip(wanted.as_bytes()).all(same)
}

fn starts(name: &[u8], prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| alias(start, prefix))
}

/// One field of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as it was spelled.
    pub name: &'a [u8],
    /// The value, without white space around it.
    pub value: &'a [u8],
    /// What the name is.
    pub known: Known,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    name: u32,
    value: u32,
    known: Known,
}

impl Entry {
    fn field<'a>(&self, bytes: &'a [u8]) -> Field<'a> {
        let value = self.start as usize + self.name as usize + SEPARATOR.len();
        Field {
            name: &bytes[self.start as usize..][..self.name as usize],
            value: &bytes[value..][..self.value as usize],
            known: self.known,
        }
    }

    fn end(&self) -> usize {
        self.start as usize + self.name as usize + SEPARATOR.len() + self.value as usize + LINE_END.len()
    }
}

// Fields are stored as the lines of HTTP/1, so that writing a head copies long runs instead of pieces.
const SEPARATOR: &[u8] = b": ";
const LINE_END: &[u8] = b"\r\n";

/// The fields of a head, in order.
#[derive(Clone, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Fields {
    /// No fields.
    pub const fn new() -> Self {
        Fields { bytes: Vec::new(), entries: Vec::new() }
    }

    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a field. The caller answers for its form: a token, and a value without control bytes.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.begin(name);
        self.bytes.extend_from_slice(value);
        self.end(Known::of(name), name, start);
    }

    /// Appends a field whose value is `parts`, one after the other.
    pub fn push_parts(&mut self, name: &[u8], parts: &[&[u8]]) {
        self.push_known(Known::of(name), name, parts);
    }

    /// The same where it is known what the name is.
    pub fn push_known(&mut self, known: Known, name: &[u8], parts: &[&[u8]]) {
        debug_assert_eq!(Known::of(name), known, "field name {name:?}");
        let start = self.begin(name);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.end(known, name, start);
    }

    /// Appends what stands before a value. Says where the field begins.
    fn begin(&mut self, name: &[u8]) -> usize {
        debug_assert!(
            !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic() && *b != b':'),
            "field name {name:?}"
        );
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(SEPARATOR);
        start
    }

    /// Appends what stands behind a value, and enters the field.
    fn end(&mut self, known: Known, name: &[u8], start: usize) {
        let value = self.bytes.len() - start - name.len() - SEPARATOR.len();
        debug_assert!(is_value(&self.bytes[self.bytes.len() - value..]), "field value with control bytes");
        self.bytes.extend_from_slice(LINE_END);
        self.entries.push(Entry { start: start as u32, name: name.len() as u32, value: value as u32, known });
    }

    /// Gives the first field of this kind another value, in its place and spelling; false where there is none.
    pub fn replace(&mut self, known: Known, value: &[u8]) -> bool {
        debug_assert!(is_value(value), "field value with control bytes");
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.known == known) else { return false };
        let name = entry.start as usize..(entry.start + entry.name) as usize;
        entry.start = self.bytes.len() as u32;
        entry.value = value.len() as u32;
        self.bytes.extend_from_within(name);
        self.bytes.extend_from_slice(SEPARATOR);
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(LINE_END);
        true
    }

    /// All fields in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'_>> + ExactSizeIterator + Clone {
        self.entries.iter().map(|entry| entry.field(&self.bytes))
    }

    /// The fields of these kinds, in order.
    pub fn of(&self, wanted: impl Fn(Known) -> bool) -> impl Iterator<Item = Field<'_>> {
        self.entries.iter().filter(move |entry| wanted(entry.known)).map(|entry| entry.field(&self.bytes))
    }

    /// The values of all fields of this kind, in order.
    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.of(move |other| other == known).map(|field| field.value)
    }

    /// The values of the fields of this kind whose names hold no `_` in the place of `-`: proxies that write such a
    /// field leave the other spelling as a stranger has sent it.
    pub fn spelled(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let fields = self.of(move |other| other == known);
        fields.filter(|field| !field.name.contains(&b'_')).map(|field| field.value)
    }

    /// The value of the first field of this kind.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// How many fields of this kind there are.
    pub fn count(&self, known: Known) -> usize {
        self.entries.iter().filter(|entry| entry.known == known).count()
    }

    /// The value of the first field of this name, in any case.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }

    /// Keeps only the fields of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let bytes = &self.bytes;
        self.entries.retain(|entry| keep(entry.field(bytes)));
    }

    /// The fields as lines of HTTP/1, neighbours joined.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut entries = self.entries.iter().peekable();
        std::iter::from_fn(move || {
            let first = entries.next()?;
            let mut end = first.end();
            while let Some(next) = entries.next_if(|next| next.start as usize == end) {
                end = next.end();
            }
            Some(&self.bytes[first.start as usize..end])
        })
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: a value may be a credential.
        f.debug_list().entries(self.iter().map(|field| String::from_utf8_lossy(field.name).into_owned())).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// True when `value` may stand in a field: no control byte but a tab.
pub fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
}

/// The parts between commas, without white space around them, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestHead {
    /// The version it came with.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
    line: Vec<u8>,
    method: usize,
}

impl RequestHead {
    /// An empty head, to be filled by a codec or [`RequestHead::set`].
    pub const fn new() -> Self {
        RequestHead { version: Version::Http11, fields: Fields::new(), line: Vec::new(), method: 0 }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.line.clear();
        self.method = 0;
        self.fields.clear();
    }

    /// Sets everything but the fields.
    pub fn set(&mut self, method: &[u8], target: &[u8], version: Version) {
        self.line.clear();
        self.line.extend_from_slice(method);
        self.line.extend_from_slice(target);
        self.method = method.len();
        self.version = version;
    }

    /// The method.
    pub fn method(&self) -> &[u8] {
        &self.line[..self.method]
    }

    /// The target: a path with its query, `*`, or for CONNECT an authority.
    pub fn target(&self) -> &[u8] {
        &self.line[self.method..]
    }

    /// The target without its query.
    pub fn path(&self) -> &[u8] {
        self.target().split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// Sets another target.
    pub fn set_target(&mut self, target: &[u8]) {
        self.line.truncate(self.method);
        self.line.extend_from_slice(target);
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseHead {
    /// The version it came with.
    pub version: Version,
    /// The status, 100 to 999.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
    reason: Vec<u8>,
}

impl ResponseHead {
    /// An empty head, to be filled by a codec or [`ResponseHead::set`].
    pub const fn new() -> Self {
        ResponseHead { version: Version::Http11, status: 0, fields: Fields::new(), reason: Vec::new() }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.reason.clear();
        self.fields.clear();
    }

    /// Sets everything but the fields.
    pub fn set(&mut self, status: u16, reason: &[u8], version: Version) {
        debug_assert!(is_value(reason), "reason with control bytes");
        self.status = status;
        self.version = version;
        self.reason.clear();
        self.reason.extend_from_slice(reason);
    }

    /// The words after the status; often empty.
    pub fn reason(&self) -> &[u8] {
        &self.reason
    }

    /// True for 1xx: another response follows, but for 101.
    pub fn is_informational(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_ours_with_underscores_too() {
        for (name, known) in [
            ("content-LENGTH", Known::ContentLength),
            ("Content-Type", Known::Content),
            ("Content_Length", Known::Other),
            ("TE", Known::Te),
            ("X_Forwarded_For", Known::XForwardedFor),
            ("x-forwarded_Port", Known::XForwarded),
            ("X-Real_IP", Known::XForwarded),
            ("x_tidegate-anything", Known::XTidegate),
            ("X-PIKO_endpoint", Known::XPiko),
            ("x-pikoendpoint", Known::Other),
            ("", Known::Other),
        ] {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
        }
    }

    #[test]
    fn fields_keep_order_and_spelling_through_removal_and_replacement() {
        let mut fields = Fields::new();
        for (name, value) in [("Host", "a.b"), ("X-One", "1"), ("x-two", ""), ("X-ONE", "3")] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        assert_eq!(fields.find("x-one"), Some(&b"1"[..]));
        assert!(fields.replace(Known::Host, b"other:1"));
        assert!(!fields.replace(Known::Te, b"x"));
        fields.retain(|field| field.value != b"1");
        assert_eq!(fields.lines().collect::<Vec<_>>().concat(), b"Host: other:1\r\nx-two: \r\nX-ONE: 3\r\n");
        assert_eq!(fields.len(), 3);
        assert_eq!(fields.get(Known::Host), Some(&b"other:1"[..]));
    }

    #[test]
    fn a_head_used_again_needs_no_more_memory() {
        let mut head = RequestHead::new();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            head.clear();
            head.set(b"GET", b"/somewhere?x=1", Version::Http11);
            head.fields.push(b"Host", b"web.example.com");
            head.fields.push_parts(b"Forwarded", &[b"for=", b"127.0.0.1"]);
            sizes.push((head.fields.bytes.capacity(), head.fields.entries.capacity(), head.line.capacity()));
        }
        assert_eq!(sizes[0], sizes[2]);
        assert_eq!(
            (head.method(), head.target(), head.path()),
            (&b"GET"[..], &b"/somewhere?x=1"[..], &b"/somewhere"[..])
        );
    }
}
