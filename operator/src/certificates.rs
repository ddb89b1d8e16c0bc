//! Certificates of mode `SelfSigned`: the cluster has two authorities of its own, one for the client
//! port and one for the peer port, and the operator issues, renews and rotates. Pure: Secrets as they
//! are go in, Secrets to write come out; the clock and the source of keys are arguments.
//!
//! | Secret | for |
//! |---|---|
//! | `demo-client-ca`, `demo-peer-ca` | the authorities: who signs, who will, whom all trust |
//! | `demo-server-tls` | what members show on the client port |
//! | `demo-peer-tls` | what members show each other |
//! | `demo-operator-tls` | what the operator shows to members |
//! | `demo-client-tls` | a certificate ready for users |
//!
//! An authority is replaced in three phases, so that at no moment a member refuses another that has
//! read its files earlier or later: first all are told to trust the next one as well (`next.crt` is
//! there), then it signs (two are trusted), then the previous one is dropped (one is trusted). Between
//! them, what was written has to reach every pod: the time of the last change stands in an annotation
//! of each Secret, and the next phase waits [`Waits::spread_s`] from the latest. The phase is told from
//! what the Secrets hold, so an operator that is killed halfway goes on.
//!
//! A rotation begins at two thirds of an authority's life, or when the annotation
//! `metastore.io/rotate-ca` of the MetaStore gets a new value. A certificate is issued anew at two
//! thirds of its life, when the names it must hold change, or when it, its key or its issuer is not
//! what it must be. Server and operator read their files again; no pod is restarted for any of this.

mod check;
mod issue;

use std::cmp::max;
use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rcgen::KeyPair;
use serde_json::json;

pub use self::check::lacking;
use self::check::{Need, certificates, fault, lifetime, pem_of};
use self::issue::{Pair, authority, leaf};
use crate::crd::{MetaStore, TlsMode};
use crate::plan::Event;
use crate::resources::{
    Settings, client_secret, map, metadata, name, namespace, operator_secret, owner_uid,
    peer_secret, peer_service, uid, user_secret,
};

/// Annotation of a MetaStore: every new value makes both authorities be replaced.
pub const ROTATE_ANNOTATION: &str = "metastore.io/rotate-ca";
/// Annotation of an authority's Secret: the value of [`ROTATE_ANNOTATION`] it was last replaced for.
pub const ROTATED_ANNOTATION: &str = "metastore.io/rotated-ca";
/// Annotation of our Secrets: seconds since 1970 when what they hold was last changed.
pub const CHANGED_ANNOTATION: &str = "metastore.io/changed-at";
/// Annotation of an authority's Secret, for people: how far a rotation is.
pub const PHASE_ANNOTATION: &str = "metastore.io/rotation";

/// Life of an authority: ten years.
pub const AUTHORITY_LIFE_S: i64 = 3650 * DAY_S;
/// Life of a certificate: a year.
pub const LEAF_LIFE_S: i64 = 365 * DAY_S;
/// Certificates are valid from so long before they are issued: clocks differ.
pub const BACKDATE_S: i64 = 300;
/// Seconds until a Secret that was changed has reached all pods that mount it: the kubelet looks after
/// a minute and up to a half more, and members read their files again within seconds.
pub const SPREAD_S: i64 = 180;
/// Most authorities that are trusted at a time, when an authority's Secret was lost more than once.
const TRUSTED_MAX: usize = 4;
const DAY_S: i64 = 24 * 3600;

/// Addresses that the certificates of members hold besides names.
pub const MEMBER_ADDRESSES: [&str; 2] = ["127.0.0.1", "::1"];

/// How long a rotation of authorities waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// After every change, before the next one builds on it.
    pub spread_s: i64,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { spread_s: SPREAD_S }
    }
}

/// Secrets by name; one that is not there has no entry.
pub type Secrets = BTreeMap<String, Secret>;

