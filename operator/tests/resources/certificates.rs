//! Authorities and certificates over their lives. What is issued is judged by rustls, as members do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use operator::certificates::{
    AUTHORITY_LIFE_S, BACKDATE_S, CHANGED_ANNOTATION, LEAF_LIFE_S, Next, PHASE_ANNOTATION,
    ROTATE_ANNOTATION, SPREAD_S, Secrets, foreign, fresh_key, identity, lacking, next,
    secret_names,
};
use operator::crd::MetaStore;
use operator::resources::Settings;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, crypto::ring};
use serde_json::json;

use super::store;

/// Some day in 2026.
const NOW_S: i64 = 1_790_000_000;
const DAY_S: i64 = 86_400;
const HOST: &str = "demo-2.demo-peers.default.svc.cluster.local";

fn demo() -> MetaStore {
    store(
        "demo",
        json!({ "tls": {
            "client": { "mode": "SelfSigned", "clientAuth": true },
            "peer": { "mode": "SelfSigned" },
        } }),
    )
}

fn asking(value: &str) -> MetaStore {
    let mut object = demo();
    let annotations = BTreeMap::from([(ROTATE_ANNOTATION.to_owned(), value.to_owned())]);
    object.metadata.annotations = Some(annotations);
    object
}

fn look(object: &MetaStore, secrets: &Secrets, now_s: i64) -> Next {
    next(object, &Settings::default(), secrets, now_s, &mut fresh_key)
}

fn apply(secrets: &mut Secrets, write: Vec<Secret>) {
    for secret in write {
        secrets.insert(secret.metadata.name.clone().unwrap(), secret);
    }
}

/// Looks once and writes.
fn carry_out(object: &MetaStore, secrets: &mut Secrets, now_s: i64) {
    let write = look(object, secrets, now_s).write;
    apply(secrets, write);
}

fn founded() -> Secrets {
    let mut secrets = Secrets::new();
    carry_out(&demo(), &mut secrets, NOW_S);
    secrets
}

/// Looks and writes until there is nothing to write; the last look.
fn settle(object: &MetaStore, secrets: &mut Secrets, now_s: i64) -> Next {
    for _ in 0..3 {
        let next = look(object, secrets, now_s);
        if next.write.is_empty() {
            return next;
        }
        apply(secrets, next.write);
    }
    panic!("it writes again and again");
}

fn part<'a>(secrets: &'a Secrets, name: &str, key: &str) -> &'a [u8] {
    &secrets[name].data.as_ref().unwrap()[key].0
}

fn put(secrets: &mut Secrets, name: &str, key: &str, bytes: &[u8]) {
    let data = secrets.get_mut(name).unwrap().data.as_mut().unwrap();
    data.insert(key.to_owned(), ByteString(bytes.to_vec()));
}

fn annotation<'a>(secrets: &'a Secrets, name: &str, key: &str) -> &'a str {
    &secrets[name].metadata.annotations.as_ref().unwrap()[key]
}

fn ders(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap()
}

/// Whether who trusts `bundle` takes `certificate`, as a server's of that name and as a client's.
fn accepts(bundle: &[u8], certificate: &[u8], now_s: i64) -> (bool, bool) {
    let mut roots = RootCertStore::empty();
    for der in ders(bundle) {
        roots.add(der).unwrap();
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).unwrap()));
    let leaf = &ders(certificate)[0];
    let client =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let client = client.build().unwrap().verify_client_cert(leaf, &[], now);
    let server = WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    (server.verify_server_cert(leaf, &[], &name, &[], now).is_ok(), client.is_ok())
}

