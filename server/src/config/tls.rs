//! The settings of TLS: which files, who may come, which versions and suites.
//!
//! etcd's rules where they are safe: `--trusted-ca-file` alone already demands certificates of
//! callers, a plain URL beside certificates is served plainly with a warning, cipher suites are those
//! of TLS 1.2 (1.3 has no bad ones to leave out). Nothing is read here; `crate::tls` does that.

use std::path::PathBuf;

use super::sources::Given;
use super::typed::boolean;
use super::url::{Scheme, Url};
use super::{Config, ConfigError};

/// etcd's name of a suite of TLS 1.2 that is offered here, and rustls's.
const SUITES: [(&str, rustls::CipherSuite); 8] = {
    use rustls::CipherSuite as Suite;
    [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        // Two older names of the same.
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ]
};
/// Those of TLS 1.3, which are always on.
const SUITES_13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Versions and suites, the same towards clients and peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProtocol {
    /// TLS 1.2 is spoken.
    pub has_12: bool,
    /// TLS 1.3 is spoken.
    pub has_13: bool,
    /// The suites of TLS 1.2 that are spoken; none: all there are.
    pub suites: Option<Vec<rustls::CipherSuite>>,
}

/// The files and names of one side: towards clients, or towards peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Certificate chain and key used when this member dials, if they are others.
    pub dial: Option<(PathBuf, PathBuf)>,
    /// CAs of those who call, and of those who are called. Given: callers need a certificate.
    pub trusted_ca: Option<PathBuf>,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
    /// Common names the other side may carry; empty: any.
    pub allowed_cns: Vec<String>,
    /// Names the other side's certificate must be good for, one of them; empty: any.
    pub allowed_hostnames: Vec<String>,
    /// A peer's certificate is held against the URLs of the member it says to be.
    pub check_caller_names: bool,
    /// Versions and suites.
    pub protocol: TlsProtocol,
}

fn path(given: &Given, name: &'static str) -> Option<PathBuf> {
    Some(given.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn list(given: &Given, name: &'static str) -> Vec<String> {
    given.text(name).split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn contradiction<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(text))
}

/// What is read of the flags, before anything is known about URLs.
pub(super) struct TlsSettings {
    pub(super) client: Option<TlsFiles>,
    pub(super) peer: Option<TlsFiles>,
}

/// The flags of one side, by name.
struct Side {
    cert: &'static str,
    key: &'static str,
    auth: &'static str,
    ca: &'static str,
    crl: &'static str,
    dial: (&'static str, &'static str),
    cns: Option<&'static str>,
    hostnames: &'static str,
}

const CLIENT: Side = Side {
    cert: "cert-file",
    key: "key-file",
    auth: "client-cert-auth",
    ca: "trusted-ca-file",
    crl: "client-crl-file",
    dial: ("client-cert-file", "client-key-file"),
    cns: None,
    hostnames: "client-cert-allowed-hostname",
};

const PEER: Side = Side {
    cert: "peer-cert-file",
    key: "peer-key-file",
    auth: "peer-client-cert-auth",
    ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    dial: ("peer-client-cert-file", "peer-client-key-file"),
    cns: Some("peer-cert-allowed-cn"),
    hostnames: "peer-cert-allowed-hostname",
};

pub(super) fn settings(given: &Given) -> Result<TlsSettings, ConfigError> {
    let protocol = protocol(given)?;
    let mut peer = side(given, &PEER, &protocol)?;
    if let Some(peer) = &mut peer {
        peer.check_caller_names = !boolean(given, "peer-skip-client-san-verification");
    }
    Ok(TlsSettings { client: side(given, &CLIENT, &protocol)?, peer })
}

fn side(
    given: &Given,
    side: &Side,
    protocol: &TlsProtocol,
) -> Result<Option<TlsFiles>, ConfigError> {
    let (cert, key) = match (path(given, side.cert), path(given, side.key)) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => {
            // Demands that nothing could fulfil, or that would silently be none.
            let demands = [side.auth, side.ca, side.crl, side.hostnames, side.dial.0, side.dial.1];
            let demand = demands.into_iter().chain(side.cns).find(|name| {
                let text = given.text(name);
                !text.is_empty() && (*name != side.auth || boolean(given, side.auth))
            });
            return match demand {
                Some(demand) => contradiction(format!(
                    "--{demand} is given without a certificate: --{} and --{} must be provided",
                    side.cert, side.key
                )),
                None => Ok(None),
            };
        }
        _ => {
            return contradiction(format!(
                "--{} and --{} must both be present[key: {}, cert: {}]",
                side.key,
                side.cert,
                given.text(side.key),
                given.text(side.cert)
            ));
        }
    };
    let dial = match (path(given, side.dial.0), path(given, side.dial.1)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return contradiction(format!(
                "--{} and --{} must both be present or both absent",
                side.dial.1, side.dial.0
            ));
        }
    };
    let trusted_ca = path(given, side.ca);
    let allowed_cns = side.cns.map_or_else(Vec::new, |name| list(given, name));
    let allowed_hostnames = list(given, side.hostnames);
    let crl = path(given, side.crl);
    if let (Some(cns), false, false) =
        (side.cns, allowed_cns.is_empty(), allowed_hostnames.is_empty())
    {
        return contradiction(format!("--{cns} and --{} are mutually exclusive", side.hostnames));
    }
    // Without a CA the system's would be asked, and anybody whom any of them vouches for let in.
    if trusted_ca.is_none() {
        let needs_ca = [
            (side.auth, boolean(given, side.auth)),
            (side.crl, crl.is_some()),
            (side.hostnames, !allowed_hostnames.is_empty()),
            (side.cns.unwrap_or_default(), !allowed_cns.is_empty()),
        ];
        if let Some((name, _)) = needs_ca.iter().find(|(_, needs)| *needs) {
            return contradiction(format!("--{name} needs --{}", side.ca));
        }
    }
    Ok(Some(TlsFiles {
        cert,
        key,
        dial,
        trusted_ca,
        crl,
        allowed_cns,
        allowed_hostnames,
        check_caller_names: false,
        protocol: protocol.clone(),
    }))
}

