//! One member's client address, checked before anything is dialled.

use http::Uri;

use crate::error::{Error, Result};

/// A parsed endpoint: where to dial and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the user wrote it; errors name this.
    pub(crate) text: String,
    /// `http://host:port`, or with https: the start of every request's URI.
    pub(crate) origin: Uri,
    /// TLS is spoken.
    pub(crate) is_tls: bool,
    /// `host:port` for the resolver, brackets around IPv6 kept.
    pub(crate) authority: String,
}

impl Endpoint {
    /// `has_tls`: what is needed for TLS is there. Without a scheme it is then spoken, as etcd's
    /// client does.
    pub(crate) fn parse(text: &str, has_tls: bool) -> Result<Self> {
        let bad = |problem| Error::Endpoint { endpoint: text.to_owned(), problem };
        let (is_tls, rest) = match text.split_once("://") {
            None => (has_tls, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) if has_tls => (true, rest),
            Some(("https", _)) => {
                return Err(bad("https needs a CA to verify the member's certificate with"));
            }
            Some(("unix" | "unixs", _)) => {
                return Err(bad("unix sockets are not supported in this version"));
            }
            Some(_) => return Err(bad("the scheme must be http or https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("only host and port are expected"));
        }
        let scheme = if is_tls { "https" } else { "http" };
        let origin: Uri =
            format!("{scheme}://{rest}").parse().map_err(|_| bad("not a host and port"))?;
        let authority = origin.authority().ok_or_else(|| bad("the host is missing"))?;
        match authority.port_u16() {
            None | Some(0) => return Err(bad("a port number is missing")),
            Some(_) => {}
        }
        if authority.host().is_empty() {
            return Err(bad("the host is missing"));
        }
        let authority = authority.as_str().to_owned();
        Ok(Endpoint { text: text.to_owned(), origin, is_tls, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_and_a_last_slash_may_be_left_out() {
        for text in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://127.0.0.1:2379/"] {
            let endpoint = Endpoint::parse(text, false).unwrap();
            assert_eq!(endpoint.authority, "127.0.0.1:2379");
            assert_eq!(endpoint.text, text);
        }
        assert_eq!(Endpoint::parse("[::1]:2379", false).unwrap().authority, "[::1]:2379");
    }

    #[test]
    fn without_a_scheme_tls_is_spoken_if_it_can_be() {
        for (text, has_tls, is_tls) in [
            ("a:1", false, false),
            ("a:1", true, true),
            ("http://a:1", true, false),
            ("https://a:1", true, true),
        ] {
            assert_eq!(Endpoint::parse(text, has_tls).unwrap().is_tls, is_tls, "{text}");
        }
    }

    #[test]
    fn anything_but_host_and_port_is_refused_by_name() {
        for (text, problem) in [
            ("", "not a host and port"),
            ("localhost", "a port number is missing"),
            ("localhost:", "a port number is missing"),
            ("localhost:0", "a port number is missing"),
            ("localhost:x", "a port number is missing"),
            (":2379", "the host is missing"),
            ("ftp://a:1", "the scheme must be http or https"),
            ("https://a:1", "https needs a CA to verify the member's certificate with"),
            ("http://a:1/v3", "only host and port are expected"),
            ("a b:1", "not a host and port"),
        ] {
            let said = Endpoint::parse(text, false).unwrap_err().to_string();
            assert_eq!(said, format!("endpoint {text:?}: {problem}"));
        }
    }
}
