//! TLS for everything that listens and dials: one place where files become configurations.
//!
//! A [`Tls`] stands for one side, clients or peers. It holds the newest good configuration behind a
//! pointer; each handshake takes the one of that moment, so a rotated certificate, key, CA or
//! revocation list holds for the next connection, and those that stand are left alone. Files are
//! looked at every second, by content: a Kubernetes volume swaps a symbolic link, others write in
//! place, and both look alike this way. What can not be used (half-written, expired, a key of another
//! certificate) is logged once, counted, and the last good configuration stays in use.
//!
//! A handshake has a deadline, and handshakes have their number (`strangers`), so that who
//! connects and says nothing costs little, and nobody else anything.

mod load;
mod names;
mod stream;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, Error as TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use load::LoadError;
pub(crate) use names::fits;
pub(crate) use stream::MaybeTls;

use crate::config::{Config, TlsFiles};
use crate::metrics::Metrics;
use crate::shutdown::stopped;
use load::{Contents, Loaded};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// For a whole handshake, as etcd.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A refused handshake is logged once in this time for each reason.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Which side of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Towards clients.
    Client,
    /// Towards peers.
    Peer,
}

impl Scope {
    /// As labels and log lines have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Client => "client",
            Scope::Peer => "peer",
        }
    }
}

/// Why a connection did not become one. A fixed set: it is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Timeout,
    Closed,
    NotTls,
    Incompatible,
    NoCertificate,
    Expired,
    UnknownCa,
    Revoked,
    NotAllowed,
    BadCertificate,
    RefusedByPeer,
    Other,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Timeout => "timeout",
            Reason::Closed => "closed",
            Reason::NotTls => "not_tls",
            Reason::Incompatible => "incompatible",
            Reason::NoCertificate => "no_certificate",
            Reason::Expired => "expired",
            Reason::UnknownCa => "unknown_ca",
            Reason::Revoked => "revoked",
            Reason::NotAllowed => "not_allowed",
            Reason::BadCertificate => "bad_certificate",
            Reason::RefusedByPeer => "refused_by_peer",
            Reason::Other => "other",
        }
    }

    fn of(error: &std::io::Error) -> Reason {
        let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
            return Reason::Closed;
        };
        match inner {
            TlsError::NoCertificatesPresented => Reason::NoCertificate,
            TlsError::InvalidCertificate(error) => match error {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Reason::Expired,
                CertificateError::UnknownIssuer => Reason::UnknownCa,
                CertificateError::Revoked => Reason::Revoked,
                CertificateError::Other(_) => Reason::NotAllowed,
                _ => Reason::BadCertificate,
            },
            TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => Reason::NotTls,
            TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol => Reason::Incompatible,
            TlsError::AlertReceived(_) => Reason::RefusedByPeer,
            _ => Reason::Other,
        }
    }
}

/// TLS of one side, with the newest good configuration.
pub struct Tls {
    scope: Scope,
    files: TlsFiles,
    loaded: ArcSwap<Loaded>,
    metrics: Arc<Metrics>,
    refusals: Mutex<BTreeMap<Reason, Instant>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("scope", &self.scope).field("files", &self.files).finish()
    }
}

/// Both sides, as far as they are configured.
#[derive(Clone, Debug)]
pub struct Sides {
    /// Towards clients.
    pub client: Option<Arc<Tls>>,
    /// Towards peers.
    pub peer: Option<Arc<Tls>>,
}

impl Sides {
    /// Reads all files for the first time.
    pub fn load(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, LoadError> {
        let load = |scope, files: &Option<TlsFiles>| {
            files.as_ref().map(|files| Tls::load(scope, files, metrics)).transpose()
        };
        Ok(Self {
            client: load(Scope::Client, &config.client_tls)?,
            peer: load(Scope::Peer, &config.peer_tls)?,
        })
    }
}

impl Tls {
    /// Reads the files for the first time.
    pub fn load(
        scope: Scope,
        files: &TlsFiles,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, LoadError> {
        let loaded = load::build(files, &Contents::read(files)?)?;
        if let Err(why) = loaded.check_validity(now()) {
            tracing::warn!(
                scope = scope.as_str(),
                path = %files.cert.display(),
                "the certificate is not valid: {why}"
            );
        }
        let tls = Self {
            scope,
            files: files.clone(),
            loaded: ArcSwap::from_pointee(loaded),
            metrics: Arc::clone(metrics),
            refusals: Mutex::default(),
        };
        tls.show_expiry();
        Ok(Arc::new(tls))
    }

    fn show_expiry(&self) {
        self.metrics
            .tls_certificate_expiry
            .with_label_values(&[self.scope.as_str()])
            .set(self.loaded.load().not_after);
    }

    /// Looks at the files again and again until the member stops.
    pub async fn keep_fresh(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut refused: Option<String> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
                () = stopped(&mut stopping) => return,
            }
            match self.refresh() {
                Ok(false) => {}
                Ok(true) => {
                    refused = None;
                    self.count_reload("ok");
                    tracing::info!(
                        scope = self.scope.as_str(),
                        not_after = self.loaded.load().not_after,
                        "TLS files have changed and are in use"
                    );
                    self.show_expiry();
                }
                Err(error) => {
                    let error = error.to_string();
                    // Once for each state of the files.
                    if refused.as_ref() != Some(&error) {
                        self.count_reload("failed");
                        tracing::error!(
                            scope = self.scope.as_str(),
                            %error,
                            "TLS files have changed and can not be used: the last good ones stay"
                        );
                        refused = Some(error);
                    }
                }
            }
        }
    }