#[test]
fn a_new_cluster_gets_two_authorities_and_four_certificates_once() {
    let mut secrets = Secrets::new();
    let first = look(&demo(), &secrets, NOW_S);
    let order: Vec<_> = first.write.iter().map(|s| s.metadata.name.clone().unwrap()).collect();
    let wanted = [
        "demo-client-ca",
        "demo-server-tls",
        "demo-operator-tls",
        "demo-client-tls",
        "demo-peer-ca",
        "demo-peer-tls",
    ];
    assert_eq!(order, wanted);
    let mut names = secret_names(&demo());
    names.sort();
    let mut sorted = order;
    sorted.sort();
    assert_eq!(names, sorted, "all of them are read before the next look");
    apply(&mut secrets, first.write);
    assert!(look(&demo(), &secrets, NOW_S + DAY_S).write.is_empty());
    for (name, server, client) in [
        ("demo-server-tls", true, true),
        ("demo-peer-tls", true, true),
        ("demo-operator-tls", false, true),
        ("demo-client-tls", false, true),
    ] {
        assert_eq!(secrets[name].type_.as_deref(), Some("kubernetes.io/tls"));
        let (bundle, own) = (part(&secrets, name, "ca.crt"), part(&secrets, name, "tls.crt"));
        assert_eq!(accepts(bundle, own, NOW_S), (server, client), "{name}");
    }
    let peer = part(&secrets, "demo-peer-tls", "tls.crt");
    let bundle = part(&secrets, "demo-server-tls", "ca.crt");
    assert_eq!(accepts(bundle, peer, NOW_S), (false, false), "the two ports are apart");
    let told = identity(&demo(), &secrets).unwrap();
    assert_eq!(told.ca_pem, part(&secrets, "demo-server-tls", "ca.crt"));
    assert_eq!(told.pair_pem.unwrap().0, part(&secrets, "demo-operator-tls", "tls.crt"));
}

#[test]
fn a_plain_cluster_gets_none() {
    let plain = store("demo", json!({}));
    let none = look(&plain, &Secrets::new(), NOW_S);
    assert!(none.write.is_empty() && none.again_s.is_none());
    assert!(secret_names(&plain).is_empty());
    assert_eq!(identity(&plain, &founded()), None);
}

#[test]
fn certificates_say_what_they_are_for() {
    let secrets = founded();
    let server = ders(part(&secrets, "demo-server-tls", "tls.crt")).remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&server).unwrap();
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(names, 9);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    assert_eq!(leaf.validity().not_before.timestamp(), NOW_S - BACKDATE_S);
    assert_eq!(leaf.validity().not_after.timestamp(), NOW_S - BACKDATE_S + LEAF_LIFE_S);
    let authority = ders(part(&secrets, "demo-client-ca", "tls.crt")).remove(0);
    let (_, authority) = x509_parser::parse_x509_certificate(&authority).unwrap();
    assert!(authority.is_ca());
    assert_eq!(authority.validity().not_after.timestamp(), NOW_S - BACKDATE_S + AUTHORITY_LIFE_S);
    assert_eq!(leaf.issuer(), authority.subject());
    let operator = ders(part(&secrets, "demo-operator-tls", "tls.crt")).remove(0);
    let (_, operator) = x509_parser::parse_x509_certificate(&operator).unwrap();
    assert!(!operator.extended_key_usage().unwrap().unwrap().value.server_auth);
    let subject = operator.subject().iter_common_name().next().unwrap().as_str().unwrap();
    assert_eq!(subject, "metastore-operator");
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_by_the_same_authority() {
    let mut secrets = founded();
    let before = secrets.clone();
    let due_s = NOW_S - BACKDATE_S + LEAF_LIFE_S / 3 * 2;
    let calm = look(&demo(), &secrets, due_s - 1);
    assert!(calm.write.is_empty());
    assert_eq!(calm.again_s, Some(1));
    let due = look(&demo(), &secrets, due_s);
    assert_eq!(due.write.len(), 4);
    assert_eq!(due.events.len(), 4);
    apply(&mut secrets, due.write);
    assert!(look(&demo(), &secrets, due_s).write.is_empty());
    for name in ["demo-client-ca", "demo-peer-ca"] {
        assert_eq!(secrets[name], before[name]);
    }
    for name in ["demo-server-tls", "demo-peer-tls"] {
        assert_ne!(part(&secrets, name, "tls.key"), part(&before, name, "tls.key"));
        assert_eq!(part(&secrets, name, "ca.crt"), part(&before, name, "ca.crt"));
    }
}

#[test]
fn a_certificate_is_issued_anew_when_its_names_change() {
    let mut secrets = founded();
    let settings = Settings { cluster_domain: "corp.local".to_owned(), ..Settings::default() };
    let moved = next(&demo(), &settings, &secrets, NOW_S, &mut fresh_key);
    let names: Vec<_> = moved.write.iter().map(|s| s.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["demo-server-tls", "demo-peer-tls"]);
    apply(&mut secrets, moved.write);
    assert!(next(&demo(), &settings, &secrets, NOW_S, &mut fresh_key).write.is_empty());
}

