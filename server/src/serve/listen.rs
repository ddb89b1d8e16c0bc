//! The sockets before anybody is accepted: which URLs share one, what is served on each, and why one
//! cannot be had.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Address, Config, Url};
use crate::tls::Tls;

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4_096;

/// A socket that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {url}: listen {network} {address}: bind: {reason}")]
pub struct BindError {
    flag: &'static str,
    url: String,
    network: &'static str,
    address: String,
    reason: String,
}

/// What is served on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// gRPC and pages.
    All,
    /// gRPC alone.
    Grpc,
    /// Pages alone.
    Pages,
    /// Metrics and health alone.
    Metrics,
    /// What only the owner of the data directory may ask for.
    Control,
}

#[derive(Debug)]
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// The name of a Unix socket, which goes when the listener goes.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What is spoken below HTTP.
#[derive(Clone, Debug)]
pub(super) enum Security {
    Plain,
    Tls(Arc<Tls>),
    /// Whatever the caller begins with.
    Either(Arc<Tls>),
}

/// One bound socket.
#[derive(Debug)]
pub struct Listener {
    pub(super) content: Content,
    pub(super) urls: Vec<Url>,
    pub(super) listening: Listening,
    pub(super) security: Security,
}

impl Listener {
    /// The URLs it was bound for: two if both `http` and `https` are asked for on one address.
    pub fn urls(&self) -> &[Url] {
        &self.urls
    }

    /// What is served on it.
    pub fn content(&self) -> Content {
        self.content
    }

    /// The address really bound, which tells the port when port 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.listening {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(..) => None,
        }
    }
}

impl Listener {
    /// Whether a URL asks for the same port, with TLS where this has none or the other way round.
    fn is_twin_of(&self, url: &Url) -> bool {
        let (own, twin) = (&self.urls[0], url);
        let same_port = own.port() == twin.port() && own.port() != 0 && own.host() == twin.host();
        same_port && self.urls.len() == 1 && own.is_tls() != twin.is_tls()
    }

    fn serve_both(&mut self, url: &Url, tls: Option<&Arc<Tls>>) {
        self.urls.push(url.clone());
        if let Some(tls) = tls {
            self.security = Security::Either(Arc::clone(tls));
        }
    }
}

/// Options of the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    /// Set SO_REUSEPORT.
    pub reuse_port: bool,
}

/// Binds every URL clients may come to. Nothing is accepted yet. `tls` is needed for those that ask
/// for it.
pub fn bind_all(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Vec<Listener>, BindError> {
    let options = SocketOptions { reuse_port: config.socket_reuse_port };
    let grpc = if config.listen_client_http_urls.is_empty() { Content::All } else { Content::Grpc };
    let mut listeners: Vec<Listener> = Vec::new();
    for (flag, content, urls) in [
        ("listen-client-urls", grpc, &config.listen_client_urls),
        ("listen-client-http-urls", Content::Pages, &config.listen_client_http_urls),
        ("listen-metrics-urls", Content::Metrics, &config.listen_metrics_urls),
    ] {
        for url in urls {
            match listeners.iter_mut().find(|it| it.content == content && it.is_twin_of(url)) {
                Some(twin) => twin.serve_both(url, tls),
                None => listeners.push(bind(flag, content, url, options, tls)?),
            }
        }
    }
    Ok(listeners)
}

fn bind(
    flag: &'static str,
    content: Content,
    url: &Url,
    options: SocketOptions,
    tls: Option<&Arc<Tls>>,
) -> Result<Listener, BindError> {
    let refused = |network, address: String, error: &io::Error| {
        // The operating system's text without Rust's number behind it.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let reason = text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1));
        BindError { flag, url: url.to_string(), network, address, reason: reason.collect() }
    };
    let security = match (url.is_tls(), tls) {
        (false, _) => Security::Plain,
        (true, Some(tls)) => Security::Tls(Arc::clone(tls)),
        (true, None) => {
            let error = io::Error::other("no certificate is given");
            return Err(refused("tcp", url.host().to_owned(), &error));
        }
    };
    let address = url.bind_address().map_err(|e| refused("tcp", url.host().to_owned(), &e))?;
    let listening = match address {
        Address::Tcp(address) => bind_tcp(address, options)
            .map(Listening::Tcp)
            .map_err(|e| refused("tcp", address.to_string(), &e))?,
        Address::Unix(path) => bind_unix(&path)
            .map(|listener| Listening::Unix(listener, SocketFile(path.clone())))
            .map_err(|e| refused("unix", path.display().to_string(), &e))?,
    };
    Ok(Listener { content, urls: vec![url.clone()], listening, security })
}

/// Binds the socket that only whoever may read the data directory can reach.
pub(crate) fn bind_control(path: &Path) -> Result<Listener, BindError> {
    let url = Url::unix(path);
    let listener = bind("data-dir", Content::Control, &url, SocketOptions::default(), None)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(|error| BindError {
        flag: "data-dir",
        url: url.to_string(),
        network: "unix",
        address: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(listener)
}

#[cfg(test)]
pub(crate) fn bind_for_test(content: Content, url: &Url) -> Result<Listener, BindError> {
    bind("listen-client-urls", content, url, SocketOptions::default(), None)
}

/// Binds one TCP address. Like Go, it sets SO_REUSEADDR always, so that a restart need not wait for
/// old connections; so `--socket-reuse-address` finds its wish fulfilled.
pub fn bind_tcp(address: SocketAddr, options: SocketOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        // "[::]" means every address, those of IPv4 too.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket somebody left behind would be in the way for ever. Anything else stays where it is.
    let is_stale = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if is_stale {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn a_port_in_use_is_refused_in_etcds_words() {
        let first = bind_for_test(Content::All, &url("http://127.0.0.1:0")).expect("bound");
        let address = first.tcp_address().expect("an address");
        let second = bind_for_test(Content::All, &url(&format!("http://{address}")));
        assert_eq!(
            second.expect_err("in use").to_string(),
            format!(
                "--listen-client-urls http://{address}: listen tcp {address}: bind: \
                 address already in use"
            )
        );
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let socket = url(&format!("unix://{}", path.display()));
        // Dropped without its name being removed, as by kill -9.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let first = bind_for_test(Content::All, &socket).expect("the stale one is replaced");
        let error = bind_for_test(Content::All, &socket).expect_err("in use").to_string();
        assert!(error.ends_with("bind: address already in use"), "{error}");
        drop(first);
        assert!(!path.exists(), "the name goes with the listener");
        std::fs::write(&path, "precious").expect("written");
        bind_for_test(Content::All, &socket).expect_err("in the way");
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }

    #[test]
    fn every_url_is_bound_for_what_it_serves() {
        let any = |content: &[(&str, &str)]| {
            let mut config = Config::defaults();
            for (flag, text) in content {
                let urls = vec![url(text)];
                match *flag {
                    "client" => config.listen_client_urls = urls,
                    "http" => config.listen_client_http_urls = urls,
                    _ => config.listen_metrics_urls = urls,
                }
            }
            let bound = bind_all(&config, None).expect("bound");
            bound.iter().map(|listener| listener.content).collect::<Vec<_>>()
        };
        let port = "http://127.0.0.1:0";
        let shared = any(&[("client", port), ("metrics", "http://[::1]:0")]);
        assert_eq!(shared, [Content::All, Content::Metrics]);
        let split = any(&[("client", port), ("http", port)]);
        assert_eq!(split, [Content::Grpc, Content::Pages]);
    }
}
