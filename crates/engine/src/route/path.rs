//! How paths are read: what is compared, what may be read in another way, and what becomes of a path on its way.
//!
//! Two readings decide. The *normal form* is what routes are matched by: every `%XX` decoded once, but those of `/`,
//! `\`, `;` and `%`, which mean something else when they are written out (a raw `\` and a stray `%` count as escaped).
//! The *loose reading* is what a careless service further on might make of the same bytes: `%2F` and `\` taken for `/`,
//! parameters behind `;` cut off, `//` merged, dot segments followed, nothing read behind a zero byte. Where the two
//! would take different routes a request is refused (`matcher`), so that no spelling walks around a route, and what was
//! matched is what is sent on: a path is never cleaned on its way.

use std::borrow::Cow;

/// The form in which paths are compared.
pub fn normal(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'\\', path).is_none() {
        return Cow::Borrowed(path);
    }
    let mut form = Vec::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        let (length, unit) = unit(rest);
        form.extend_from_slice(unit.bytes());
        rest = &rest[length..];
    }
    Cow::Owned(form)
}

/// The loose reading of a path in normal form, where it is another one.
pub fn loose(normal: &[u8]) -> Option<Vec<u8>> {
    if !is_ambiguous(normal) {
        return None;
    }
    let slashed = slashed(normal.split(|byte| *byte == 0).next().unwrap_or_default());
    let mut elements: Vec<&[u8]> = Vec::new();
    let mut open_end = false;
    for element in elements_of(&slashed) {
        open_end = matches!(element, b"" | b"." | b"..");
        match element {
            b"" | b"." => {}
            b".." => {
                elements.pop();
            }
            _ => elements.push(element),
        }
    }
    let mut form = Vec::with_capacity(slashed.len());
    for element in &elements {
        form.push(b'/');
        form.extend_from_slice(element);
    }
    if open_end || form.is_empty() {
        form.push(b'/');
    }
    (form != normal).then_some(form)
}

/// True when the path, read loosely, has elements that depend on what stands before them.
pub fn has_dot_segments(normal: &[u8]) -> bool {
    is_ambiguous(normal) && elements_of(&slashed(normal)).any(|element| matches!(element, b"." | b".."))
}

/// True where the loose reading may differ. The target of `OPTIONS *` is no path.
fn is_ambiguous(normal: &[u8]) -> bool {
    normal.first() == Some(&b'/')
        && (memchr::memchr3(b'%', b';', 0, normal).is_some()
            || normal.windows(2).any(|pair| matches!(pair, b"//" | b"/.")))
}

/// The path with whatever may be taken for a slash as one.
fn slashed(normal: &[u8]) -> Vec<u8> {
    let mut slashed = Vec::with_capacity(normal.len());
    let mut rest = normal;
    while let Some(first) = rest.first() {
        let (length, byte) = match rest.get(..3) {
            Some(b"%2F" | b"%5C") => (3, b'/'),
            Some(b"%3B") => (3, b';'),
            _ => (1, *first),
        };
        slashed.push(byte);
        rest = &rest[length..];
    }
    slashed
}

/// The elements between slashes, without their parameters.
fn elements_of(slashed: &[u8]) -> impl Iterator<Item = &[u8]> {
    slashed
        .strip_prefix(b"/")
        .unwrap_or(slashed)
        .split(|byte| *byte == b'/')
        .map(|element| element.split(|byte| *byte == b';').next().unwrap_or_default())
}

/// True for the prefix itself and for what stands below it; both in normal form.
pub fn is_below(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(without_slash(prefix)).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A prefix means the same with and without a slash at its end.
pub fn without_slash(prefix: &[u8]) -> &[u8] {
    prefix.strip_suffix(b"/").unwrap_or(prefix)
}

/// A target whose matched part is replaced; the query stays. `matched` is the route's own path in normal form, without
/// a slash at its end. None where the target is no path (`*`).
pub fn replaced(target: &[u8], matched: &[u8], by: &[u8]) -> Option<Vec<u8>> {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let rest = behind(path, matched)?;
    if rest.is_empty() {
        return Some([if by.is_empty() { b"/" } else { by }, query].concat());
    }
    let by = without_slash(by);
    let slashes = rest.iter().take_while(|byte| matches!(byte, b'/' | b'\\')).count();
    // At the front, `//name` would name a host to whoever resolves it as a reference.
    let rest = if by.is_empty() || slashes == 1 { &rest[slashes..] } else { &rest[1..] };
    Some([by, b"/", rest, query].concat())
}

/// What stands behind the matched part, as it was sent.
fn behind<'a>(path: &'a [u8], matched: &[u8]) -> Option<&'a [u8]> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let (mut rest, mut matched) = (path, matched);
    while !matched.is_empty() {
        if rest.is_empty() {
            return None;
        }
        let (length, unit) = unit(rest);
        matched = matched.strip_prefix(unit.bytes())?;
        rest = &rest[length..];
    }
    Some(rest)
}

