//! What is remembered of credentials, and for how long.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::credential::head::Shows;
use crate::message::Fields;
use crate::snapshot::auth::{Auth, VerifierSet};
use crate::verdict::Policy;

fn policy() -> Arc<Policy> {
    let auth: Auth = serde_json::from_value(json!({"set": "main"})).expect("an auth");
    let sets =
        [VerifierSet { id: "main".into(), algorithms: vec!["ES256".into()], require_expiry: false, leeway: 0.0 }];
    Policy::compile(&auth, Shows::ToService, &sets).expect("a policy")
}

/// A token of the usual length, made good.
fn known() -> (Verdicts, Fields) {
    let verdicts = Verdicts::new(Arc::default());
    verdicts.configure(HashSet::from(["main".to_owned()]), None);
    let claims = "e30".to_owned() + &"A".repeat(300);
    let mut fields = Fields::new();
    fields.push(b"Host", b"web.example.com");
    fields.push(b"Authorization", format!("Bearer eyJhbGciOiJFUzI1NiJ9.{claims}.{}", "A".repeat(86)).as_bytes());
    (verdicts, fields)
}

fn grant(verdicts: &Verdicts, digest: Digest) {
    let (tell, _told) = watch::channel(None);
    let open = Open::new((digest, digest), "main".into(), "", Arc::new(tell), IpAddr::from([127, 0, 0, 1]), json!({}));
    verdicts.questions[0].put(open, &mut Vec::new()).expect("room");
    verdicts.answer(0, br#"{"granted": {"key": "main/k"}}"#).expect("a verdict");
}

fn find(policy: &Policy, verdicts: &Verdicts, fields: &Fields) -> Option<Arc<Identity>> {
    let shown = policy.shown(fields, false).expect("read");
    verdicts.known(&policy.ask(shown.as_ref(), fields, None).expect("asked").digest())
}

#[test]
fn what_is_granted_is_known_until_its_key_or_set_is_gone() {
    let ((verdicts, fields), policy) = (known(), policy());
    let digest = {
        let shown = policy.shown(&fields, false).expect("read");
        policy.ask(shown.as_ref(), &fields, None).expect("asked").digest()
    };
    grant(&verdicts, digest);
    let identity = find(&policy, &verdicts, &fields).expect("known");
    assert_eq!((verdicts.revoke(&["main/other".to_owned()]), identity.has_ended()), (0, false));
    assert_eq!((verdicts.revoke(&["main/k".to_owned()]), identity.has_ended()), (1, true));
    assert!(find(&policy, &verdicts, &fields).is_none());
    // An answer that was on its way when its key was taken away is worth nothing.
    let (tell, told) = watch::channel(None);
    let open = Open::new((digest, digest), "main".into(), "", Arc::new(tell), IpAddr::from([127, 0, 0, 1]), json!({}));
    verdicts.questions[0].put(open, &mut Vec::new()).expect("room");
    verdicts.answer(2, br#"{"granted": {"key": "main/k"}}"#).expect("a verdict");
    assert!(matches!(&*told.borrow(), Some(Outcome::Unavailable(_))));
}

#[test]
fn what_is_open_ends_when_nobody_vouches_for_it_or_its_tenant_is_gone_and_only_then() {
    let verdicts = Verdicts::new(Arc::default());
    let configure = |ids: &[&str], tenants: Option<&[&str]>| {
        let tenants: Option<BTreeMap<String, _>> =
            tenants.map(|tenants| tenants.iter().map(|name| ((*name).to_owned(), None)).collect());
        verdicts.configure(ids.iter().map(|id| (*id).to_owned()).collect(), tenants.as_ref());
    };
    let enter = |tenant: &str, key: &str, set: &str| {
        let mut identity = Identity::new(tenant, Permitted::All, Permitted::All, None);
        (identity.key, identity.set) = (key.into(), set.into());
        verdicts.directory.enter(identity)
    };
    configure(&["main/1;a", "users/2;b"], None);
    let main = enter("", "main/1/x", "main/1;a");
    let acme = enter("acme", "main/1/x", "main/1;a");
    let user = enter("", "users/2/x", "users/2;b");
    let anonymous = enter("other", "", "");
    let ended = || [&main, &acme, &user, &anonymous].map(|identity| identity.is_revoked());
    // Another leeway, other limits, a verifier beside it, tenants of which it is one.
    configure(&["main/1;c", "users/2;b"], None);
    configure(&["more/3,main/1;d", "users/2;b"], Some(&["acme", "globex"]));
    assert_eq!(ended(), [false; 4]);
    configure(&["more/3,main/1;d"], Some(&["acme", "globex"]));
    assert_eq!(ended(), [false, false, true, false]);
    configure(&["more/3,main/1;d"], Some(&[]));
    assert_eq!(ended(), [false, true, true, false]);
    configure(&["main/11;d"], None);
    assert_eq!(ended(), [true, true, true, false]);
}

#[test]
fn of_a_question_that_nobody_waits_for_any_more_nothing_is_left() {
    let ((verdicts, _), policy) = (known(), policy());
    let from = IpAddr::from([127, 0, 0, 1]);
    for number in 0..100 {
        let mut fields = Fields::new();
        let token = format!("Bearer eyJhbGciOiJFUzI1NiJ9.e30.{}", URL_SAFE_NO_PAD.encode(format!("{number}")));
        fields.push(b"Authorization", token.as_bytes());
        let shown = policy.shown(&fields, false).expect("read");
        let ask = policy.ask(shown.as_ref(), &fields, None).expect("asked");
        // Whoever asked leaves at once.
        drop(verdicts.look_up(&ask, ask.digest(), from).expect("room"));
    }
    assert_eq!((verdicts.cache.asked(), verdicts.questions[0].len()), (100, 100));
    assert_eq!(verdicts.next_question(Kind::Token, Duration::ZERO), None);
    assert_eq!((verdicts.cache.asked(), verdicts.questions[0].len()), (0, 0));
}

#[test]
fn a_token_has_one_allowance_wherever_and_with_whatever_signature_it_is_shown() {
    let (verdicts, _) = known();
    verdicts.configure(HashSet::from(["main;1".to_owned(), "web,main;2".to_owned()]), None);
    let shape = VerifierSet { id: "main".into(), algorithms: vec!["ES256".into()], require_expiry: false, leeway: 0.0 };
    let allowance = |id: &str, tenant: &str, token: &str, key: &str| {
        let ask = Ask { id, tenant, evidence: Evidence::Token(token, &shape) };
        let waits = verdicts.look_up(&ask, ask.digest(), IpAddr::from([127, 0, 0, 1])).expect("asked");
        let question = verdicts.next_question(Kind::Token, Duration::ZERO).expect("a question");
        drop(waits);
        let number = serde_json::from_slice::<Value>(&question).expect("JSON")["number"].as_u64();
        let granted = json!({"granted": {"key": key, "tenant": tenant, "limits": {"requests": 1}}});
        verdicts.answer(number.expect("a number"), granted.to_string().as_bytes()).expect("a verdict");
        verdicts.known(&ask.digest()).expect("known").allowances[0].clone()
    };
    let (token, other) = ("eyJhbGciOiJFUzI1NiJ9.e30.AAAA", "eyJhbGciOiJFUzI1NiJ9.e30.AAAB");
    let first = allowance("main;1", "", token, "main/k");
    for (id, tenant, token) in [("main;1", "acme", token), ("web,main;2", "", token), ("main;1", "", other)] {
        assert!(Arc::ptr_eq(&first, &allowance(id, tenant, token, "main/k")), "{id} {tenant} {token}");
    }
    assert!(!Arc::ptr_eq(&first, &allowance("web,main;2", "acme", token, "web/k")));
    assert!(!Arc::ptr_eq(&first, &allowance("web,main;2", "acme", "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.AAAA", "main/k")));
}

#[test]
fn what_is_no_verdict_is_told_and_lets_nobody_in() {
    let verdicts = known().0;
    for verdict in [
        "",
        "{}",
        "[]",
        r#"{"granted": {}}"#,
        r#"{"refused": "why"}"#,
        r#"{"granted": {"key": "other/k"}}"#,
        r#"{"granted": {"key": "main/k", "expires": -1}}"#,
    ] {
        let number = verdicts.questions[0].len() as u64;
        assert_eq!(number, 0);
        let (tell, told) = watch::channel(None);
        let open = Open::new(
            (Digest([7; 32]), Digest([7; 32])),
            "main".into(),
            "",
            Arc::new(tell),
            IpAddr::from([127, 0, 0, 1]),
            json!({}),
        );
        verdicts.questions[0].put(open, &mut Vec::new()).expect("room");
        let (number, _) = verdicts.questions[0].next(Duration::ZERO, drop).expect("a question");
        assert!(verdicts.answer(number * 2, verdict.as_bytes()).is_err(), "{verdict}");
        assert!(matches!(&*told.borrow(), Some(Outcome::Unavailable(_))));
    }
    assert_eq!(verdicts.answer(99, b"{}"), Ok(()));
}

/// `cargo test --release -p tidegate-engine -- --ignored --nocapture a_known_token`: nanoseconds a look-up.
#[test]
#[ignore = "a measurement"]
fn a_known_token_costs_a_digest_and_a_look_up() {
    let ((verdicts, fields), policy) = (known(), policy());
    let shown = policy.shown(&fields, false).expect("read");
    grant(&verdicts, policy.ask(shown.as_ref(), &fields, None).expect("asked").digest());
    let (rounds, began) = (1_000_000u32, Instant::now());
    for _ in 0..rounds {
        assert!(find(&policy, &verdicts, &fields).is_some());
    }
    println!("known token: {} ns", began.elapsed().as_nanos() / u128::from(rounds));
}
