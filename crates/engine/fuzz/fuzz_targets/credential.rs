//! Credentials in a head and the shape of tokens: nothing panics, what passes has the form that it has to have, and one
//! byte more or less is another credential.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_engine::credential::head::{self, Credential, Shows};
use tidegate_engine::credential::token;
use tidegate_engine::message::{Fields, is_value};
use tidegate_engine::snapshot::auth::VerifierSet;

fuzz_target!(|input: &[u8]| {
    let set =
        VerifierSet { id: String::new(), algorithms: vec!["HS256".into()], require_expiry: true, leeway: 0.0 };
    if let Ok(text) = std::str::from_utf8(input)
        && token::check(text, &set, 1.0).is_ok()
    {
        assert!(text.len() <= head::MAX_CREDENTIAL && text.split('.').count() == 3);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
    let mut fields = Fields::new();
    let names = ["Authorization", "x-piko-authorization", "x-piko-tenant-id"];
    for (line, name) in input.split(|byte| *byte == b'\n').zip(names) {
        if is_value(line) {
            fields.push(name.as_bytes(), line);
        }
    }
    if let Ok(Some(shown)) = head::find(&fields, Shows::ToService) {
        match shown.credential {
            Credential::Token(token) => assert!(!token.is_empty() && !token.contains([' ', ','])),
            Credential::Password { user, password } => {
                assert!(!user.contains(':') && user.len() + password.len() <= 1024);
            }
        }
    }
    if let Ok(Some(tenant)) = head::tenant(&fields) {
        assert!((1..=128).contains(&tenant.len()));
    }
});
