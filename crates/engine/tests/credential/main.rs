//! Credentials before anybody is asked about them: what a token may look like, and what one look-up costs.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use tidegate_engine::credential::{head, token};
use tidegate_engine::error::Code;
use tidegate_engine::identity::Permitted;
use tidegate_engine::message::Fields;
use tidegate_engine::snapshot::auth::VerifierSet;

const NOW: f64 = 1_800_000_000.0;

fn set(require_expiry: bool) -> VerifierSet {
    let algorithms = ["HS256", "ES256"].map(str::to_owned).into();
    VerifierSet { id: "main".into(), algorithms, require_expiry, leeway: 0.0 }
}

fn made(header: &str, claims: &str) -> String {
    format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

fn told(header: &str, claims: &str) -> Result<(), Code> {
    token::check(&made(header, claims), &set(true), NOW).map_err(|error| error.code)
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"exp":1800000001}"#;

#[test]
fn case_32_only_the_exact_algorithms_of_the_set_and_nothing_critical() {
    assert_eq!(told(HEADER, CLAIMS), Ok(()));
    assert_eq!(
        told(r#"{"jku":"https://evil","x5u":"u","jwk":{},"x5c":[],"kid":"../k","alg":"ES256"}"#, CLAIMS),
        Ok(())
    );
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":null}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","x":{"a":1,"a":2}}"#,
        r#"{"alg":"HS256"} {}"#,
        r#"["HS256"]"#,
        r#""HS256""#,
        "{",
        "",
    ] {
        assert_eq!(told(header, CLAIMS), Err(Code::InvalidToken), "{header}");
    }
}

#[test]
fn case_33_a_time_is_a_finite_number_whose_fraction_is_cut() {
    for (claims, expected) in [
        (r#"{"exp":1800000001}"#, Ok(())),
        (r#"{"exp":1800000001.9}"#, Ok(())),
        (r#"{"exp":1.8000000019e9}"#, Ok(())),
        (r#"{"exp":9007199254740992}"#, Ok(())),
        (r#"{"exp":1800000000}"#, Err(Code::ExpiredToken)),
        (r#"{"exp":1800000000.999}"#, Err(Code::ExpiredToken)),
        (r#"{"exp":0}"#, Err(Code::ExpiredToken)),
        (r#"{"exp":-0.0}"#, Err(Code::ExpiredToken)),
        (r#"{"exp":9007199254740994}"#, Err(Code::InvalidToken)),
        (r#"{"exp":-1}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1e400}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1e300}"#, Err(Code::InvalidToken)),
        (r#"{"exp":"1800000001"}"#, Err(Code::InvalidToken)),
        (r#"{"exp":true}"#, Err(Code::InvalidToken)),
        (r#"{"exp":null}"#, Err(Code::InvalidToken)),
        (r#"{"exp":NaN}"#, Err(Code::InvalidToken)),
        (r#"{"exp":[1800000001]}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1800000001,"exp":1800000001}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1800000001,"nbf":"1"}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1800000001,"iat":-1}"#, Err(Code::InvalidToken)),
        (r#"{"exp":1800000001,"nbf":1,"iat":1.5}"#, Ok(())),
        (r#"{"exp":1800000001,"tidegate":{"endpoints":["a"],"endpoints":["*"]}}"#, Err(Code::InvalidToken)),
        (r#"{}"#, Err(Code::InvalidToken)),
        (r#"[]"#, Err(Code::InvalidToken)),
    ] {
        assert_eq!(told(HEADER, claims), expected, "{claims}");
    }
    let free = |claims: &str| token::check(&made(HEADER, claims), &set(false), NOW).map_err(|error| error.code);
    assert_eq!(free("{}"), Ok(()));
    assert_eq!(free(r#"{"exp":"1"}"#), Err(Code::InvalidToken));
    let late = VerifierSet { leeway: 10.0, ..set(true) };
    assert!(token::check(&made(HEADER, r#"{"exp":1799999991}"#), &late, NOW).is_ok());
    assert!(token::check(&made(HEADER, r#"{"exp":1799999990}"#), &late, NOW).is_err());
}

#[test]
fn case_32_a_token_has_three_parts_of_base64url_and_ends_somewhere() {
    let good = made(HEADER, CLAIMS);
    let began = Instant::now();
    for bad in [
        ".".repeat(1 << 20),
        "..".into(),
        String::new(),
        format!("{good}."),
        format!("{good}.a.b"),
        format!("{good}="),
        format!("{good} "),
        good.replacen('.', "=.", 1),
        good[..good.rfind('.').expect("a dot")].to_owned(),
        format!("{}.{}.{}", "a".repeat(20_000), "b", "c"),
        made(HEADER, &format!("{}{}", "[".repeat(5000), "]".repeat(5000))),
        made(&"{\"a\":".repeat(2000), CLAIMS),
    ] {
        assert!(token::check(&bad, &set(true), NOW).is_err(), "{}", &bad[..bad.len().min(80)]);
    }
    assert!(began.elapsed() < Duration::from_secs(1));
}

proptest! {
    #[test]
    fn whatever_is_shown_nothing_panics(value in "\\PC{0,200}", name in 0usize..3) {
        let mut fields = Fields::new();
        let names = ["authorization", "x-piko-authorization", "x-tidegate-authorization"];
        let value: String = value.chars().filter(|character| !character.is_control()).collect();
        fields.push(names[name].as_bytes(), value.as_bytes());
        if let Ok(Some(shown)) = head::find(&fields, head::Shows::ToService) {
            prop_assert_eq!(shown.in_authorization, name == 0);
        }
    }

    #[test]
    fn whatever_a_token_holds_it_is_refused_or_has_a_known_algorithm_and_a_future(
        header in "\\PC{0,80}", claims in "\\PC{0,80}", alg in "[A-Za-z0-9]{0,6}", exp in any::<f64>(),
    ) {
        prop_assert!(token::check(&made(&header, &claims), &set(true), NOW).is_err() || header.contains("S256"));
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let claims = format!(r#"{{"exp":{exp:e}}}"#);
        let passes = token::check(&made(&header, &claims), &set(true), NOW).is_ok();
        let in_time = (0.0..=9_007_199_254_740_992.0).contains(&exp) && exp.trunc() > NOW;
        let expected = ["HS256", "ES256"].contains(&&*alg) && in_time;
        prop_assert_eq!(passes, expected);
    }

    #[test]
    fn a_name_is_permitted_by_itself_or_by_what_it_begins_with(
        names in prop::collection::vec("[a-c.*]{0,4}", 0..4), asked in "[a-c.]{1,5}",
    ) {
        let slow = names.iter().any(|name| match name.split_at_checked(name.len().saturating_sub(1)) {
            Some((prefix, "*")) => asked.len() >= prefix.len() && asked[..prefix.len()] == *prefix,
            _ => *name == asked,
        });
        prop_assert_eq!(Permitted::new(Some(names)).contains(&asked), slow);
    }
}
