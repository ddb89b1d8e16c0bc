//! Whether a certificate is what it has to be, judged by the same library that members and clients
//! judge it with.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::extensions::GeneralName;

use super::{MEMBER_ADDRESSES, Secrets, entry, member_names};
use crate::crd::{MetaStore, TlsMode};
use crate::resources::{
    Settings, client_secret, operator_secret, peer_secret, pod_host, user_secret,
};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A member, which is called and calls.
    Member,
    /// One that is only called.
    Server,
    /// A client of that name.
    Client(&'static str),
    /// One that signs others.
    Authority,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Dns(String),
    Address(IpAddr),
}

impl Need {
    /// The names its certificate holds.
    pub(super) fn names(self, object: &MetaStore, settings: &Settings) -> Vec<Name> {
        if self != Need::Member {
            return Vec::new();
        }
        let addresses = MEMBER_ADDRESSES.iter().flat_map(|text| text.parse().map(Name::Address));
        member_names(object, settings).into_iter().map(Name::Dns).chain(addresses).collect()
    }
}

/// All certificates in a text, as far as it can be read.
pub(super) fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).map_while(Result::ok).collect()
}

/// A certificate as PEM, in the form in which it is issued, too.
pub(super) fn pem_of(der: &CertificateDer<'_>) -> String {
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// From when to when it is valid, in seconds since 1970.
pub(super) fn lifetime(der: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Whether it holds these names and no others.
pub(super) fn names_are(der: &CertificateDer<'_>, wanted: &[Name]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(der) else { return false };
    let Ok(extension) = parsed.subject_alternative_name() else { return false };
    let names = extension.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let held = names.iter().map(|name| match name {
        GeneralName::DNSName(name) => Some(Name::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(Name::Address),
        _ => None,
    });
    held.collect::<Option<BTreeSet<_>>>() == Some(wanted.iter().cloned().collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// What is wrong with a certificate, its key and the authorities in `ca_pem`; None: nothing. `hosts`
/// are names that it must be valid for.
pub(super) fn fault(
    certificate_pem: &[u8],
    key_pem: &[u8],
    ca_pem: &[u8],
    need: Need,
    hosts: &[String],
    now_s: i64,
) -> Option<String> {
    let chain = certificates(certificate_pem);
    let Some((end, between)) = chain.split_first() else {
        return Some("tls.crt holds no certificate".to_owned());
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key_pem) else {
        return Some("tls.key holds no private key".to_owned());
    };
    let provider = Arc::new(ring::default_provider());
    let Ok(key) = ring::sign::any_supported_type(&key) else {
        return Some("tls.key is of a kind that is not known".to_owned());
    };
    if CertifiedKey::new(vec![end.clone().into_owned()], key).keys_match().is_err() {
        return Some("tls.key does not belong to tls.crt".to_owned());
    }
    if need == Need::Authority {
        return authority_fault(end, now_s);
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(ca_pem));
    if added == 0 {
        return Some("ca.crt holds no certificate".to_owned());
    }
    verify(end, between, &Arc::new(roots), &provider, need, hosts, now_s).err()
}

fn authority_fault(der: &CertificateDer<'_>, now_s: i64) -> Option<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(der) else {
        return Some("tls.crt can not be read".to_owned());
    };
    if !parsed.is_ca() {
        return Some("tls.crt is no authority's".to_owned());
    }
    (now_s >= parsed.validity().not_after.timestamp()).then(|| "tls.crt has expired".to_owned())
}

fn verify(
    end: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    need: Need,
    hosts: &[String],
    now_s: i64,
) -> Result<(), String> {
    let since_1970 = Duration::from_secs(u64::try_from(now_s).unwrap_or_default());
    let now = UnixTime::since_unix_epoch(since_1970);
    let usable = |error: &dyn ToString| format!("ca.crt can not be used: {}", error.to_string());
    if need != Need::Server {
        let (roots, provider) = (Arc::clone(roots), Arc::clone(provider));
        let as_client = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        let as_client = as_client.map_err(|error| usable(&error))?;
        as_client.verify_client_cert(end, between, now).map_err(|error| said(&error, ""))?;
    }
    if matches!(need, Need::Client(_)) {
        return Ok(());
    }
    let as_server =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build();
    let as_server = as_server.map_err(|error| usable(&error))?;
    let no_hosts = ["localhost".to_owned()];
    for host in if hosts.is_empty() { no_hosts.as_slice() } else { hosts } {
        let name = ServerName::try_from(host.as_str()).map_err(|error| error.to_string())?;
        let verdict = as_server.verify_server_cert(end, between, &name, &[], now);
        verdict.map_err(|error| said(&error, host))?;
    }
    Ok(())
}

fn said(error: &Error, host: &str) -> String {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "tls.crt has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "tls.crt is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "tls.crt is not signed by an authority in ca.crt".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("tls.crt is not valid for {host}")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "tls.crt lacks the extended key usage of servers or of clients".to_owned()
            }
            other => format!("tls.crt: {other}"),
        },
        other => format!("tls.crt: {other}"),
    }
}

/// What is missing in or wrong with the Secrets that the user or cert-manager keeps: one line each,
/// with the Secret's name.
pub fn lacking(
    object: &MetaStore,
    settings: &Settings,
    secrets: &Secrets,
    now_s: i64,
) -> Vec<String> {
    let (client, peer) = (&object.spec.tls.client, &object.spec.tls.peer);
    let others = |mode: TlsMode| matches!(mode, TlsMode::Secret | TlsMode::CertManager);
    let mut wanted = Vec::new();
    if others(client.mode) {
        wanted.push((client_secret(object), Need::Server));
        if client.mode == TlsMode::CertManager || client.client_auth {
            wanted.push((operator_secret(object), Need::Client("metastore-operator")));
        }
        wanted.push((user_secret(object), Need::Client("client")));
    }
    if others(peer.mode) {
        wanted.push((peer_secret(object), Need::Member));
    }
    let hosts: Vec<_> =
        (0..object.spec.replicas).map(|ordinal| pod_host(object, settings, ordinal)).collect();
    let mut lines = Vec::new();
    for (name, need) in wanted {
        let Some(name) = name else { continue };
        let Some(secret) = secrets.get(&name) else {
            lines.push(format!("Secret {name}: not there"));
            continue;
        };
        let absent: Vec<_> = ["tls.crt", "tls.key", "ca.crt"]
            .into_iter()
            .filter(|key| entry(secret, key).is_none_or(<[u8]>::is_empty))
            .collect();
        if !absent.is_empty() {
            lines.extend(absent.iter().map(|key| format!("Secret {name}: no {key}")));
            continue;
        }
        let part = |key| entry(secret, key).unwrap_or_default();
        let fault = fault(part("tls.crt"), part("tls.key"), part("ca.crt"), need, &hosts, now_s);
        lines.extend(fault.map(|fault| format!("Secret {name}: {fault}")));
    }
    lines.dedup();
    lines
}