#[test]
fn whatever_is_damaged_is_mended_and_nothing_else_is_touched() {
    let good = founded();
    let other = founded();
    let rubbish: Vec<(&str, &str, Vec<u8>)> = vec![
        ("demo-server-tls", "tls.crt", b"rubbish".to_vec()),
        ("demo-server-tls", "tls.key", Vec::new()),
        ("demo-server-tls", "ca.crt", b"rubbish".to_vec()),
        ("demo-peer-tls", "tls.key", part(&other, "demo-peer-tls", "tls.key").to_vec()),
        ("demo-peer-tls", "tls.crt", part(&other, "demo-peer-tls", "tls.crt").to_vec()),
        ("demo-operator-tls", "ca.crt", part(&other, "demo-peer-tls", "ca.crt").to_vec()),
        ("demo-client-tls", "tls.crt", part(&good, "demo-client-ca", "tls.crt").to_vec()),
        ("demo-client-ca", "ca.crt", b"rubbish".to_vec()),
    ];
    for (name, key, bytes) in rubbish {
        let mut secrets = good.clone();
        put(&mut secrets, name, key, &bytes);
        let mended = look(&demo(), &secrets, NOW_S + 1);
        let written: Vec<_> =
            mended.write.iter().map(|s| s.metadata.name.clone().unwrap()).collect();
        assert_eq!(written, [name], "{key}");
        apply(&mut secrets, mended.write);
        settle(&demo(), &mut secrets, NOW_S + 1);
        for authority in ["demo-client-ca", "demo-peer-ca"] {
            let (now, then) = (&secrets[authority].data, &good[authority].data);
            assert_eq!(now, then, "{name} {key}");
        }
        let bundle = part(&secrets, "demo-client-ca", "ca.crt");
        let server = part(&secrets, "demo-server-tls", "tls.crt");
        assert_eq!(accepts(bundle, server, NOW_S), (true, true), "{name} {key}");
    }
}

#[test]
fn a_secret_of_somebody_else_is_left_alone_and_named() {
    let mut secrets = Secrets::new();
    secrets.insert("demo-peer-tls".to_owned(), Secret::default());
    let next = look(&demo(), &secrets, NOW_S);
    assert!(next.write.iter().all(|s| s.metadata.name.as_deref() != Some("demo-peer-tls")));
    assert_eq!(foreign(&demo(), &secrets), ["Secret demo-peer-tls"]);
    assert!(foreign(&demo(), &founded()).is_empty());
}

/// What a member has read, and when.
#[derive(Clone)]
struct Files {
    read_at_s: i64,
    certificate: Vec<u8>,
    bundle: Vec<u8>,
}

fn read(secrets: &Secrets, now_s: i64) -> Files {
    Files {
        read_at_s: now_s,
        certificate: part(secrets, "demo-peer-tls", "tls.crt").to_vec(),
        bundle: part(secrets, "demo-peer-tls", "ca.crt").to_vec(),
    }
}

/// A small generator: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Walks time under a cluster whose members read their files late, each in its own time but never
/// later than Secrets spread, and whose operator is sometimes away and sometimes killed between two
/// writes. At every moment every member must take every other. Returns the phases it went through.
fn walk(object: &MetaStore, secrets: &mut Secrets, seed: u64) -> Vec<String> {
    const STEP_S: i64 = SPREAD_S / 6;
    const STEPS: i64 = 80;
    let mut dice = Dice(seed);
    let mut members: Vec<Files> = (0..3).map(|_| read(secrets, NOW_S)).collect();
    let mut phases = vec![];
    for step in 1..=STEPS {
        let now_s = NOW_S + step * STEP_S;
        for member in &mut members {
            if now_s - member.read_at_s > SPREAD_S - STEP_S || dice.roll(6) == 0 {
                *member = read(secrets, now_s);
            }
        }
        if dice.roll(4) > 0 {
            let mut write = look(object, secrets, now_s).write;
            if dice.roll(3) == 0 {
                let killed_after = dice.roll(u64::try_from(write.len()).unwrap() + 1);
                write.truncate(usize::try_from(killed_after).unwrap());
            }
            apply(secrets, write);
        }
        let phase = annotation(secrets, "demo-peer-ca", PHASE_ANNOTATION);
        if phases.last().map(String::as_str) != Some(phase) {
            phases.push(phase.to_owned());
        }
        for a in &members {
            for b in &members {
                let taken = accepts(&a.bundle, &b.certificate, now_s);
                assert_eq!(taken, (true, true), "seed {seed}, step {step}, phase {phase}");
            }
        }
    }
    phases
}

