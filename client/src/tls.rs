//! TLS towards the members: whom to believe, who one is, and under which name to look.
//!
//! Everything comes as PEM in memory; where it came from is the caller's affair, and a rotated
//! certificate is taken up by making a new client. There is no way to skip verification.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};

/// How to speak TLS.
///
/// ```no_run
/// # fn example(ca: Vec<u8>, cert: Vec<u8>, key: Vec<u8>) -> client::Result<()> {
/// use client::{Client, Config, Tls};
/// // An address, held to the name of the member that should be there.
/// let tls = Tls::new(ca).identity(cert, key).server_name("demo-0.demo.default.svc");
/// let client = Client::new(Config::new(["https://10.1.2.3:2379"]).tls(tls))?;
/// # let _ = client; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tls {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("has_identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Members are believed whose certificates one of these CAs (PEM) vouches for.
    pub fn new(ca_pem: impl Into<Vec<u8>>) -> Self {
        Tls { ca: ca_pem.into(), identity: None, server_name: None }
    }

    /// The certificate chain and the key (PEM) this client shows.
    pub fn identity(mut self, cert_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((cert_pem.into(), key_pem.into()));
        self
    }

    /// The name every member's certificate must carry, instead of the host of its endpoint: for
    /// endpoints that are addresses.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(crate) fn ready(&self) -> Result<Ready> {
        let bad = |what: &str, why: String| Error::Tls { problem: format!("{what}: {why}") };
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.ca).map_err(|why| bad("the CA", why))? {
            roots.add(ca).map_err(|error| bad("the CA", error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS", error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert).map_err(|why| bad("the certificate", why))?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| bad("the key", error.to_string()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        bad("the key", "not the key of the certificate".to_owned())
                    }
                    other => bad("the key", other.to_string()),
                })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = match &self.server_name {
            None => None,
            Some(name) => Some(server_name(name).map_err(|why| bad("the server name", why))?),
        };
        Ok(Ready { connector: TlsConnector::from(Arc::new(config)), server_name })
    }
}

fn certificates(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("no certificate in PEM".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

fn server_name(host: &str) -> std::result::Result<ServerName<'static>, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is not a name a certificate can have"))
}

/// [`Tls`] after its checks.
#[derive(Clone)]
pub(crate) struct Ready {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Connects to an endpoint, with TLS if it asks for it.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    tls: Option<&Ready>,
) -> std::result::Result<Stream, String> {
    let stream =
        TcpStream::connect(endpoint.authority.as_str()).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let Some(tls) = tls.filter(|_| endpoint.is_tls) else { return Ok(Stream::Plain(stream)) };
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => server_name(endpoint.origin.host().unwrap_or_default())?,
    };
    let stream = tls.connector.connect(name, stream).await;
    Ok(Stream::Tls(Box::new(stream.map_err(|error| handshake_failure(&error))?)))
}

/// Why there is no TLS, in words that say what to do if the other side does not speak it.
fn handshake_failure(error: &io::Error) -> String {
    use rustls::{Error as Tls, InvalidMessage};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Tls>());
    match cause {
        Some(Tls::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "TLS: what it answered is not TLS; it may be a plain endpoint".to_owned()
        }
        None if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ) =>
        {
            "TLS: it ended the connection at once; it may be a plain endpoint".to_owned()
        }
        _ => format!("TLS: {error}"),
    }
}

/// A connection with TLS around it, or without. It does not say that it takes several pieces at a time,
/// for h2 would then write every message of 256 bytes and more by itself.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(tls: &Tls) -> String {
        tls.ready().expect_err("refused").to_string()
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_before_anything_is_dialled() {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let good = Tls::new(cert.clone());
        assert!(good.ready().is_ok());
        assert!(good.clone().identity(cert.clone(), key.clone()).ready().is_ok());
        assert_eq!(problem(&Tls::new("")), "TLS: the CA: no certificate in PEM");
        assert!(problem(&good.clone().identity(cert.clone(), "")).starts_with("TLS: the key: "));
        assert_eq!(
            problem(&good.clone().identity(cert, other.signing_key.serialize_pem())),
            "TLS: the key: not the key of the certificate"
        );
        assert_eq!(
            problem(&good.clone().identity("x", key)),
            "TLS: the certificate: no certificate in PEM"
        );
        assert_eq!(
            problem(&good.server_name("a b")),
            "TLS: the server name: \"a b\" is not a name a certificate can have"
        );
    }
}
