//! Who may come beyond whom a CA vouches for: the names of certificates.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use super::server_name;

/// Names of which the other side must have one.
#[derive(Debug)]
pub(super) struct Allowed {
    cns: Vec<String>,
    hostnames: Vec<ServerName<'static>>,
}

/// A certificate is good, and not wanted here.
#[derive(Debug, thiserror::Error)]
#[error("certificate authentication failed: none of its names is allowed")]
struct NotAllowed;

impl Allowed {
    pub(super) fn new(cns: &[String], hostnames: &[String]) -> Result<Self, String> {
        let hostnames =
            hostnames.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Allowed { cns: cns.to_vec(), hostnames })
    }

    pub(super) fn is_anybody(&self) -> bool {
        self.cns.is_empty() && self.hostnames.is_empty()
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let has_cn = || {
            let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
            let mut names = parsed.subject().iter_common_name().filter_map(|cn| cn.as_str().ok());
            names.find(|cn| self.cns.iter().any(|allowed| allowed == cn)).map(drop)
        };
        let has_hostname = || {
            let parsed = ParsedCertificate::try_from(certificate).ok()?;
            let mut names = self.hostnames.iter();
            names.find(|name| verify_server_name(&parsed, name).is_ok()).map(drop)
        };
        if self.is_anybody() || has_cn().is_some() || has_hostname().is_some() {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotAllowed)))))
    }
}

/// Whether a certificate may speak for one of these hosts. One without any names may speak for all,
/// as in etcd: it is then the CA alone that vouches.
pub(crate) fn fits<'a>(
    certificate: &CertificateDer<'_>,
    hosts: impl Iterator<Item = &'a str>,
) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let has_names = parsed.subject_alternative_name().ok().flatten().is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
    });
    if !has_names {
        return true;
    }
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
    let mut hosts = hosts.filter_map(|host| server_name(host).ok());
    hosts.any(|host| verify_server_name(&parsed, &host).is_ok())
}

/// A verifier that asks for names besides. It refuses within the handshake, so that the other side
/// is told.
#[derive(Debug)]
pub(super) struct Named<V: ?Sized> {
    pub(super) allowed: Arc<Allowed>,
    pub(super) verifier: Arc<V>,
}

impl ClientCertVerifier for Named<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        self.allowed.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl<V: ServerCertVerifier> ServerCertVerifier for Named<V> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        self.allowed.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
