//! From files to configurations, or one line that names the file and what is wrong with it.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::names::{Allowed, Named};
use crate::config::{TlsFiles, TlsProtocol};

/// Largest file that is read: a bundle of some hundred CAs.
const FILE_BYTES_MAX: u64 = 1 << 20;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// A file that can not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct LoadError {
    path: String,
    reason: String,
}

impl LoadError {
    pub(super) fn new(path: &Path, reason: impl Into<String>) -> Self {
        LoadError { path: path.display().to_string(), reason: reason.into() }
    }
}

/// What lies in the files at one moment.
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    dial: Option<(Vec<u8>, Vec<u8>)>,
    trusted_ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, LoadError> {
        let dial = match &files.dial {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        Ok(Contents {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            dial,
            trusted_ca: files.trusted_ca.as_deref().map(read).transpose()?,
            crl: files.crl.as_deref().map(read).transpose()?,
        })
    }

    /// Tells one content from another.
    pub(super) fn digest(&self) -> [u8; 32] {
        let Contents { cert, key, dial, trusted_ca, crl } = self;
        let (dial_cert, dial_key) = dial.as_ref().map(|(c, k)| (c, k)).unzip();
        let mut hasher = blake3::Hasher::new();
        for part in [Some(cert), Some(key), dial_cert, dial_key, trusted_ca.as_ref(), crl.as_ref()]
        {
            let part = part.map_or(&[][..], Vec::as_slice);
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let bytes = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = bytes().map_err(|error: std::io::Error| {
        let text = error.to_string();
        LoadError::new(path, text.split(" (os error").next().unwrap_or_default().to_lowercase())
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::new(path, format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Configurations for dialling, by what is spoken then.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) http2: Arc<ClientConfig>,
    pub(super) http1: Arc<ClientConfig>,
}

/// Configurations made of one content of the files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// None without a CA: nobody could be believed.
    pub(super) dial: Option<Dial>,
    pub(super) digest: [u8; 32],
    not_before: i64,
    /// When the first certificate of the chain, or the one used for dialling, runs out: seconds
    /// since 1970.
    pub(super) not_after: i64,
}

impl Loaded {
    /// Whether the certificates hold at this moment.
    pub(super) fn check_validity(&self, now: i64) -> Result<(), String> {
        if now > self.not_after {
            return Err(format!("has expired {} s ago", now - self.not_after));
        }
        if now < self.not_before {
            return Err(format!("is not valid before {} s from now", self.not_before - now));
        }
        Ok(())
    }
}

/// Makes configurations of contents.
pub(super) fn build(files: &TlsFiles, contents: &Contents) -> Result<Loaded, LoadError> {
    let (provider, versions) = protocol(&files.protocol);
    let own = Identity::parse(&files.cert, &contents.cert, &files.key, &contents.key)?;
    let dial_identity = match (&files.dial, &contents.dial) {
        (Some((cert_path, key_path)), Some((cert, key))) => {
            Some(Identity::parse(cert_path, cert, key_path, key)?)
        }
        _ => None,
    };
    let all = || std::iter::once(&own).chain(&dial_identity);
    let not_before = all().map(|identity| identity.not_before).max().unwrap_or_default();
    let not_after = all().map(|identity| identity.not_after).min().unwrap_or_default();
    let trust = match (&files.trusted_ca, &contents.trusted_ca) {
        (Some(path), Some(pem)) => Some((path, Arc::new(roots(path, pem)?))),
        _ => None,
    };
    let crls = match (&files.crl, &contents.crl) {
        (Some(path), Some(bytes)) => revocations(path, bytes)?,
        _ => Vec::new(),
    };
    let allowed = Allowed::new(&files.allowed_cns, &files.allowed_hostnames)
        .map_err(|reason| LoadError::new(&files.cert, reason))?;
    let allowed = (!allowed.is_anybody()).then(|| Arc::new(allowed));

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| LoadError::new(&files.cert, error.to_string()))?;
    let builder = match &trust {
        None => builder.with_no_client_auth(),
        Some((path, roots)) => {
            let callers = client_verifier(path, roots, &crls, &provider)?;
            match &allowed {
                None => builder.with_client_cert_verifier(callers),
                Some(allowed) => builder.with_client_cert_verifier(Arc::new(Named {
                    verifier: callers,
                    allowed: Arc::clone(allowed),
                })),
            }
        }
    };
    let mut server = builder
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .map_err(|error| LoadError::new(&files.key, identity_error(&error)))?;
    server.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    if trust.is_some() {
        // A resumed session would go on with a certificate that has run out or been revoked since.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }

    let dial = match &trust {
        None => None,
        Some((path, roots)) => {
            let called = server_verifier(path, roots, &crls, &provider)?;
            let called: Arc<dyn ServerCertVerifier> = match allowed {
                None => called,
                Some(allowed) => Arc::new(Named { verifier: called, allowed }),
            };
            let identity = dial_identity.as_ref().unwrap_or(&own);
            let client = |alpn: &[u8]| {
                let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                    .with_protocol_versions(&versions)
                    .map_err(|error| LoadError::new(path, error.to_string()))?;
                let mut client = builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(&called))
                    .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                    .map_err(|error| LoadError::new(&files.key, identity_error(&error)))?;
                client.alpn_protocols = vec![alpn.to_vec()];
                Ok(Arc::new(client))
            };
            Some(Dial { http2: client(HTTP2)?, http1: client(HTTP1)? })
        }
    };
    Ok(Loaded { server: Arc::new(server), dial, digest: contents.digest(), not_before, not_after })
}

fn identity_error(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "not the key of the certificate".to_owned(),
        other => format!("not a key that can be used: {other}"),
    }
}

fn protocol(
    protocol: &TlsProtocol,
) -> (Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>) {
    let mut provider = ring::default_provider();
    if let Some(suites) = &protocol.suites {
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || suites.contains(&suite.suite()));
    }
    let mut versions = Vec::new();
    if protocol.has_13 {
        versions.push(&version::TLS13);
    }
    if protocol.has_12 {
        versions.push(&version::TLS12);
    }
    (Arc::new(provider), versions)
}