fn protocol(given: &Given) -> Result<TlsProtocol, ConfigError> {
    let version = |name| match given.text(name) {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(12)),
        "TLS1.3" => Ok(Some(13)),
        other => contradiction(format!(
            "--{name}: unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"
        )),
    };
    let (min, max) =
        (version("tls-min-version")?.unwrap_or(12), version("tls-max-version")?.unwrap_or(13));
    if min > max {
        return contradiction(format!(
            "min version ({}) is greater than max version ({})",
            given.text("tls-min-version"),
            given.text("tls-max-version")
        ));
    }
    let names = list(given, "cipher-suites");
    if names.is_empty() {
        return Ok(TlsProtocol { has_12: min == 12, has_13: max == 13, suites: None });
    }
    let mut suites = Vec::new();
    for name in &names {
        match SUITES.iter().find(|(known, _)| known == name) {
            Some((_, suite)) => suites.push(*suite),
            None if SUITES_13.contains(&name.as_str()) => {}
            None => {
                return contradiction(format!(
                    "--cipher-suites: unexpected TLS cipher suite {name:?}"
                ));
            }
        }
    }
    if min == 13 {
        return contradiction(
            "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled"
                .to_owned(),
        );
    }
    if suites.is_empty() && max == 12 {
        return contradiction("--cipher-suites: none is of TLS1.2".to_owned());
    }
    Ok(TlsProtocol { has_12: !suites.is_empty(), has_13: max == 13, suites: Some(suites) })
}

impl Config {
    /// Whether every URL can be served and reached as it says; what is odd is warned of.
    pub(super) fn check_tls(&mut self) -> Result<(), ConfigError> {
        for url in self.listen_client_urls.iter().chain(&self.listen_client_http_urls) {
            if url.is_tls() && self.client_tls.is_none() {
                return contradiction(format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                     with HTTPS scheme"
                ));
            }
        }
        if let Some(url) = self.listen_metrics_urls.iter().find(|url| url.is_tls())
            && self.client_tls.is_none()
        {
            return contradiction(format!(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure \
                 url {url}"
            ));
        }
        for (name, urls) in [
            ("listen-peer-urls", &self.listen_peer_urls),
            ("initial-advertise-peer-urls", &self.advertise_peer_urls),
        ] {
            for url in urls {
                check_peer_url(name, url, self.peer_tls.as_ref())?;
            }
        }
        let ignored = "ignoring key and cert files";
        for (what, has_files, urls) in [
            ("client", self.client_tls.is_some(), &self.listen_client_urls),
            ("client", self.client_tls.is_some(), &self.listen_client_http_urls),
            ("peer", self.peer_tls.is_some(), &self.listen_peer_urls),
        ] {
            for url in urls.iter().filter(|url| has_files && !url.is_tls()) {
                self.warnings.push(format!(
                    "scheme is {} while key and cert files are present; {ignored} for the {what} \
                     url {url}",
                    if url.scheme() == Scheme::Unix { "unix" } else { "HTTP" },
                ));
            }
        }
        Ok(())
    }
}

/// Whether a URL of this member or of another can be spoken to.
pub(super) fn check_peer_url(
    flag: &str,
    url: &Url,
    tls: Option<&TlsFiles>,
) -> Result<(), ConfigError> {
    match (url.scheme(), tls) {
        (Scheme::Http, _) => Ok(()),
        (Scheme::Https, None) => contradiction(format!(
            "--{flag} {url}: TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for \
             a peer url with HTTPS scheme"
        )),
        (Scheme::Https, Some(TlsFiles { trusted_ca: None, .. })) => contradiction(format!(
            "--{flag} {url}: --peer-trusted-ca-file must be provided for a peer url with HTTPS \
             scheme: without it no member knows another"
        )),
        (Scheme::Https, Some(_)) => Ok(()),
        (Scheme::Unix | Scheme::Unixs, _) => {
            contradiction(format!("--{flag} {url}: members speak over TCP alone"))
        }
    }
}