/// What is to be written.
#[derive(Debug, Default)]
pub struct Next {
    /// In this order: an authority before what it signs.
    pub write: Vec<Secret>,
    /// What to tell.
    pub events: Vec<Event>,
    /// Seconds until there may be something to do again; none where nothing is self-signed.
    pub again_s: Option<u32>,
    /// An authority is being replaced.
    pub rotating: bool,
}

/// How the operator talks to the client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Authorities to trust.
    pub ca_pem: Vec<u8>,
    /// Certificate and key to show.
    pub pair_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// A new key, from the machine's randomness.
pub fn fresh_key() -> KeyPair {
    KeyPair::generate().expect("ECDSA P-256 is built in, and the machine has randomness")
}

/// Names under which members are reached.
pub fn member_names(object: &MetaStore, settings: &Settings) -> Vec<String> {
    let (name, namespace, peers) = (name(object), namespace(object), peer_service(object));
    let domain = &settings.cluster_domain;
    vec![
        format!("*.{peers}.{namespace}.svc.{domain}"),
        format!("*.{peers}.{namespace}.svc"),
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{domain}"),
        "localhost".to_owned(),
    ]
}

/// Every Secret that [`next`] and [`lacking`] have to see.
pub fn secret_names(object: &MetaStore) -> Vec<String> {
    let authorities = Authority::ALL.into_iter().filter(|authority| authority.is_ours(object));
    let mut names: Vec<String> = authorities.map(|authority| authority.secret(object)).collect();
    names.extend(client_secret(object));
    names.extend(peer_secret(object));
    names.extend(operator_secret(object));
    names.extend(user_secret(object));
    names.sort();
    names.dedup();
    names
}

/// Secrets of somebody else under names that are to be ours: `Secret demo-peer-tls`.
pub fn foreign(object: &MetaStore, secrets: &Secrets) -> Vec<String> {
    let ours = |authority: &Authority| authority.is_ours(object);
    let mut names = Vec::new();
    for authority in Authority::ALL.into_iter().filter(ours) {
        let leafs = authority.leafs(object).into_iter().map(|leaf| leaf.secret);
        names.extend(std::iter::once(authority.secret(object)).chain(leafs));
    }
    names.retain(|name| secrets.get(name).is_some_and(|secret| !is_ours(object, secret)));
    names.into_iter().map(|name| format!("Secret {name}")).collect()
}

/// What the operator shows to members, and whom it trusts. None: the port is not encrypted, or the
/// Secret is not there yet.
pub fn identity(object: &MetaStore, secrets: &Secrets) -> Option<Identity> {
    let secret = secrets.get(&operator_secret(object)?)?;
    let tls = &object.spec.tls.client;
    let shows = tls.mode != TlsMode::Secret || tls.client_auth;
    let pair_pem = match (shows, entry(secret, "tls.crt"), entry(secret, "tls.key")) {
        (true, Some(certificate), Some(key)) => Some((certificate.to_vec(), key.to_vec())),
        _ => None,
    };
    Some(Identity { ca_pem: entry(secret, "ca.crt")?.to_vec(), pair_pem })
}

/// The same out of the Secret that a member shows: its certificate is good for a client, too.
pub(crate) fn identity_of(secret: &Secret) -> Option<Identity> {
    let pair = entry(secret, "tls.crt").zip(entry(secret, "tls.key"));
    let pair_pem = pair.map(|(certificate, key)| (certificate.to_vec(), key.to_vec()));
    Some(Identity { ca_pem: entry(secret, "ca.crt")?.to_vec(), pair_pem })
}

/// What has to be written now.
pub fn next(
    object: &MetaStore,
    settings: &Settings,
    secrets: &Secrets,
    now_s: i64,
    keys: &mut dyn FnMut() -> KeyPair,
) -> Next {
    let mut next = Next::default();
    for authority in Authority::ALL.into_iter().filter(|authority| authority.is_ours(object)) {
        let desk = Desk { object, settings, secrets, now_s, authority };
        desk.step(keys, &mut next);
    }
    next
}