    fn count_reload(&self, result: &str) {
        self.metrics.tls_reloads.with_label_values(&[self.scope.as_str(), result]).inc();
    }

    /// Takes the files up if they have changed and can be used. `true`: they are in use now.
    fn refresh(&self) -> Result<bool, LoadError> {
        let held = self.loaded.load().digest;
        let found = Contents::read(&self.files)?;
        if found.digest() == held {
            return Ok(false);
        }
        // Somebody may be in the middle of writing: what is not the same twice is looked at later.
        if Contents::read(&self.files)?.digest() != found.digest() {
            return Ok(false);
        }
        let loaded = load::build(&self.files, &found)?;
        loaded
            .check_validity(now())
            .map_err(|why| LoadError::new(&self.files.cert, format!("the certificate {why}")))?;
        self.loaded.store(Arc::new(loaded));
        Ok(true)
    }

    /// The server's half of a handshake. `None`: it failed, which has been counted and logged.
    pub(crate) async fn accept<S>(
        &self,
        stream: S,
        from: impl std::fmt::Display,
    ) -> Option<MaybeTls<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded.load().server));
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(MaybeTls::Tls(Box::new(stream.into()))),
            Ok(Err(error)) => {
                self.refused(Reason::of(&error), &error.to_string(), from);
                None
            }
            Err(_) => {
                self.refused(Reason::Timeout, "no handshake in time", from);
                None
            }
        }
    }

    /// The client's half: `host` is whom the certificate must be good for.
    pub(crate) async fn connect<S>(
        &self,
        stream: S,
        host: &str,
        speaks: Speaks,
    ) -> std::io::Result<MaybeTls<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(host).map_err(std::io::Error::other)?;
        let loaded = self.loaded.load();
        let Some(dial) = &loaded.dial else {
            return Err(std::io::Error::other(
                "no CA is given that could vouch for the other side",
            ));
        };
        let config = match speaks {
            Speaks::Http2 => &dial.http2,
            Speaks::Http1 => &dial.http1,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, stream).await?;
        Ok(MaybeTls::Tls(Box::new(stream.into())))
    }

    /// Whether a caller's certificate is held against the URLs of the member it says to be.
    pub(crate) fn checks_caller_names(&self) -> bool {
        self.files.check_caller_names
    }

    fn refused(&self, reason: Reason, error: &str, from: impl std::fmt::Display) {
        let labels = [self.scope.as_str(), reason.as_str()];
        self.metrics.tls_handshake_failures.with_label_values(&labels).inc();
        let now = Instant::now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = refusals
            .get(&reason)
            .is_none_or(|at| now.saturating_duration_since(*at) >= REFUSAL_LOG_INTERVAL);
        if is_due {
            refusals.insert(reason, now);
            tracing::warn!(
                remote_addr = %from,
                reason = reason.as_str(),
                error,
                "rejected connection on {} endpoint",
                self.scope.as_str()
            );
        }
    }
}

/// What is spoken over a connection that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http2,
    Http1,
}

/// A host of a URL, as certificates name it.
fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    // An address may carry a zone, which is this machine's affair.
    let plain = host.split('%').next().unwrap_or(host);
    match plain.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::from(ip)),
        Err(_) => ServerName::try_from(plain.to_owned())
            .map_err(|_| format!("{host}: not a name a certificate can have")),
    }
}

/// The certificate the other side has shown.
pub(crate) fn certificate_of<S>(stream: &MaybeTls<S>) -> Option<CertificateDer<'static>> {
    match stream {
        MaybeTls::Plain(_) => None,
        MaybeTls::Tls(stream) => {
            stream.get_ref().1.peer_certificates()?.first().cloned().map(CertificateDer::into_owned)
        }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
