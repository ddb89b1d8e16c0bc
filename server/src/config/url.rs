//! URLs of listeners and members: `http://HOST:PORT`, IPv6 in brackets, or `unix://PATH`.
//!
//! They are compared, sorted and sent to clients as text, so [`Url`] keeps the parts it understands
//! and prints them back in one normal form.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// How to talk over the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

/// One URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    /// Without brackets; the path for Unix sockets.
    host: String,
    /// 0 for Unix sockets.
    port: u16,
}

/// Where to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Url {
    /// Parses one URL. The errors are etcd's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once("://").ok_or_else(bad_scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(bad_scheme()),
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            if rest.is_empty() {
                return Err(format!("URL has no path of a socket: {text}"));
            }
            return Ok(Self { scheme, host: rest.to_owned(), port: 0 });
        }
        let bad_form = || format!(r#"URL address does not have the form "host:port": {text}"#);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(bad_form());
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(bad_form)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(bad_form)?;
                let address = inner.split('%').next().unwrap_or_default();
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(bad_form());
                }
                inner
            }
            None if host.contains([':', '[', ']', ' ']) => return Err(bad_form()),
            None => host,
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad_form());
        }
        let port: u16 = port.parse().map_err(|_| bad_form())?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self { scheme, host: host.to_owned(), port })
    }

    /// That of a Unix socket.
    pub fn unix(path: &std::path::Path) -> Self {
        Self { scheme: Scheme::Unix, host: path.display().to_string(), port: 0 }
    }

    /// Parses a list separated by commas; sorted, without repetitions.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_key(Self::to_string);
        urls.dedup();
        Ok(urls)
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether TLS is asked for.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The host without brackets, or the path of the socket.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 for Unix sockets.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Checks that one can listen here: an address, not a name. Names can mean several addresses, or
    /// others tomorrow.
    pub(super) fn check_bind(&self) -> Result<(), String> {
        let is_bindable = matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
            || self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok();
        if is_bindable { Ok(()) } else { Err(format!("expected IP in URL for binding ({self})")) }
    }

    /// Checks that others can be told to come here.
    pub(super) fn check_advertise(&self) -> Result<(), String> {
        if self.host.is_empty() { Err(format!("unexpected empty host ({self})")) } else { Ok(()) }
    }

    /// The address to bind. `localhost` is the IPv4 loopback where there is one, as in Go.
    pub fn bind_address(&self) -> std::io::Result<Address> {
        if matches!(self.scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Address::Unix(PathBuf::from(&self.host)));
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(Address::Tcp(SocketAddr::new(ip, self.port)));
        }
        let mut addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses
            .first()
            .copied()
            .map(Address::Tcp)
            .ok_or_else(|| std::io::Error::other(format!("{} has no address", self.host)))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let scheme = scheme.as_str();
        match self.scheme {
            Scheme::Unix | Scheme::Unixs => write!(f, "{scheme}://{host}"),
            _ if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}"),
            _ => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// The texts of a list, in its order.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_print_as_they_were_read() {
        for text in [
            "http://localhost:2379",
            "http://127.0.0.1:0",
            "https://example.com:1",
            "http://[::1]:2379",
            "http://[fe80::1%eth0]:2379",
            "unix:///tmp/x.sock",
            "unix://relative.sock",
            "unixs:///tmp/x.sock",
        ] {
            assert_eq!(Url::parse(text).map(|url| url.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Url::parse(" http://a:1 ").map(|url| url.to_string()), Ok("http://a:1".into()));
    }

    #[test]
    fn bad_urls_are_refused_in_etcds_words() {
        let form = |text| format!(r#"URL address does not have the form "host:port": {text}"#);
        for text in [
            "http://127.0.0.1",
            "http://",
            "http://a:b:1",
            "http://[::1:2379",
            "http://[zz]:1",
            "http://::1:2379",
            "http://a:",
            "http://a:+1",
            "http://a:65536",
            "http://user@a:1",
        ] {
            assert_eq!(Url::parse(text), Err(form(text)), "{text}");
        }
        for text in ["", "foo", "ftp://a:1", "localhost:2379"] {
            let expected = format!("URL scheme must be http, https, unix, or unixs: {text}");
            assert_eq!(Url::parse(text), Err(expected));
        }
        for text in ["http://a:1/", "http://a:1/path", "http://a:1?q"] {
            assert_eq!(Url::parse(text), Err(format!("URL must not contain a path: {text}")));
        }
        assert_eq!(Url::parse("unix://"), Err("URL has no path of a socket: unix://".to_owned()));
    }

    #[test]
    fn lists_are_sorted_and_without_repetitions() {
        let urls = Url::parse_list("http://b:1,http://a:1,http://b:1").expect("good list");
        assert_eq!(texts(&urls), ["http://a:1", "http://b:1"]);
        assert!(Url::parse_list("http://b:1,,http://a:1").is_err());
    }

    #[test]
    fn localhost_binds_to_ipv4_and_unix_to_its_path() {
        let address = |text| Url::parse(text).expect("good URL").bind_address().expect("address");
        assert_eq!(
            address("http://localhost:7"),
            Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 7)))
        );
        assert_eq!(address("unix:///a/b"), Address::Unix(PathBuf::from("/a/b")));
    }
}