/// One of the two authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    Client,
    Peer,
}

/// A certificate to be issued.
#[derive(Clone, Debug)]
struct Leaf {
    secret: String,
    need: Need,
}

impl Authority {
    const ALL: [Authority; 2] = [Authority::Client, Authority::Peer];

    fn is_ours(self, object: &MetaStore) -> bool {
        let mode = match self {
            Authority::Client => object.spec.tls.client.mode,
            Authority::Peer => object.spec.tls.peer.mode,
        };
        mode == TlsMode::SelfSigned
    }

    fn word(self) -> &'static str {
        match self {
            Authority::Client => "client",
            Authority::Peer => "peer",
        }
    }

    fn secret(self, object: &MetaStore) -> String {
        format!("{}-{}-ca", name(object), self.word())
    }

    fn leafs(self, object: &MetaStore) -> Vec<Leaf> {
        let leaf = |secret: Option<String>, need| secret.map(|secret| Leaf { secret, need });
        let all = match self {
            Authority::Client => vec![
                leaf(client_secret(object), Need::Member),
                leaf(operator_secret(object), Need::Client("metastore-operator")),
                leaf(user_secret(object), Need::Client("client")),
            ],
            Authority::Peer => vec![leaf(peer_secret(object), Need::Member)],
        };
        all.into_iter().flatten().collect()
    }
}

/// What an authority's Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Book {
    /// Who signs. None: its Secret was lost, and those it signed for still trust it.
    current: Option<Pair>,
    /// Who will.
    next: Option<Pair>,
    /// Who is trusted, as PEM. Invariant: `current` and `next` are.
    trusted: Vec<String>,
}

impl Book {
    fn bundle(&self) -> String {
        self.trusted.concat()
    }

    fn phase(&self) -> &'static str {
        match (&self.next, self.trusted.len()) {
            (Some(_), _) => "announced",
            (None, 1) => "none",
            (None, _) => "signing",
        }
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::from([("ca.crt", self.bundle())]);
        for (pair, certificate, key) in
            [(&self.current, "tls.crt", "tls.key"), (&self.next, "next.crt", "next.key")]
        {
            if let Some(pair) = pair {
                data.insert(certificate, pair.certificate_pem.clone());
                data.insert(key, pair.key_pem.clone());
            }
        }
        to_data(data)
    }
}

/// One authority of one cluster at one moment.
struct Desk<'a> {
    object: &'a MetaStore,
    settings: &'a Settings,
    secrets: &'a Secrets,
    now_s: i64,
    authority: Authority,
}