/// A certificate chain and its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    not_before: i64,
    not_after: i64,
}

impl Identity {
    fn parse(
        cert_path: &Path,
        cert: &[u8],
        key_path: &Path,
        key: &[u8],
    ) -> Result<Self, LoadError> {
        let chain = certificates(cert_path, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| LoadError::new(key_path, format!("no private key in PEM: {error}")))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| {
            LoadError::new(cert_path, format!("not a certificate of X.509: {error}"))
        })?;
        let validity = leaf.validity();
        let (not_before, not_after) =
            (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Identity { chain, key, not_before, not_after })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(LoadError::new(path, "no certificate in PEM")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(LoadError::new(path, format!("not PEM: {error}"))),
    }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots
            .add(certificate)
            .map_err(|error| LoadError::new(path, format!("not a CA's certificate: {error}")))?;
    }
    Ok(roots)
}

/// Lists of revoked certificates, in PEM or, as etcd has it, one in DER.
fn revocations(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    if !bytes.starts_with(b"-----") {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err(LoadError::new(path, "no revocation list in PEM")),
        Ok(lists) => Ok(lists),
        Err(error) => Err(LoadError::new(path, format!("not PEM: {error}"))),
    }
}

fn client_verifier(
    path: &Path,
    roots: &Arc<RootCertStore>,
    crls: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, LoadError> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .with_crls(crls.iter().cloned())
        // As in etcd: a list revokes what it names, and says nothing about other CAs.
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| LoadError::new(path, error.to_string()))
}

fn server_verifier(
    path: &Path,
    roots: &Arc<RootCertStore>,
    crls: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, LoadError> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .with_crls(crls.iter().cloned())
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| LoadError::new(path, error.to_string()))
}