/// One byte of the normal form, or an escape that stays one.
enum Unit {
    Byte([u8; 1]),
    Escape([u8; 3]),
}

impl Unit {
    fn bytes(&self) -> &[u8] {
        match self {
            Unit::Byte(byte) => byte,
            Unit::Escape(escape) => escape,
        }
    }
}

/// What stands at the front of a path that is not empty, and how long it was written.
fn unit(path: &[u8]) -> (usize, Unit) {
    let escape = |byte| match byte {
        b'/' => Unit::Escape(*b"%2F"),
        b'\\' => Unit::Escape(*b"%5C"),
        b';' => Unit::Escape(*b"%3B"),
        b'%' => Unit::Escape(*b"%25"),
        _ => Unit::Byte([byte]),
    };
    match path {
        [b'%', rest @ ..] => {
            let value = || Some((digit(*rest.first()?)? << 4) | digit(*rest.get(1)?)?);
            value().map_or((1, escape(b'%')), |byte| (3, escape(byte)))
        }
        [b'\\', ..] => (1, escape(b'\\')),
        _ => (1, Unit::Byte([path.first().copied().unwrap_or_default()])),
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn escapes_are_decoded_once_but_those_that_divide() {
        for (path, expected) in [
            ("/", "/"),
            ("/%61pi/%7Euser", "/api/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\b%5c", "/a%5Cb%5C"),
            ("/%2e%2E/", "/../"),
            ("/%2561", "/%2561"),
            ("/100%", "/100%25"),
            ("/%zz%%32F", "/%25zz%252F"),
            ("/b%C3%BCcher", "/b\u{fc}cher"),
            ("*", "*"),
        ] {
            assert_eq!(text(&normal(path.as_bytes())), expected, "{path}");
        }
    }

    #[test]
    fn case_36_the_loose_reading_is_what_a_careless_service_makes_of_a_path() {
        for (path, expected) in [
            ("/api/users", None),
            ("/api/", None),
            ("/.well-known/x", None),
            ("/%61pi", None),
            ("*", None),
            ("//admin", Some("/admin")),
            ("/x/../admin", Some("/admin")),
            ("/x/%2e%2e/admin", Some("/admin")),
            ("/x/.%2E/admin/", Some("/admin/")),
            ("/./admin", Some("/admin")),
            ("/x%2f..%2fadmin", Some("/admin")),
            ("/x\\..\\admin", Some("/admin")),
            ("/x/..;a=b/admin", Some("/admin")),
            ("/admin;x=1/y", Some("/admin/y")),
            ("/admin%3bx", Some("/admin")),
            ("/../..", Some("/")),
            ("/admin/.", Some("/admin/")),
            ("/a%2Fb", Some("/a/b")),
            ("/admin%00", Some("/admin")),
            ("/admin/%00/x", Some("/admin/")),
            ("/admin%00/../x", Some("/admin")),
        ] {
            let read = loose(&normal(path.as_bytes()));
            assert_eq!(read.as_deref().map(text).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_was_matched_is_replaced_and_the_rest_stays_as_it_was_sent() {
        for (target, matched, by, expected) in [
            ("/api/users?x=/api", "/api", "", Some("/users?x=/api")),
            ("/api", "/api", "", Some("/")),
            ("/api?q", "/api", "", Some("/?q")),
            ("/api/", "/api", "", Some("/")),
            ("/%61pi/a%2Fb%20c", "/api", "", Some("/a%2Fb%20c")),
            ("/api/api/x", "/api", "", Some("/api/x")),
            ("/api//evil.com/x", "/api", "", Some("/evil.com/x")),
            ("/api/\\evil.com", "/api", "", Some("/evil.com")),
            ("/api//x", "/api", "/v2", Some("/v2//x")),
            ("/api/x", "/api", "/v2/", Some("/v2/x")),
            ("/api", "/api", "/v2/", Some("/v2/")),
            ("/api//x", "/api", "/", Some("/x")),
            ("/x", "", "/v2", Some("/v2/x")),
            ("/", "", "/v2", Some("/v2/")),
            ("//x", "", "", Some("/x")),
            ("*", "", "/v2", None),
        ] {
            let result = replaced(target.as_bytes(), matched.as_bytes(), by.as_bytes());
            assert_eq!(result.as_deref().map(text).as_deref(), expected, "{target} {matched} {by}");
        }
    }
}
