//! Where a redirect sends the downstream.
//!
//! The text of a request becomes part of a URL here: it can neither name another host nor end the field.

/// What of a request a redirect may repeat.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host without its port; empty where the request had none.
    pub host: &'a [u8],
    /// The path with its query, as it was sent.
    pub target: &'a [u8],
}

/// The URL of a template, with `{scheme}`, `{host}`, `{path}` and `{query}` filled in. None where the host is wanted
/// and the request has none.
pub fn location(template: &str, asked: &Asked<'_>) -> Option<Vec<u8>> {
    let end = memchr::memchr(b'?', asked.target).unwrap_or(asked.target.len());
    let (path, query) = asked.target.split_at(end);
    let mut url = Vec::with_capacity(template.len() + asked.host.len() + asked.target.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        url.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("{scheme}") {
            url.extend_from_slice(asked.scheme.as_bytes());
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{host}") {
            if asked.host.is_empty() {
                return None;
            }
            url.extend_from_slice(asked.host);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{path}") {
            push_path(path, &mut url);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{query}") {
            escape(query, &mut url);
            rest = behind;
        } else {
            url.push(b'{');
            rest = &rest[1..];
        }
    }
    url.extend_from_slice(rest.as_bytes());
    Some(url)
}

fn push_path(path: &[u8], url: &mut Vec<u8>) {
    // `*` is no path; a host in front of it would grow by it.
    let path = if path.first() == Some(&b'/') { path } else { b"/" };
    // With nothing before it, `//name` would be another host.
    let slashes = path.iter().take_while(|byte| matches!(byte, b'/' | b'\\')).count();
    match url.is_empty() {
        true => {
            url.push(b'/');
            escape(&path[slashes..], url);
        }
        false => escape(path, url),
    }
}

/// Bytes that a URL cannot hold, and the backslash that browsers take for a slash, are escaped.
fn escape(text: &[u8], url: &mut Vec<u8>) {
    for byte in text {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            url.push(*byte);
        } else {
            url.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(template: &str, target: &str) -> Option<String> {
        let asked = Asked { scheme: "http", host: b"old.example.com", target: target.as_bytes() };
        location(template, &asked).map(|url| String::from_utf8(url).expect("text"))
    }

    #[test]
    fn a_template_repeats_what_was_asked() {
        let url = |template, target| to(template, target).expect("a URL");
        assert_eq!(
            url("https://new.example.com{path}{query}", "/a%2Fb?x={path}"),
            "https://new.example.com/a%2Fb?x={path}"
        );
        assert_eq!(url("https://{host}{path}{query}", "/"), "https://old.example.com/");
        assert_eq!(url("{scheme}://{host}/{other}", "/x"), "http://old.example.com/{other}");
        assert_eq!(url("/b\u{fc}cher{query}", "/x?\u{fc}"), "/b\u{fc}cher?%C3%BC");
    }

    #[test]
    fn a_request_cannot_send_others_to_a_host_of_its_choice() {
        assert_eq!(to("{path}", "//evil.com").as_deref(), Some("/evil.com"));
        assert_eq!(to("{path}", "/\\evil.com").as_deref(), Some("/evil.com"));
        assert_eq!(to("https://new.example.com{path}", "*").as_deref(), Some("https://new.example.com/"));
        assert_eq!(
            to("https://new.example.com{path}", "//evil.com").as_deref(),
            Some("https://new.example.com//evil.com")
        );
        let hostless = Asked { scheme: "http", host: b"", target: b"/x" };
        assert_eq!(location("https://{host}{path}", &hostless), None);
    }
}