#[test]
fn no_member_ever_refuses_another_while_authorities_are_replaced() {
    for seed in 0..6 {
        let mut secrets = founded();
        let before = secrets.clone();
        let phases = walk(&asking("please"), &mut secrets, seed);
        let all = ["none", "announced", "signing", "none"];
        assert!(
            all.ends_with(&phases.iter().map(String::as_str).collect::<Vec<_>>()),
            "{phases:?}"
        );
        assert!(phases.len() >= 3, "{phases:?}");
        for name in ["demo-client-ca", "demo-peer-ca"] {
            assert_ne!(part(&secrets, name, "tls.crt"), part(&before, name, "tls.crt"), "{name}");
            assert_eq!(ders(part(&secrets, name, "ca.crt")).len(), 1, "{name}");
        }
        let end_s = NOW_S + 300 * SPREAD_S;
        assert!(look(&asking("please"), &secrets, end_s).write.is_empty(), "once is enough");
        assert!(look(&demo(), &secrets, end_s).write.is_empty(), "no annotation asks for nothing");
        assert!(!look(&asking("again"), &secrets, end_s).write.is_empty());
    }
}

#[test]
fn no_member_ever_refuses_another_after_the_authority_s_secret_was_lost_or_damaged() {
    for seed in 0..4 {
        let mut secrets = founded();
        let before = secrets.clone();
        if seed % 2 == 0 {
            secrets.remove("demo-peer-ca");
            // Whatever the seed does with the first write, there is one to look at.
            carry_out(&demo(), &mut secrets, NOW_S);
        } else {
            put(&mut secrets, "demo-peer-ca", "tls.key", b"");
        }
        let phases = walk(&demo(), &mut secrets, seed);
        assert_eq!(phases.last().map(String::as_str), Some("none"));
        assert_ne!(
            part(&secrets, "demo-peer-ca", "tls.crt"),
            part(&before, "demo-peer-ca", "tls.crt")
        );
        assert_eq!(secrets["demo-client-ca"], before["demo-client-ca"], "the other one stays");
    }
}

#[test]
fn an_authority_is_replaced_at_two_thirds_of_its_life_by_itself() {
    let mut secrets = founded();
    let due_s = NOW_S - BACKDATE_S + AUTHORITY_LIFE_S / 3 * 2;
    settle(&demo(), &mut secrets, due_s - DAY_S);
    assert_eq!(annotation(&secrets, "demo-peer-ca", PHASE_ANNOTATION), "none");
    let calm = look(&demo(), &secrets, due_s - DAY_S);
    assert_eq!(calm.again_s, Some(u32::try_from(DAY_S).unwrap()));
    let mut now_s = due_s;
    for phase in ["announced", "signing", "none"] {
        let last = settle(&demo(), &mut secrets, now_s);
        assert_eq!(annotation(&secrets, "demo-peer-ca", PHASE_ANNOTATION), phase);
        assert_eq!(annotation(&secrets, "demo-client-ca", PHASE_ANNOTATION), phase);
        if phase != "none" {
            assert_eq!(last.again_s, Some(u32::try_from(SPREAD_S).unwrap()), "{phase}");
        }
        now_s += SPREAD_S;
    }
    let bundle = part(&secrets, "demo-peer-tls", "ca.crt");
    assert_eq!(accepts(bundle, part(&secrets, "demo-peer-tls", "tls.crt"), now_s), (true, true));
}

#[test]
fn the_next_phase_waits_from_the_last_write_and_not_from_the_first() {
    let mut secrets = founded();
    let object = asking("now");
    let begun = look(&object, &secrets, NOW_S);
    // Killed before it told the operator's own certificate.
    let (told, late): (Vec<_>, Vec<_>) = begun
        .write
        .into_iter()
        .partition(|secret| secret.metadata.name.as_deref() != Some("demo-operator-tls"));
    assert_eq!(late.len(), 1);
    apply(&mut secrets, told);
    let again_s = NOW_S + 2 * SPREAD_S;
    carry_out(&object, &mut secrets, again_s);
    assert_eq!(annotation(&secrets, "demo-client-ca", PHASE_ANNOTATION), "announced");
    assert_eq!(annotation(&secrets, "demo-peer-ca", PHASE_ANNOTATION), "signing");
    settle(&object, &mut secrets, again_s + SPREAD_S - 1);
    assert_eq!(annotation(&secrets, "demo-client-ca", PHASE_ANNOTATION), "announced");
    settle(&object, &mut secrets, again_s + SPREAD_S);
    assert_eq!(annotation(&secrets, "demo-client-ca", PHASE_ANNOTATION), "signing");
}

