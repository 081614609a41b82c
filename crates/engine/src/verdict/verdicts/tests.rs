//! What is remembered of credentials, and for how long.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::message::Fields;
use crate::snapshot::auth::{Auth, VerifierSet};
use crate::verdict::Policy;

fn policy() -> Arc<Policy> {
    let auth: Auth = serde_json::from_value(json!({"set": "main"})).expect("an auth");
    let sets =
        [VerifierSet { id: "main".into(), algorithms: vec!["ES256".into()], require_expiry: false, leeway: 0.0 }];
    Policy::compile(&auth, &sets).expect("a policy")
}

/// A token of the usual length, made good.
fn known() -> (Verdicts, Fields) {
    let verdicts = Verdicts::new(Arc::default());
    verdicts.configure(HashSet::from(["main".to_owned()]), &BTreeMap::new());
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
    verdicts.answer(0, br#"{"granted": {"key": "k"}}"#).expect("a verdict");
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
    assert_eq!((verdicts.revoke(&["other".to_owned()]), identity.has_ended()), (0, false));
    assert_eq!((verdicts.revoke(&["k".to_owned()]), identity.has_ended()), (1, true));
    assert!(find(&policy, &verdicts, &fields).is_none());
    // An answer that was on its way when its key was taken away is worth nothing.
    let (tell, told) = watch::channel(None);
    let open = Open::new((digest, digest), "main".into(), "", Arc::new(tell), IpAddr::from([127, 0, 0, 1]), json!({}));
    verdicts.questions[0].put(open, &mut Vec::new()).expect("room");
    verdicts.answer(2, br#"{"granted": {"key": "k"}}"#).expect("a verdict");
    assert!(matches!(&*told.borrow(), Some(Outcome::Unavailable(_))));
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
    verdicts.configure(HashSet::from(["main".to_owned(), "web".to_owned()]), &BTreeMap::new());
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
    let first = allowance("main", "", token, "k");
    for (id, tenant, token) in [("main", "acme", token), ("web", "", token), ("main", "", other)] {
        assert!(Arc::ptr_eq(&first, &allowance(id, tenant, token, "k")), "{id} {tenant} {token}");
    }
    assert!(!Arc::ptr_eq(&first, &allowance("web", "acme", token, "l")));
    assert!(!Arc::ptr_eq(&first, &allowance("web", "acme", "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.AAAA", "k")));
}

#[test]
fn what_is_no_verdict_is_told_and_lets_nobody_in() {
    let verdicts = known().0;
    for verdict in
        ["", "{}", "[]", r#"{"granted": {}}"#, r#"{"refused": "why"}"#, r#"{"granted": {"key": "k", "expires": -1}}"#]
    {
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