impl Desk<'_> {
    fn step(&self, keys: &mut dyn FnMut() -> KeyPair, out: &mut Next) {
        let name = self.authority.secret(self.object);
        if self.secrets.get(&name).is_some_and(|secret| !is_ours(self.object, secret)) {
            return;
        }
        let written = self.secrets.get(&name).map(|secret| self.read(secret));
        let before = written.clone().flatten();
        let mut book = before.clone().unwrap_or_else(|| self.found(keys));
        let mut reason = match (&written, &before) {
            (None, _) => "there was none",
            (Some(None), _) => "its Secret was damaged",
            (Some(Some(_)), _) => "",
        };
        if before.is_some() {
            reason = self.advance(&mut book, keys);
        }
        // What was read may be a repaired form of what is there.
        let stands = self.secrets.get(&name).and_then(|secret| secret.data.clone());
        let is_dated = self.secrets.get(&name).is_some_and(|secret| self.is_dated(secret));
        if !is_dated || stands.as_ref() != Some(&book.data()) {
            if reason.is_empty() {
                reason = "its Secret was damaged";
            }
            out.write.push(self.authority_secret(&name, &book));
            let note = format!(
                "authority of the {} port: {reason}; rotation: {}",
                self.authority.word(),
                book.phase()
            );
            out.events.push(Event { warning: false, reason: "AuthorityChanged", note });
        }
        let mut again_s = AUTHORITY_LIFE_S;
        for leaf in self.authority.leafs(self.object) {
            if let Some(secret) = self.secrets.get(&leaf.secret)
                && !is_ours(self.object, secret)
            {
                continue;
            }
            again_s = again_s.min(self.issue(&leaf, &book, keys, out));
        }
        if book.phase() != "none" {
            out.rotating = true;
            again_s = again_s.min(self.wait_s(out.write.is_empty()));
        } else if let Some(due_s) = book.current.as_ref().and_then(due_s) {
            again_s = again_s.min(due_s - self.now_s);
        }
        let again_s = u32::try_from(max(again_s, 1)).unwrap_or(u32::MAX);
        out.again_s = Some(out.again_s.map_or(again_s, |other| other.min(again_s)));
    }

    /// Brings one certificate to what it must be. Returns the seconds until it has to be renewed.
    fn issue(
        &self,
        leaf: &Leaf,
        book: &Book,
        keys: &mut dyn FnMut() -> KeyPair,
        out: &mut Next,
    ) -> i64 {
        let live = self.secrets.get(&leaf.secret);
        let why =
            live.map_or_else(|| Some("there was none".to_owned()), |s| self.fault(leaf, book, s));
        let bundle = book.bundle();
        let pair = match (&why, live) {
            (None, Some(secret)) => {
                let text = |key| String::from_utf8(entry(secret, key)?.to_vec()).ok();
                let pair = text("tls.crt").zip(text("tls.key"));
                let (certificate_pem, key_pem) = pair.expect("it has no fault");
                if entry(secret, "ca.crt") == Some(bundle.as_bytes()) && self.is_dated(secret) {
                    return due_s_of(&certificate_pem).map_or(1, |due_s| due_s - self.now_s);
                }
                Pair { certificate_pem, key_pem }
            }
            _ => {
                let signer = book.current.as_ref().or(book.next.as_ref());
                let signer = signer.expect("an authority has one that signs or one that will");
                let pair =
                    self::leaf(self.object, self.settings, leaf.need, signer, self.now_s, &keys());
                let why = why.unwrap_or_default();
                let note = format!("certificate in Secret {}: {why}", leaf.secret);
                out.events.push(Event { warning: false, reason: "CertificateIssued", note });
                pair
            }
        };
        let due_s = due_s_of(&pair.certificate_pem).map_or(1, |due_s| due_s - self.now_s);
        let data = BTreeMap::from([
            ("tls.crt", pair.certificate_pem),
            ("tls.key", pair.key_pem),
            ("ca.crt", bundle),
        ]);
        out.write.push(self.secret(&leaf.secret, "kubernetes.io/tls", to_data(data), &[]));
        due_s
    }

    /// Why a certificate has to be issued anew.
    fn fault(&self, leaf: &Leaf, book: &Book, secret: &Secret) -> Option<String> {
        let signers = match &book.current {
            Some(current) => current.certificate_pem.clone(),
            None => book.bundle(),
        };
        let hosts = [];
        let certificate = entry(secret, "tls.crt").unwrap_or_default();
        let key = entry(secret, "tls.key").unwrap_or_default();
        if let Some(fault) =
            fault(certificate, key, signers.as_bytes(), leaf.need, &hosts, self.now_s)
        {
            return Some(fault);
        }
        let der = certificates(certificate).into_iter().next()?;
        if !check::names_are(&der, &leaf.need.names(self.object, self.settings)) {
            return Some("the names it must hold have changed".to_owned());
        }
        let (begins_s, ends_s) = lifetime(&der)?;
        (self.now_s >= begins_s + (ends_s - begins_s) / 3 * 2)
            .then(|| "two thirds of its life are over".to_owned())
    }

    /// One phase further, if it is time. Returns why, or nothing.
    fn advance(&self, book: &mut Book, keys: &mut dyn FnMut() -> KeyPair) -> &'static str {
        if book.next.is_some() {
            if !self.has_spread(book) {
                return "";
            }
            book.current = book.next.take();
            return "all trust the next one, it signs now";
        }
        if book.trusted.len() > 1 {
            if !self.has_spread(book) {
                return "";
            }
            book.trusted = book.current.iter().map(|pair| pair.certificate_pem.clone()).collect();
            return "nobody shows a certificate of the previous one any more";
        }
        let current = book.current.as_ref().and_then(due_s);
        let is_due = current.is_none_or(|due_s| self.now_s >= due_s);
        if !is_due && !self.is_asked_for() {
            return "";
        }
        let next = authority(self.object, self.authority.word(), self.now_s, &keys());
        book.trusted.push(next.certificate_pem.clone());
        book.next = Some(next);
        if is_due { "two thirds of its life are over" } else { "the annotation asks for a new one" }
    }

    /// Whether all certificates are as this book wants them, for long enough that all pods have them.
    fn has_spread(&self, book: &Book) -> bool {
        let bundle = book.bundle();
        let stands = |leaf: &Leaf| {
            self.secrets.get(&leaf.secret).is_some_and(|secret| {
                entry(secret, "ca.crt") == Some(bundle.as_bytes())
                    && self.fault(leaf, book, secret).is_none()
            })
        };
        self.authority.leafs(self.object).iter().all(stands) && self.wait_s(true) <= 0
    }

    /// Seconds until the last change has spread.
    fn wait_s(&self, nothing_is_written_now: bool) -> i64 {
        let spread_s = self.settings.certificate_waits.spread_s;
        if !nothing_is_written_now {
            return spread_s;
        }
        let leafs = self.authority.leafs(self.object).into_iter().map(|leaf| leaf.secret);
        let names = leafs.chain([self.authority.secret(self.object)]);
        let last_s = names.map(|name| self.secrets.get(&name).and_then(changed_s)).max().flatten();
        last_s.map_or(spread_s, |last_s| last_s + spread_s - self.now_s)
    }

    /// Whether it says when it was changed. One that does not, or was written by a clock far ahead of
    /// this, is written again: a rotation would wait for it for ever.
    fn is_dated(&self, secret: &Secret) -> bool {
        let ahead_s = self.settings.certificate_waits.spread_s;
        changed_s(secret).is_some_and(|changed_s| changed_s <= self.now_s + ahead_s)
    }

    /// Whether the annotation has a value that this authority was not yet replaced for.
    fn is_asked_for(&self) -> bool {
        let asked = self.rotate_annotation();
        let name = self.authority.secret(self.object);
        let done = self.secrets.get(&name).and_then(|s| s.annotations().get(ROTATED_ANNOTATION));
        !asked.is_empty() && done.map(String::as_str) != Some(asked)
    }

    fn rotate_annotation(&self) -> &str {
        self.object.annotations().get(ROTATE_ANNOTATION).map_or("", String::as_str)
    }

    /// Reads an authority's Secret. Of what is damaged, as much as can be is kept; None: nothing that
    /// could sign.
    fn read(&self, secret: &Secret) -> Option<Book> {
        let pair = |certificate: &str, key: &str| {
            let (certificate, key) = (entry(secret, certificate)?, entry(secret, key)?);
            let own = fault(certificate, key, certificate, Need::Authority, &[], self.now_s);
            if own.is_some() {
                return None;
            }
            let certificate_pem = pem_of(certificates(certificate).first()?);
            Some(Pair { certificate_pem, key_pem: String::from_utf8(key.to_vec()).ok()? })
        };
        let (current, next) = (pair("tls.crt", "tls.key"), pair("next.crt", "next.key"));
        let signers: Vec<_> = current.iter().chain(&next).collect();
        if signers.is_empty() {
            return None;
        }
        let mut trusted = self.living(entry(secret, "ca.crt").unwrap_or_default());
        for signer in signers {
            if !trusted.contains(&signer.certificate_pem) {
                trusted.push(signer.certificate_pem.clone());
            }
        }
        Some(Book { current, next, trusted })
    }

    /// A book without a past. Those who still hold certificates of a lost authority trust it, and are
    /// told of the new one before it signs.
    fn found(&self, keys: &mut dyn FnMut() -> KeyPair) -> Book {
        let new = authority(self.object, self.authority.word(), self.now_s, &keys());
        let mut trusted = Vec::new();
        for leaf in self.authority.leafs(self.object) {
            let Some(secret) = self.secrets.get(&leaf.secret) else { continue };
            let bundle = entry(secret, "ca.crt").unwrap_or_default();
            for certificate in self.living(bundle) {
                let in_use = fault(
                    entry(secret, "tls.crt").unwrap_or_default(),
                    entry(secret, "tls.key").unwrap_or_default(),
                    certificate.as_bytes(),
                    leaf.need,
                    &[],
                    self.now_s,
                );
                if in_use.is_none() && !trusted.contains(&certificate) {
                    trusted.push(certificate);
                }
            }
        }
        trusted.truncate(TRUSTED_MAX - 1);
        if trusted.is_empty() {
            let trusted = vec![new.certificate_pem.clone()];
            return Book { current: Some(new), next: None, trusted };
        }
        trusted.push(new.certificate_pem.clone());
        Book { current: None, next: Some(new), trusted }
    }

    /// The certificates in a text, each as PEM, without those whose time is over.
    fn living(&self, pem: &[u8]) -> Vec<String> {
        let alive = |der: &rustls::pki_types::CertificateDer<'_>| {
            lifetime(der).is_some_and(|(_, ends_s)| self.now_s < ends_s)
        };
        let mut all: Vec<String> =
            certificates(pem).iter().filter(|der| alive(der)).map(pem_of).collect();
        all.truncate(TRUSTED_MAX);
        all
    }

    fn authority_secret(&self, name: &str, book: &Book) -> Secret {
        // A new book, or the next one in it, answers what was asked for until now.
        let live = self.secrets.get(name).and_then(|s| s.annotations().get(ROTATED_ANNOTATION));
        let answered = match (book.phase(), live) {
            ("announced", _) | (_, None) => self.rotate_annotation(),
            (_, Some(answered)) => answered,
        };
        let annotations = [(ROTATED_ANNOTATION, answered), (PHASE_ANNOTATION, book.phase())];
        self.secret(name, "Opaque", book.data(), &annotations)
    }

    fn secret(
        &self,
        name: &str,
        kind: &str,
        data: BTreeMap<String, ByteString>,
        annotations: &[(&str, &str)],
    ) -> Secret {
        let mut all = map(json!({ CHANGED_ANNOTATION: self.now_s.to_string() }));
        all.extend(annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
        let mut meta = metadata(self.object, name, "tls");
        meta["annotations"] = json!(all);
        Secret {
            metadata: serde_json::from_value(meta).expect("metadata"),
            type_: Some(kind.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }
}

/// Ours by reference, or made for this cluster by cert-manager, whose place we take.
fn is_ours(object: &MetaStore, secret: &Secret) -> bool {
    let label = secret.labels().get(crate::resources::CLUSTER_LABEL);
    owner_uid(&secret.metadata).map_or_else(
        || label.is_some_and(|label| *label == name(object)),
        |owner| owner == uid(object),
    )
}

fn changed_s(secret: &Secret) -> Option<i64> {
    secret.annotations().get(CHANGED_ANNOTATION)?.parse().ok()
}

fn entry<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice())
}

fn to_data(data: BTreeMap<&str, String>) -> BTreeMap<String, ByteString> {
    data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
}

/// When two thirds of its life are over.
fn due_s(pair: &Pair) -> Option<i64> {
    due_s_of(&pair.certificate_pem)
}

fn due_s_of(pem: &str) -> Option<i64> {
    let der = certificates(pem.as_bytes()).into_iter().next()?;
    let (begins_s, ends_s) = lifetime(&der)?;
    Some(begins_s + (ends_s - begins_s) / 3 * 2)
}