#[test]
fn a_secret_that_does_not_say_when_it_was_changed_holds_nothing_up() {
    for value in ["soon", "99999999999"] {
        let mut secrets = founded();
        settle(&asking("now"), &mut secrets, NOW_S);
        let annotations = secrets.get_mut("demo-peer-tls").unwrap().metadata.annotations.as_mut();
        annotations.unwrap().insert(CHANGED_ANNOTATION.to_owned(), value.to_owned());
        settle(&asking("now"), &mut secrets, NOW_S + 10);
        settle(&asking("now"), &mut secrets, NOW_S + 10 + SPREAD_S);
        assert_eq!(annotation(&secrets, "demo-peer-ca", PHASE_ANNOTATION), "signing", "{value}");
    }
}

#[test]
fn a_value_the_annotation_had_when_the_cluster_was_made_asks_for_nothing() {
    let mut secrets = Secrets::new();
    settle(&asking("x"), &mut secrets, NOW_S);
    assert!(look(&asking("x"), &secrets, NOW_S + DAY_S).write.is_empty());
}

#[test]
fn what_the_user_s_secrets_lack_is_said_in_one_line_each() {
    let object = store(
        "demo",
        json!({ "tls": {
            "client": { "mode": "Secret", "clientAuth": true, "secretName": "demo-server-tls",
                "operatorSecretName": "demo-operator-tls" },
            "peer": { "mode": "Secret", "secretName": "demo-peer-tls" },
        } }),
    );
    let settings = Settings::default();
    let lines = |secrets: &Secrets, now_s| lacking(&object, &settings, secrets, now_s);
    let good = founded();
    assert!(lines(&good, NOW_S).is_empty());
    assert_eq!(
        lines(&Secrets::new(), NOW_S),
        [
            "Secret demo-server-tls: not there",
            "Secret demo-operator-tls: not there",
            "Secret demo-peer-tls: not there",
        ]
    );
    let other = founded();
    let elsewhere = {
        let mut secrets = Secrets::new();
        let away = store("away", serde_json::to_value(demo().spec).unwrap());
        carry_out(&away, &mut secrets, NOW_S);
        secrets
    };
    let peer = |key: &str, bytes: &[u8]| {
        let mut secrets = good.clone();
        put(&mut secrets, "demo-peer-tls", key, bytes);
        lines(&secrets, NOW_S)
    };
    let theirs = |key: &str| part(&other, "demo-peer-tls", key);
    assert_eq!(peer("tls.key", b""), ["Secret demo-peer-tls: no tls.key"]);
    assert_eq!(peer("ca.crt", b"x"), ["Secret demo-peer-tls: ca.crt holds no certificate"]);
    assert_eq!(peer("tls.crt", b"x"), ["Secret demo-peer-tls: tls.crt holds no certificate"]);
    assert_eq!(peer("tls.key", b"x"), ["Secret demo-peer-tls: tls.key holds no private key"]);
    assert_eq!(
        peer("tls.key", theirs("tls.key")),
        ["Secret demo-peer-tls: tls.key does not belong to tls.crt"]
    );
    assert_eq!(
        peer("ca.crt", theirs("ca.crt")),
        ["Secret demo-peer-tls: tls.crt is not signed by an authority in ca.crt"]
    );
    let mut named = good.clone();
    named.insert("demo-peer-tls".to_owned(), elsewhere["away-peer-tls"].clone());
    assert_eq!(
        lines(&named, NOW_S),
        [format!("Secret demo-peer-tls: tls.crt is not valid for {}", HOST.replace('2', "0"))]
    );
    let mut swapped = good.clone();
    swapped.insert("demo-server-tls".to_owned(), good["demo-client-tls"].clone());
    assert_eq!(
        lines(&swapped, NOW_S),
        ["Secret demo-server-tls: tls.crt lacks the extended key usage of servers or of clients"]
    );
    let late = lines(&good, NOW_S + LEAF_LIFE_S);
    assert_eq!(late.len(), 3);
    assert_eq!(late[0], "Secret demo-server-tls: tls.crt has expired");
    assert_eq!(lines(&good, NOW_S - DAY_S)[0], "Secret demo-server-tls: tls.crt is not valid yet");
}

#[test]
fn the_operator_shows_no_certificate_where_none_is_asked_for() {
    let object = store(
        "demo",
        json!({ "tls": { "client": { "mode": "Secret", "secretName": "demo-server-tls" } } }),
    );
    let told = identity(&object, &founded()).unwrap();
    assert_eq!(told.pair_pem, None);
    assert!(lacking(&object, &Settings::default(), &founded(), NOW_S).is_empty());
}
