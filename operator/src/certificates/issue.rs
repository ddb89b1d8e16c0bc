//! Makes certificates. Everything but the keys and the randomness in a signature follows from the
//! arguments.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use sha2::{Digest, Sha256};

use super::check::{Name, Need, pem_of};
use super::{AUTHORITY_LIFE_S, BACKDATE_S, LEAF_LIFE_S};
use crate::crd::MetaStore;
use crate::resources::{Settings, name};

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

/// An authority. Each has a name of its own: two of one name make some programs look at the wrong one.
pub(super) fn authority(object: &MetaStore, word: &str, now_s: i64, key: &KeyPair) -> Pair {
    let digest = Sha256::digest(key.der_bytes());
    let mark: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut params = dated(now_s, AUTHORITY_LIFE_S);
    let common_name = format!("{} {word} CA {mark}", name(object));
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(key).expect("all parameters are of our own making");
    Pair { certificate_pem: pem_of(made.der()), key_pem: key.serialize_pem() }
}

/// A certificate by an authority.
pub(super) fn leaf(
    object: &MetaStore,
    settings: &Settings,
    need: Need,
    signer: &Pair,
    now_s: i64,
    key: &KeyPair,
) -> Pair {
    let mut params = dated(now_s, LEAF_LIFE_S);
    let common_name = match need {
        Need::Client(common_name) => common_name.to_owned(),
        Need::Member | Need::Server | Need::Authority => name(object),
    };
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    if need == Need::Member {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    for name in need.names(object, settings) {
        params.subject_alt_names.push(match name {
            Name::Dns(name) => rcgen::SanType::DnsName(name.try_into().expect("names are ASCII")),
            Name::Address(address) => rcgen::SanType::IpAddress(address),
        });
    }
    let signing_key =
        KeyPair::from_pem(&signer.key_pem).expect("it was checked against its certificate");
    let issuer = Issuer::from_ca_cert_pem(&signer.certificate_pem, signing_key);
    let issuer = issuer.expect("it was checked");
    let made = params.signed_by(key, &issuer).expect("all parameters are of our own making");
    Pair { certificate_pem: pem_of(made.der()), key_pem: key.serialize_pem() }
}

fn dated(now_s: i64, life_s: i64) -> CertificateParams {
    let at = |time_s: i64| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time_s).unwrap_or_default())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = at(now_s - BACKDATE_S);
    params.not_after = at(now_s - BACKDATE_S + life_s);
    params
}
